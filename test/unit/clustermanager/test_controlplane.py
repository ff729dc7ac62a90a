"""What a cluster's control plane should be, and which port it has."""

from __future__ import annotations

import pytest

from dpf.clustermanager.kamaji.controlplane import (
    port_of,
    ports_in_the_way,
    require_name_and_version,
    wanted_control_plane,
    wanted_service,
)
from dpf.clustermanager.kamaji.placement import claim, clusters_of
from dpf.clustermanager.kamaji.settings import Settings
from dpf.clustermanager.kamaji.waits import Kept
from dpf.runtime.errors import Waiting
from dpf.runtime.k8s import Service
from dpf.runtime.meta import Key, ObjectMeta, OwnerReference, now, to_wire
from dpf_api.kamaji import TenantControlPlane
from dpf_api.names import ANNOTATION_NODE_PORT, LABEL_CLUSTER
from test.unit.clustermanager.clusters import cluster, with_vip

OWNER = {
    "apiVersion": "provisioning.dpu.nvidia.com/v1alpha1",
    "kind": "DPUCluster",
    "name": "c",
    "uid": "uid-1",
    "controller": False,
    "blockOwnerDeletion": False,
}
LABELS = {"dpu.nvidia.com/cluster": "c", "tenant.clastix.io": "c"}
ROLES = ["node-role.kubernetes.io/master", "node-role.kubernetes.io/control-plane"]


def service(*, recorded: str = "", node_port: int = 0, port: int = 6443, name: str = "kube-apiserver") -> Service:
    annotations = {ANNOTATION_NODE_PORT: recorded} if recorded else {}
    spec = {"ports": [{"name": name, "port": port, "nodePort": node_port}]}
    return Service.model_validate({"metadata": {"name": "c", "annotations": annotations}, "spec": spec})


def control_plane(port: int) -> TenantControlPlane:
    return TenantControlPlane.model_validate({"metadata": {"name": "c"}, "spec": {"networkProfile": {"port": port}}})


def test_a_service_asks_for_a_node_port_and_then_says_what_kamaji_makes_of_it() -> None:
    first = to_wire(wanted_service(cluster(), 0))
    assert first["metadata"] == {"name": "c", "namespace": "n", "labels": LABELS, "ownerReferences": [OWNER]}
    assert first["spec"] == {
        "type": "NodePort",
        "selector": {"kamaji.clastix.io/name": "c"},
        "ports": [{"name": "kube-apiserver", "protocol": "TCP", "port": 6443}],
    }
    then = to_wire(wanted_service(cluster(), 31000))
    assert then["spec"]["ports"] == [
        {"name": "kube-apiserver", "protocol": "TCP", "port": 31000, "targetPort": 31000, "nodePort": 31000}
    ]
    assert then["metadata"]["annotations"] == {ANNOTATION_NODE_PORT: "31000"}


def test_a_control_plane_is_what_v24_10_made_but_for_the_labels_that_its_service_keeps() -> None:
    wire = to_wire(wanted_control_plane(with_vip(), 31000, Settings()))
    assert wire["metadata"] == {"name": "c", "namespace": "n", "labels": LABELS, "ownerReferences": [OWNER]}
    tenant = {"labels": {"tenant.clastix.io": "c"}}
    terms = [{"matchExpressions": [{"key": role, "operator": "Exists"}]} for role in ROLES]
    small = {"requests": {"cpu": "125m", "memory": "256Mi"}}
    assert wire["spec"] == {
        "dataStore": "default",
        "controlPlane": {
            "deployment": {
                "replicas": 3,
                "affinity": {
                    "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
                },
                "tolerations": [{"key": role, "operator": "Exists", "effect": "NoSchedule"} for role in ROLES],
                "additionalMetadata": tenant,
                "resources": {
                    "apiServer": {"requests": {"cpu": "250m", "memory": "512Mi"}},
                    "controllerManager": small,
                    "scheduler": small,
                },
            },
            "service": {"serviceType": "NodePort", "additionalMetadata": {"labels": LABELS}},
        },
        "kubernetes": {
            "version": "v1.30.2",
            "kubelet": {"cgroupfs": "systemd"},
            "admissionControllers": ["ResourceQuota", "LimitRanger"],
        },
        "addons": {"coreDNS": {}, "kubeProxy": {}},
        "networkProfile": {"address": "192.0.2.10", "port": 31000},
    }


def test_without_a_virtual_ip_the_address_is_left_to_others() -> None:
    wire = to_wire(wanted_control_plane(cluster(), 31000, Settings(data_store="fast", replicas=1)))
    assert wire["spec"]["networkProfile"] == {"port": 31000}
    assert (wire["spec"]["dataStore"], wire["spec"]["controlPlane"]["deployment"]["replicas"]) == ("fast", 1)


@pytest.mark.parametrize(
    ("found", "made", "wish", "port"),
    [
        (None, None, "", 0),
        (None, None, "31005", 31005),
        (service(node_port=31001), None, "31005", 31001),
        (service(node_port=31001), control_plane(6443), "", 31001),
        (service(node_port=31001), control_plane(31002), "", 31002),
        (service(recorded="31003", node_port=31001), control_plane(31002), "31005", 31003),
        (service(recorded="x", node_port=31001), None, "", 31001),
        (None, control_plane(31002), "", 31002),
    ],
)
def test_a_port_once_given_is_kept(
    found: Service | None, made: TenantControlPlane | None, wish: str, port: int
) -> None:
    annotations = {ANNOTATION_NODE_PORT: wish} if wish else {}
    assert port_of(cluster(annotations=annotations), found, made) == port


@pytest.mark.parametrize(
    ("found", "port", "in_the_way"),
    [
        (None, 31000, False),
        (service(node_port=31000), 0, False),
        (service(node_port=31000), 31000, True),
        (service(node_port=31001, name="other"), 31000, False),
        (service(node_port=31001, port=7777), 31000, True),
        (service(node_port=31000, port=31000), 31000, False),
    ],
)
def test_entries_of_others_for_the_same_port_are_in_the_way(found: Service | None, port: int, in_the_way: bool) -> None:
    assert ports_in_the_way(found, port) is in_the_way


@pytest.mark.parametrize("version", ["v1.30.2", "1.31.0", "v1.32.0-rc.1+x"])
def test_versions_that_kamaji_takes(version: str) -> None:
    require_name_and_version(cluster(version=version))


@pytest.mark.parametrize(
    ("wrong", "reason", "part"),
    [
        (cluster(version=""), "InvalidVersion", "v1.30.2"),
        (cluster(version="latest"), "InvalidVersion", "'latest'"),
        (cluster("1c"), "InvalidName", "letter"),
        (cluster("a.b"), "InvalidName", "dots"),
        (cluster("c" * 200), "InvalidName", "at most 63 characters, and this one has 200;"),
        (cluster(annotations={ANNOTATION_NODE_PORT: "http"}), "InvalidNodePort", "'http'"),
    ],
)
def test_what_kamaji_would_not_take_is_named(wrong: object, reason: str, part: str) -> None:
    with pytest.raises(Kept) as told:
        require_name_and_version(wrong)  # type: ignore[arg-type]
    assert told.value.reason == reason
    assert part in told.value.message


def owned(uid: str, *, deleting: bool = False) -> Service:
    owner = OwnerReference.model_validate({**OWNER, "uid": uid})
    meta = ObjectMeta(name="c", namespace="n", owner_references=[owner], deletion_timestamp=now() if deleting else None)
    return Service(metadata=meta)


def labelled(name: str) -> Service:
    return Service(metadata=ObjectMeta(name="c", namespace="n", labels={LABEL_CLUSTER: name}))


@pytest.mark.parametrize("mine", [None, owned("uid-1"), labelled("c")])
def test_what_is_the_clusters_may_be_applied(mine: Service | None) -> None:
    claim(cluster(), mine)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (owned("uid-0"), "EarlierClusterLeaving"),
        (owned("uid-1", deleting=True), "EarlierClusterLeaving"),
        (labelled("other"), "NameTaken"),
        (Service(metadata=ObjectMeta(name="c", namespace="n")), "NameTaken"),
    ],
)
def test_what_is_anothers_is_left_alone(other: Service, reason: str) -> None:
    with pytest.raises(Waiting) as told:
        claim(cluster(), other)
    assert told.value.reason == reason


def test_a_leftover_of_v24_10_is_taken() -> None:
    claim(cluster(), Service(metadata=ObjectMeta(name="c", namespace="n")), leftover=True)


def test_an_object_leads_to_its_cluster_by_owner_or_label() -> None:
    assert clusters_of(owned("uid-1")) == [Key("n", "c")]
    assert clusters_of(labelled("d")) == [Key("n", "d")]
    assert clusters_of(Service(metadata=ObjectMeta(name="x", namespace="n"))) == []
