"""DPUClusters of type kamaji on a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from dpf.clustermanager.kamaji import Settings, controller
from dpf.clustermanager.kamaji.controlplane import wanted_control_plane
from dpf.runtime.conditions import find
from dpf.runtime.errors import Invalid
from dpf.runtime.k8s import ConfigMap, DaemonSet, Event, Node, Pod, Service
from dpf.runtime.meta import Object, ObjectMeta, to_wire
from dpf.runtime.testing import eventually, eventually_gone
from dpf_api.dpucluster import DPUCluster
from dpf_api.kamaji import DataStore, TenantControlPlane
from dpf_api.names import ANNOTATION_NODE_PORT, FINALIZER_CLUSTER_MANAGER
from test.integration.clustermanager.conftest import VERSION, World
from test.integration.conftest import DATA_STORE
from test.spec import spec


def endpoint(namespace: str, vip: str = "192.0.2.10") -> dict[str, Any]:
    """A virtual IP on nodes of this test alone."""
    selector = {"test": namespace}
    return {"keepalived": {"vip": vip, "virtualRouterID": 7, "interface": "eth0", "nodeSelector": selector}}


def message(cluster: DPUCluster, kind: str) -> str:
    """What the cluster's condition of that type says."""
    found = find(cluster.status.conditions, kind)
    return found.message if found is not None else ""


async def test_a_cluster_is_made_in_one_go_and_its_kubeconfig_is_named_before_it_is_created(world: World) -> None:
    async with world.manager():
        cluster = await world.create()
        control_plane = await world.eventually(TenantControlPlane)
        service = await world.eventually(Service)
        port = service.spec.ports[0].node_port
        assert port
        assert control_plane.spec.network_profile.port == port
        assert control_plane.spec.kubernetes.version == VERSION
        assert control_plane.spec.control_plane.deployment.replicas == 3
        for obj in (control_plane, service):
            (owner,) = obj.metadata.owner_references
            assert (owner.uid, owner.controller) == (cluster.uid, False)
        waiting = await world.says("Created", "EndpointMissing")
        assert "spec.clusterEndpoint.keepalived" in waiting.message
        await world.serve()
        await world.says("Created", "Created")
        found = await world.host.get(DPUCluster, "c", world.namespace)
        assert found.spec.kubeconfig == "c-admin-kubeconfig"
        assert found.metadata.finalizers == []
        # Kamaji has made the port of the Service the node port; the manager says the same and both leave it at that.
        settled = await world.eventually(Service, until=lambda s: ANNOTATION_NODE_PORT in s.annotations)
        assert [(p.port, p.target_port, p.node_port) for p in settled.spec.ports] == [(port, port, port)]
        assert len(settled.metadata.owner_references) == 2


async def test_kamajis_own_schema_knows_all_that_is_written(world: World) -> None:
    cluster = await world.create(clusterEndpoint=endpoint(world.namespace))
    body = to_wire(wanted_control_plane(cluster, 31000, Settings()))
    strict = {"dryRun": "All", "fieldValidation": "Strict"}
    answer = await world.host.request(
        "POST", TenantControlPlane.RESOURCE.path(world.namespace), params=strict, body=body
    )
    stored = orjson.loads(answer)["spec"]

    def part(written: Any, kept: Any) -> Any:
        """What of the second is in the first."""
        if not isinstance(written, dict):
            return kept
        return {key: part(value, kept[key]) for key, value in written.items() if key in kept}

    assert part(body["spec"], stored) == body["spec"]


async def test_what_is_changed_by_hand_comes_back_and_what_is_added_stays(world: World) -> None:
    async with world.manager():
        await world.create(clusterEndpoint=endpoint(world.namespace))
        control_plane = await world.serve()
        port = control_plane.spec.network_profile.port
        await world.says("Created", "Created")
        deployment = {"replicas": 1, "serviceAccountName": "own"}
        edits: list[tuple[type[Object], str, dict[str, Any]]] = [
            (TenantControlPlane, "c", {"spec": {"controlPlane": {"deployment": deployment}}}),
            (TenantControlPlane, "c", {"spec": {"networkProfile": {"port": 31999, "address": "203.0.113.1"}}}),
            (Service, "c", {"spec": {"ports": [{"name": "kube-apiserver", "port": 7777, "nodePort": port}]}}),
            (Service, "c", {"metadata": {"labels": {"dpu.nvidia.com/cluster": None}, "ownerReferences": None}}),
            (ConfigMap, "c-keepalived", {"data": {"keepalived.conf.tmpl": "nonsense"}}),
            (DaemonSet, "c-keepalived", {"metadata": {"labels": {"dpu.nvidia.com/cluster": None}}}),
            (DaemonSet, "c-keepalived", {"spec": {"template": {"spec": {"hostNetwork": False}}}}),
        ]
        for kind, name, patch in edits:
            await world.host.merge_patch(kind(metadata=ObjectMeta(name=name, namespace=world.namespace)), patch)
        back = await world.eventually(
            TenantControlPlane,
            until=lambda t: (t.spec.control_plane.deployment.replicas, t.spec.network_profile.port) == (3, port),
        )
        assert back.spec.network_profile.address == "192.0.2.10"
        raw = await world.host.request("GET", TenantControlPlane.RESOURCE.path(world.namespace, "c"))
        assert b'"serviceAccountName":"own"' in raw
        service = await world.eventually(
            Service, until=lambda s: "dpu.nvidia.com/cluster" in s.labels and bool(s.metadata.owner_references)
        )
        assert [(p.port, p.node_port) for p in service.spec.ports] == [(port, port)]
        await world.eventually(
            ConfigMap, "c-keepalived", until=lambda c: "vrrp_instance" in c.data["keepalived.conf.tmpl"]
        )
        await world.eventually(
            DaemonSet,
            "c-keepalived",
            until=lambda d: (
                "dpu.nvidia.com/cluster" in d.labels and d.spec["template"]["spec"].get("hostNetwork", False)
            ),
        )


@pytest.mark.parametrize("kind", [Service, TenantControlPlane])
async def test_the_port_outlives_each_of_the_two_objects_that_know_it(world: World, kind: type[Object]) -> None:
    async with world.manager():
        await world.create()
        port = (await world.serve()).spec.network_profile.port
        await world.eventually(Service, until=lambda s: ANNOTATION_NODE_PORT in s.annotations)
        lost = await world.host.get(kind, "c", world.namespace)
        await world.host.delete(lost)
        await world.eventually(kind, until=lambda obj: obj.uid != lost.uid)
        service = await world.eventually(Service, until=lambda s: ANNOTATION_NODE_PORT in s.annotations)
        assert [p.node_port for p in service.spec.ports] == [port]
        assert (await world.eventually(TenantControlPlane)).spec.network_profile.port == port


@pytest.mark.timeout(300)
async def test_a_user_may_choose_the_port_and_is_told_if_it_is_taken(world: World) -> None:
    async with world.manager():
        # Any two tests might choose the same, so it is one that the server has given to another cluster.
        await world.create("first")
        taken = (await world.eventually(Service, "first")).spec.ports[0].node_port
        await world.create(annotations={ANNOTATION_NODE_PORT: str(taken)})
        refused = await world.says("Created", "Refused")
        assert refused.status == "False"
        assert f"{taken}" in refused.message
        await world.host.delete(await world.host.get(DPUCluster, "first", world.namespace))
        await eventually_gone(world.host, DPUCluster, "first", world.namespace)
        # The garbage collector would do it, some time.
        await world.host.delete(Service(metadata=ObjectMeta(name="first", namespace=world.namespace)))
        await world.host.merge_patch(await world.host.get(DPUCluster, "c", world.namespace), {"spec": {"maxNodes": 7}})
        # The cluster that is gone may have had its Service once more, for a moment: what was refused is tried again each minute.
        service = await world.eventually(Service, timeout=200.0)
        assert service.spec.ports[0].node_port == taken


async def test_an_upgrade_goes_to_kamaji_and_the_cluster_stays_created_meanwhile(world: World) -> None:
    async with world.manager():
        cluster = await world.create()
        await world.serve()
        await world.says("Created", "Created")
        await world.host.merge_patch(cluster, {"spec": {"version": "v1.31.1"}})
        await world.eventually(TenantControlPlane, until=lambda t: t.spec.kubernetes.version == "v1.31.1")
        await world.serve(status="Upgrading", version=VERSION)
        upgrading = await world.says("Created", "Upgrading")
        assert upgrading.status == "True"
        assert f"from {VERSION} to v1.31.1" in upgrading.message
        await world.serve()
        await world.says("Created", "Created")


async def test_a_control_plane_that_kamaji_finds_not_ready_is_not_created(world: World) -> None:
    async with world.manager():
        await world.create(clusterEndpoint=endpoint(world.namespace))
        await world.serve(status="Provisioning", version="")
        await world.eventually(DPUCluster, until=lambda c: "it is Provisioning" in message(c, "Created"))
        await world.serve()
        await world.says("Created", "Created")
        await world.serve(status="NotReady")
        found = await world.says("Created", "ClusterNotReady")
        assert found.status == "False"


async def forbid_version(world: World, version: str) -> None:
    """What Kamaji's webhook does: it refuses a version."""
    name = f"no-{version}-{world.namespace}".replace(".", "-")
    rule = {
        "apiGroups": ["kamaji.clastix.io"],
        "apiVersions": ["*"],
        "operations": ["UPDATE"],
        "resources": ["tenantcontrolplanes"],
    }
    policy = {
        "matchConstraints": {
            "resourceRules": [rule],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}},
        },
        "validations": [
            {"expression": f"object.spec.kubernetes.version != '{version}'", "message": "unable to downgrade"}
        ],
    }
    root = "/apis/admissionregistration.k8s.io/v1"
    await world.host.request(
        "POST", f"{root}/validatingadmissionpolicies", body={"metadata": {"name": name}, "spec": policy}
    )
    binding = {"metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]}}
    await world.host.request("POST", f"{root}/validatingadmissionpolicybindings", body=binding)


async def test_a_change_that_kamaji_refuses_is_told_and_leaves_the_cluster_in_service(world: World) -> None:
    await forbid_version(world, "v1.29.0")
    async with world.manager():
        cluster = await world.create()
        control_plane = await world.serve()
        await world.says("Created", "Created")
        async with asyncio.timeout(30):
            while True:  # nothing tells when the policy is in force
                try:
                    patch = {"spec": {"kubernetes": {"version": "v1.29.0"}}}
                    await world.host.request(
                        "PATCH",
                        TenantControlPlane.RESOURCE.path(world.namespace, control_plane.name),
                        params={"dryRun": "All"},
                        body=patch,
                        content_type="application/merge-patch+json",
                    )
                except Invalid:
                    break
        await world.host.merge_patch(cluster, {"spec": {"version": "v1.29.0"}})
        refused = await world.says("Created", "Refused")
        assert refused.status == "True"
        assert "unable to downgrade" in refused.message
        await world.host.merge_patch(cluster, {"spec": {"version": VERSION}})
        await world.says("Created", "Created")


async def test_a_control_plane_that_does_not_come_up_is_overdue_told_once_and_waited_for(world: World) -> None:
    async with world.manager(Settings(control_plane_timeout=1.0)):
        await world.create(clusterEndpoint=endpoint(world.namespace))
        overdue = await world.says("Created", "ControlPlaneOverdue")
        assert overdue.status == "False"
        assert "It takes longer than 1s: look at what its status says" in overdue.message
        assert f"kubectl describe tenantcontrolplane c -n {world.namespace}" in overdue.message
    # Another manager finds it said already.
    async with world.manager(Settings(control_plane_timeout=1.0)):
        control_plane = await world.eventually(TenantControlPlane)
        provisioning = {"status": {"kubernetesResources": {"version": {"status": "Provisioning"}}}}
        await world.host.merge_patch(control_plane, provisioning, subresource="status")
        await world.eventually(DPUCluster, until=lambda c: "it is Provisioning" in message(c, "Created"))
        await world.serve()
        await world.says("Created", "Created")
        told = [event async for event in events_until(world, "Created")]
    assert [(event.type, event.reason) for event in told if event.reason == "ControlPlaneOverdue"] == [
        ("Warning", "ControlPlaneOverdue")
    ]
    assert all((event.series.count if event.series is not None else 1) == 1 for event in told)


async def events_until(world: World, reason: str) -> AsyncIterator[Event]:
    """Events on the cluster up to the first of that reason."""
    async for _, event in world.host.watch(Event, world.namespace):
        if event.regarding.name == "c":
            yield event
            if event.reason == reason:
                return


@pytest.mark.timeout(400)
async def test_deletion_leaves_nothing(world: World) -> None:
    async with world.manager():
        cluster = await world.create(clusterEndpoint=endpoint(world.namespace))
        await world.serve()
        await world.eventually(DaemonSet, "c-keepalived")
        await world.host.delete(cluster)
        mine: list[tuple[type[Object], str]] = [(TenantControlPlane, "c"), (Service, "c")]
        mine += [(DaemonSet, "c-keepalived"), (ConfigMap, "c-keepalived")]
        for kind, name in mine:
            # The garbage collector takes half a minute to learn of new kinds.
            await eventually_gone(world.host, kind, name, world.namespace, timeout=90.0)


async def test_the_virtual_ip_is_held_by_pods_of_fitting_nodes_and_goes_when_it_is_not_asked_for(world: World) -> None:
    async with world.manager():
        cluster = await world.create(clusterEndpoint=endpoint(world.namespace))
        control_plane = await world.serve()
        port = control_plane.spec.network_profile.port
        assert control_plane.spec.network_profile.address == "192.0.2.10"
        template = (await world.eventually(ConfigMap, "c-keepalived")).data["keepalived.conf.tmpl"]
        assert f"https://@NODE@:{port}" in template
        nobody = await world.says("KeepalivedReady", "NoNodeFits")
        assert nobody.status == "False"
        assert f"node-role.kubernetes.io/control-plane and test={world.namespace}" in nobody.message
        labels = {"node-role.kubernetes.io/control-plane": "", "test": world.namespace}
        node = await world.host.create(Node(metadata=ObjectMeta(name=f"cp-{world.namespace}", labels=labels)))
        conditions = [{"type": "Ready", "status": "True"}]
        await world.host.merge_patch(node, {"status": {"conditions": conditions}}, subresource="status")
        await world.host.merge_patch(node, {"spec": {"taints": None}})
        waiting = await world.says("KeepalivedReady", "PodsStarting")
        assert "none of 1 pods is ready" in waiting.message
        pods = await world.host.list(Pod, world.namespace, labels="app.kubernetes.io/name=c-keepalived")
        (pod,) = pods
        assert pod.spec.host_network
        pull: dict[str, Any] = {"name": "keepalived", "image": "i", "imageID": "", "ready": False, "restartCount": 0}
        pull["state"] = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
        await world.host.merge_patch(pod, {"status": {"containerStatuses": [pull]}}, subresource="status")
        stuck = await world.eventually(DPUCluster, until=lambda c: "ImagePullBackOff" in message(c, "KeepalivedReady"))
        assert pod.name in message(stuck, "KeepalivedReady")
        assert (await world.says("KeepalivedReady", "NoPodReady")).status == "False"
        status = {"phase": "Running", "conditions": conditions, "containerStatuses": []}
        await world.host.merge_patch(pod, {"status": status}, subresource="status")
        assert (await world.says("KeepalivedReady", "Deployed")).status == "True"
        await world.host.merge_patch(cluster, {"spec": {"clusterEndpoint": None}})
        await world.eventually(DPUCluster, until=lambda c: find(c.status.conditions, "KeepalivedReady") is None)
        await eventually_gone(world.host, DaemonSet, "c-keepalived", world.namespace)
        await eventually_gone(world.host, ConfigMap, "c-keepalived", world.namespace)
        await world.eventually(TenantControlPlane, until=lambda t: t.spec.network_profile.address == "")
        await world.host.delete(node)


async def test_a_virtual_ip_of_which_its_maker_did_not_live_to_tell_goes_as_well(world: World) -> None:
    async with world.manager():
        cluster = await world.create(clusterEndpoint=endpoint(world.namespace))
        await world.serve()
        await world.says("KeepalivedReady", "NoNodeFits")
    told = await world.host.get(DPUCluster, "c", world.namespace)
    untold = [each for each in told.status.conditions if each.type != "KeepalivedReady"]
    await world.host.status(told).set(told.status.model_copy(update={"conditions": untold}))
    await world.host.merge_patch(cluster, {"spec": {"clusterEndpoint": None}})
    async with world.manager():
        for kind in (DaemonSet, ConfigMap):
            await eventually_gone(world.host, kind, "c-keepalived", world.namespace)


@spec("provisioning:98")
async def test_clusters_of_other_types_are_left_alone(world: World) -> None:
    async with world.manager():
        await world.create("theirs", type="other.io/x")
        await world.create()
        await world.says("Created", "EndpointMissing")
        theirs = await world.host.get(DPUCluster, "theirs", world.namespace)
        assert theirs.status.conditions == []
        assert [s.name for s in await world.host.list(Service, world.namespace)] == ["c"]


async def test_a_finalizer_of_an_earlier_manager_is_taken_off(world: World) -> None:
    async with world.manager():
        cluster = await world.create()
        await world.host.merge_patch(cluster, {"metadata": {"finalizers": [FINALIZER_CLUSTER_MANAGER]}})
        await world.eventually(DPUCluster, until=lambda c: c.metadata.finalizers == [])


async def test_what_v24_10_left_is_taken_over_with_its_port(world: World) -> None:
    ports = [{"name": "kube-apiserver", "port": 6443, "protocol": "TCP"}]
    old = {"type": "NodePort", "selector": {"kamaji.clastix.io/name": "c"}, "ports": ports}
    meta = {"name": "c", "namespace": world.namespace}
    service = await world.host.create(Service.model_validate({"metadata": meta, "spec": old}))
    async with world.manager():
        cluster = await world.create()
        taken = await world.eventually(Service, until=lambda s: bool(s.metadata.owner_references))
        assert taken.metadata.owner_references[0].uid == cluster.uid
        port = service.spec.ports[0].node_port
        assert (await world.eventually(TenantControlPlane)).spec.network_profile.port == port


async def test_an_object_of_somebody_else_is_named_and_left_alone_and_that_it_is_gone_is_seen(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "IN_THE_WAY_AGAIN", 0.2)
    meta = {"name": "c", "namespace": world.namespace}
    theirs = {"selector": {"app": "theirs"}, "ports": [{"port": 80}]}
    service = await world.host.create(Service.model_validate({"metadata": meta, "spec": theirs}))
    async with world.manager():
        await world.create()
        assert "Service c" in (await world.says("Created", "NameTaken")).message
        assert (
            await world.host.get(Service, "c", world.namespace)
        ).metadata.resource_version == service.metadata.resource_version
        await world.host.delete(service)
        await world.says("Created", "EndpointMissing")


async def test_somebody_elses_object_survives_a_virtual_ip_that_is_not_asked_for_any_more(world: World) -> None:
    meta = ObjectMeta(name="c-keepalived", namespace=world.namespace)
    theirs = await world.host.create(ConfigMap(metadata=meta, data={"theirs": "1"}))
    async with world.manager():
        cluster = await world.create(clusterEndpoint=endpoint(world.namespace))
        assert "ConfigMap c-keepalived" in (await world.says("KeepalivedReady", "NameTaken")).message
        await world.host.merge_patch(cluster, {"spec": {"clusterEndpoint": None}})
        await world.eventually(DPUCluster, until=lambda c: find(c.status.conditions, "KeepalivedReady") is None)
        assert (await world.host.get(ConfigMap, meta.name, world.namespace)).uid == theirs.uid


@pytest.mark.timeout(400)
async def test_a_cluster_made_anew_waits_for_what_is_left_of_the_one_before(world: World) -> None:
    async with world.manager():
        cluster = await world.create()
        control_plane = await world.serve()
        await world.host.merge_patch(control_plane, {"metadata": {"finalizers": ["dpf.example/slow"]}})
        await world.host.delete(cluster)
        await eventually_gone(world.host, DPUCluster, "c", world.namespace)
        await world.create()
        assert "earlier" in (await world.says("Created", "EarlierClusterLeaving")).message
        await eventually(world.host, TenantControlPlane, "c", world.namespace, until=lambda t: t.deleting, timeout=90.0)
        await world.host.merge_patch(control_plane, {"metadata": {"finalizers": None}})
        made = await world.eventually(TenantControlPlane, until=lambda t: t.uid != control_plane.uid, timeout=90.0)
        assert made.status.version.version == ""


async def test_a_data_store_that_is_missing_is_named_and_found_when_it_comes(world: World) -> None:
    name = f"store-{world.namespace}"
    async with world.manager(Settings(data_store=name)):
        await world.create(clusterEndpoint=endpoint(world.namespace))
        assert name in (await world.says("Created", "DataStoreMissing")).message
        await world.host.create(DataStore(metadata=ObjectMeta(name=name), spec=DATA_STORE))
        await world.says("Created", "ClusterNotReady")


@pytest.mark.parametrize(
    ("name", "spec_", "reason"),
    [
        ("c", {"version": ""}, "InvalidVersion"),
        ("1c", {}, "InvalidName"),
        ("c" * 60, {"clusterEndpoint": endpoint("x")}, "InvalidName"),
        ("c", {"clusterEndpoint": endpoint("x", vip="10.0.0")}, "InvalidEndpoint"),
    ],
)
async def test_what_kamaji_or_keepalived_would_not_take_is_told(
    world: World, name: str, spec_: dict[str, Any], reason: str
) -> None:
    async with world.manager():
        await world.create(name, **spec_)
        assert (await world.says("Created", reason, name)).message
        assert await world.host.list(Service, world.namespace) == []


async def test_two_managers_at_once_make_one_cluster(world: World) -> None:
    async with world.manager(), world.manager():
        await world.create(clusterEndpoint=endpoint(world.namespace))
        await world.serve()
        await world.says("Created", "Created")
        await world.says("KeepalivedReady", "NoNodeFits")
        control_plane = await world.host.get(TenantControlPlane, "c", world.namespace)
        services = await world.host.list(Service, world.namespace)
        assert [s.spec.ports[0].node_port for s in services] == [control_plane.spec.network_profile.port]


@pytest.mark.parametrize("after", range(1, 7))
async def test_a_manager_that_dies_after_any_of_its_writes_is_followed_by_one_that_finishes(
    world: World, after: int
) -> None:
    async with world.manager(dies_after=after):
        await world.create(clusterEndpoint=endpoint(world.namespace))
        await world.dead.wait()
    async with world.manager():
        await world.serve()
        await world.says("Created", "Created")
        await world.says("KeepalivedReady", "NoNodeFits")
        found = await world.host.get(DPUCluster, "c", world.namespace)
        assert found.spec.kubeconfig == "c-admin-kubeconfig"
