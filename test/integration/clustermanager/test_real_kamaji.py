"""What Kamaji itself makes of our clusters, and of how they end.

Kamaji, its webhooks and its etcd are real; so are the API server and the controller-manager that it asks for, which run as
processes of this machine. The test plays the Deployment controller, and the network by which a pod is reached.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dpf.clustermanager.kamaji import Settings
from dpf.runtime.client import Client
from dpf.runtime.k8s import ConfigMap, DaemonSet, Namespace, Secret, Service
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import ObjectMeta
from dpf.runtime.testing import RETRY, eventually, eventually_gone
from dpf_api.dpucluster import DPUCluster, Phase
from dpf_api.kamaji import DataStore, TenantControlPlane
from dpf_api.names import ANNOTATION_NODE_PORT, LABEL_CLUSTER, LABEL_TENANT
from test.integration.clustermanager.conftest import VERSION, World
from test.integration.clustermanager.realkamaji import (
    ClusterRoleBinding,
    Deployment,
    RealKamaji,
    free_node_port,
    real_kamaji,
)
from test.integration.conftest import Planes
from test.integration.provisioning.conftest import FakeDms
from test.integration.provisioning.conftest import World as Provisioning

pytestmark = [
    pytest.mark.xdist_group("kamaji"),  # it has one port for its webhooks
    pytest.mark.timeout(300),
]

EARLIER = "v1.30.1"
"""A version from which there is a way to :data:`VERSION`, the latest that this Kamaji makes."""
LOCAL = {"spec": {"networkProfile": {"address": "127.0.0.1"}}}


@pytest.fixture(scope="module")
async def real(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RealKamaji]:
    async with real_kamaji(tmp_path_factory.mktemp("kamaji")) as found:
        yield found


@pytest.fixture
async def tenant(real: RealKamaji) -> World:
    """A namespace of Kamaji's cluster that is this test's own."""
    name = f"tenant-{uuid.uuid4().hex[:10]}"
    await real.host.create(Namespace(metadata=ObjectMeta(name=name)))
    return World(real.host, real.planes.host.admin_kubeconfig, name)


def labels_of_kamaji(component: str) -> dict[str, str]:
    prefix = "kamaji.clastix.io"
    return {f"{prefix}/project": "kamaji", f"{prefix}/name": "c", f"{prefix}/component": component}


async def test_a_cluster_is_made_upgraded_joined_and_gone_without_a_trace(real: RealKamaji, tenant: World) -> None:
    planes = Planes(real.folder / "planes")
    provisioning = Provisioning(real.host, real.host, planes, tenant.namespace, FakeDms())
    port = free_node_port()
    async with tenant.manager(), provisioning.manager():
        meta = {"name": "c", "namespace": tenant.namespace, "annotations": {ANNOTATION_NODE_PORT: str(port)}}
        wanted = {"metadata": meta, "spec": {"type": "kamaji", "version": EARLIER}}
        cluster = await real.host.create(DPUCluster.model_validate(wanted))
        await tenant.says("Created", "EndpointMissing")
        await real.host.merge_patch(await tenant.eventually(TenantControlPlane), LOCAL)

        deployment = await tenant.eventually(Deployment)
        check_pods(deployment, EARLIER)
        control_plane = await tenant.eventually(
            TenantControlPlane, until=lambda each: each.status.version.status == "Provisioning"
        )
        assert control_plane.metadata.finalizers == ["finalizer.kamaji.clastix.io"]
        assert control_plane.status.kubeconfig.admin.secret_name == "c-admin-kubeconfig"
        assert control_plane.status.control_plane_endpoint == f"127.0.0.1:{port}"
        assert control_plane.status.storage.data_store_name == "default"
        service = await tenant.eventually(Service, until=lambda each: each.controller is not None)
        check_service(service, cluster, control_plane, port)
        waiting = "waiting for TenantControlPlane c to be Ready; it is Provisioning"
        await tenant.eventually(DPUCluster, until=lambda each: message(each, "ClusterNotReady") == waiting)

        async with real.pods(deployment) as inside:
            await tenant.says("Created", "Created")
            ready = await tenant.eventually(DPUCluster, until=lambda each: each.status.phase is Phase.READY, timeout=90)
            assert ready.spec.kubeconfig == "c-admin-kubeconfig"
            assert ready.status.endpoint == f"https://127.0.0.1:{port}"
            # What cards need to join, by which Kamaji completes a cluster once it serves.
            await eventually(inside, ConfigMap, "cluster-info", "kube-public")
            for name in ("kubeadm-config", "kubelet-config"):
                await eventually(inside, ConfigMap, name, "kube-system")
            await eventually(inside, Deployment, "coredns", "kube-system")
            await eventually(inside, DaemonSet, "kube-proxy", "kube-system")

            await real.host.merge_patch(cluster, {"spec": {"version": VERSION}})
            await tenant.says("Created", "Upgrading")
            deployment = await tenant.eventually(Deployment, until=lambda each: VERSION in str(each.spec))
            check_pods(deployment, VERSION)
            await real.rolled_out(deployment)
            await tenant.says("Created", "Created")

            for version, refusal in (("v1.31.0", "greater than the supported one"), (EARLIER, "unable to downgrade")):
                await real.host.merge_patch(cluster, {"spec": {"version": version}})
                refused = await tenant.eventually(
                    DPUCluster, until=lambda each, words=refusal: words in str(each.status)
                )
                assert refused.status.phase is Phase.READY
            # The two managers of the Service have come to rest: each change of one would have been undone by the other.
            settled = await real.host.get(Service, "c", tenant.namespace)
            check_service(settled, cluster, control_plane, port)
            rounds = [line for line in real.log_of(tenant.namespace) if "service has been configured" in line]
            assert len(rounds) < 10

        # Those of other tests, and of other tries of this one, may be there too.
        user = f"{tenant.namespace.replace('-', '_')}_c"
        assert user in await real.store.users()
        assert await real.store.keys(f"/{user}/") > 0
        await real.host.delete(cluster)
        await eventually_gone(real.host, DPUCluster, "c", tenant.namespace)
        for made in (TenantControlPlane, Service, Deployment):
            await eventually_gone(real.host, made, "c", tenant.namespace, timeout=90.0)
        for secret in await real.host.list(Secret, tenant.namespace):
            if secret.name != "c-datastore-config":
                await eventually_gone(real.host, Secret, secret.name, tenant.namespace, timeout=90.0)
        await mend_what_kamaji_left(real, tenant)
        assert user not in await real.store.users()
        assert await real.store.keys(f"/{user}/") == 0


async def mend_what_kamaji_left(real: RealKamaji, tenant: World) -> None:
    """Takes a finalizer off by hand if need be, as docs/user-guide/delete.md says.

    When a TenantControlPlane has gone, Kamaji takes its finalizer off the Secret of the data store once. If the garbage
    collector was faster with that Secret, what Kamaji writes is a conflict, and is not tried again.
    """
    name, conflict = "c-datastore-config", "cannot remove DataStore Secret finalizers"
    async with asyncio.timeout(90):
        while found := [each for each in await real.host.list(Secret, tenant.namespace) if each.name == name]:
            if any(conflict in line for line in real.log_of(tenant.namespace)):
                await eventually(real.host, Secret, name, tenant.namespace, until=lambda each: each.deleting)
                assert found[0].metadata.finalizers == ["finalizer.kamaji.clastix.io/datastore-secret"]
                await real.host.merge_patch(found[0], {"metadata": {"finalizers": None}})
            else:
                await asyncio.sleep(RETRY)


def check_pods(deployment: Deployment, version: str) -> None:
    """The pods are those that our TenantControlPlane asks for."""
    pod: dict[str, Any] = deployment.spec["template"]["spec"]
    programs = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
    images = {name: container["image"] for name, container in deployment.containers.items()}
    assert images == {name: f"registry.k8s.io/{name}:{version}" for name in programs}
    assert deployment.spec["replicas"] == 3
    assert deployment.labels == {**labels_of_kamaji("deployment"), LABEL_TENANT: "c"}
    requests = {name: container["resources"]["requests"]["cpu"] for name, container in deployment.containers.items()}
    assert requests == dict(zip(programs, ("250m", "125m", "125m"), strict=True))
    assert [each["key"] for each in pod["tolerations"]] == [
        "node-role.kubernetes.io/master",
        "node-role.kubernetes.io/control-plane",
    ]
    required = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert len(required["nodeSelectorTerms"]) == 2


def check_service(service: Service, cluster: DPUCluster, control_plane: TenantControlPlane, port: int) -> None:
    """The Service is ours, and Kamaji has done to it what the stand-in does."""
    assert [(each.port, each.target_port, each.node_port) for each in service.spec.ports] == [(port, port, port)]
    assert service.labels == {**labels_of_kamaji("service"), LABEL_CLUSTER: "c", LABEL_TENANT: "c"}
    assert service.annotations[ANNOTATION_NODE_PORT] == str(port)
    owners = {(owner.uid, bool(owner.controller)) for owner in service.metadata.owner_references}
    assert owners == {(cluster.uid, False), (control_plane.uid, True)}


async def test_a_version_that_kamaji_does_not_make_is_refused_in_its_words(tenant: World) -> None:
    async with tenant.manager():
        cluster = await tenant.create(version="v1.31.0")
        refused = await tenant.says("Created", "Refused")
        assert refused.status == "False"
        assert "actually 1.30.2" in refused.message
        await tenant.host.merge_patch(cluster, {"spec": {"version": VERSION}})
        await tenant.says("Created", "EndpointMissing")


async def test_a_data_store_that_is_missing_is_named_and_found_when_it_comes(real: RealKamaji, tenant: World) -> None:
    name = f"store-{tenant.namespace}"
    async with tenant.manager(Settings(data_store=name)):
        await tenant.create()
        assert name in (await tenant.says("Created", "DataStoreMissing")).message
        store = {**real.store.data_store(), "metadata": {"name": name}}
        await real.host.request("POST", DataStore.RESOURCE.path(), body=store)
        await tenant.says("Created", "EndpointMissing")


def message(cluster: DPUCluster, reason: str) -> str:
    """What the cluster's condition of that reason says; empty if it has none."""
    return next((each.message for each in cluster.status.conditions if each.reason == reason), "")


async def test_a_cluster_that_does_not_come_up_is_overdue_and_goes_as_well(real: RealKamaji, tenant: World) -> None:
    async with tenant.manager(Settings(control_plane_timeout=2.0)):
        cluster = await tenant.create()
        await real.host.merge_patch(await tenant.eventually(TenantControlPlane), LOCAL)
        # Until Kamaji has written a status, it is late in looking.
        late = "it is Provisioning. It takes longer than 2s"
        await tenant.eventually(DPUCluster, until=lambda each: late in message(each, "ControlPlaneOverdue"))
        assert await real.host.list(Deployment, tenant.namespace) != []
        await real.host.delete(cluster)
        for kind in (TenantControlPlane, Service, Deployment):
            await eventually_gone(real.host, kind, "c", tenant.namespace, timeout=90.0)


async def test_the_administrator_that_we_read_may_do_what_is_done_with_him(real: RealKamaji, tenant: World) -> None:
    async with tenant.manager():
        await tenant.create(annotations={ANNOTATION_NODE_PORT: str(free_node_port())})
        await real.host.merge_patch(await tenant.eventually(TenantControlPlane), LOCAL)
        async with real.pods(await tenant.eventually(Deployment)) as inside:
            await tenant.says("Created", "Created")
            secret = await real.host.get(Secret, "c-admin-kubeconfig", tenant.namespace)
            await eventually(inside, ClusterRoleBinding, "kubeadm:cluster-admins")
            async with Client(Kubeconfig.parse(secret.text("admin.conf")), field_owner="test") as admin:
                await admin.create(ConfigMap(metadata=ObjectMeta(name="a", namespace="default")))
