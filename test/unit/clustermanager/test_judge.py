"""What there is to say of a cluster, as tables."""

from __future__ import annotations

from typing import Any

import pytest

from dpf.clustermanager.kamaji.judge import created, held, keepalived_ready
from dpf.clustermanager.kamaji.waits import Kept
from dpf.runtime.conditions import new
from dpf.runtime.errors import Waiting
from dpf.runtime.k8s import DaemonSet, Pod
from dpf_api.kamaji import TenantControlPlane
from test.unit.clustermanager.clusters import cluster, saying, with_vip


def control_plane(
    status: str = "", version: str = "", *, secret: str = "s", address: str = "192.0.2.10", wanted: str = "v1.30.2"
) -> TenantControlPlane:
    body = {
        "metadata": {"name": "c"},
        "spec": {
            "dataStore": "default",
            "kubernetes": {"version": wanted},
            "networkProfile": {"address": address, "port": 31000},
        },
        "status": {
            "kubernetesResources": {"version": {"status": status, "version": version}},
            "kubeconfig": {"admin": {"secretName": secret}},
        },
    }
    return TenantControlPlane.model_validate(body)


@pytest.mark.parametrize(
    ("found", "status", "reason", "part"),
    [
        (control_plane(), "False", "ClusterNotReady", "not looked at by Kamaji"),
        (control_plane("Provisioning"), "False", "ClusterNotReady", "it is Provisioning"),
        (control_plane("Provisioning", address=""), "False", "EndpointMissing", "spec.clusterEndpoint.keepalived"),
        (control_plane("Ready", "v1.30.2", secret=""), "False", "ClusterNotReady", "kubeconfig"),
        (control_plane("Ready", "v1.30.2"), "True", "Created", "v1.30.2"),
        (control_plane("Ready", "v1.30.2", address=""), "True", "Created", "v1.30.2"),
        (control_plane("Upgrading", "v1.29.0"), "True", "Upgrading", "from v1.29.0 to v1.30.2"),
        (control_plane("Ready", "v1.29.0"), "True", "Upgrading", "from v1.29.0 to v1.30.2"),
        (control_plane("NotReady", "v1.30.2"), "False", "ClusterNotReady", "is NotReady"),
        (control_plane("Sleeping", "v1.30.2"), "False", "ClusterNotReady", "is Sleeping"),
    ],
)
def test_how_far_a_control_plane_is(found: TenantControlPlane, status: str, reason: str, part: str) -> None:
    condition = created(cluster(), found, data_store=True)
    assert (condition.status, condition.reason, condition.observed_generation) == (status, reason, 3)
    assert part in condition.message


def test_a_missing_data_store_counts_until_the_control_plane_is_made() -> None:
    assert created(cluster(), control_plane("Provisioning"), data_store=False).reason == "DataStoreMissing"
    assert created(cluster(), control_plane("Ready", "v1.30.2"), data_store=False).reason == "Created"


def test_a_refusal_takes_a_cluster_that_runs_out_of_service_no_more_than_its_cause() -> None:
    runs = saying(cluster(), new("Created", True, "Created"))
    assert held(runs, Kept("Refused", "no")).status == "True"
    assert held(cluster(), Kept("Refused", "no")).status == "False"
    assert held(runs, Waiting("KamajiNotInstalled", "gone")).status == "False"


def daemon_set(wanted: int, ready: int, *, observed: int = 1) -> DaemonSet:
    status = {"desiredNumberScheduled": wanted, "numberReady": ready, "observedGeneration": observed}
    return DaemonSet.model_validate({"metadata": {"name": "c-keepalived", "generation": 1}, "status": status})


def pod(name: str, *, ready: bool = False, **status: Any) -> Pod:
    conditions = [{"type": "Ready", "status": str(ready)}]
    body = {
        "metadata": {"name": name},
        "spec": {"nodeName": f"on-{name}"},
        "status": {"conditions": conditions, **status},
    }
    return Pod.model_validate(body)


WAITING = {"name": "keepalived", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
CRASHED = {"name": "create-conf", "state": {"terminated": {"exitCode": 2, "reason": "Error"}}}
STARTING = {"name": "keepalived", "state": {"waiting": {"reason": "ContainerCreating"}}}


@pytest.mark.parametrize(
    ("found", "pods", "status", "reason", "part"),
    [
        (daemon_set(3, 3), [], "True", "Deployed", "3 of 3"),
        (daemon_set(3, 1, observed=0), [], "True", "SomePodsNotReady", "1 of 3"),
        (daemon_set(0, 0, observed=0), [], "False", "DaemonSetNotObserved", "c-keepalived"),
        (daemon_set(0, 0), [], "False", "NoNodeFits", "node-role.kubernetes.io/control-plane and zone=a"),
        (daemon_set(2, 0), [pod("a")], "False", "PodsStarting", "1 not made yet"),
        (
            daemon_set(1, 0),
            [pod("a", containerStatuses=[WAITING])],
            "False",
            "NoPodReady",
            "a on on-a: container keepalived",
        ),
        (
            daemon_set(1, 0),
            [pod("a", initContainerStatuses=[CRASHED])],
            "False",
            "NoPodReady",
            "create-conf: Error: exit code 2",
        ),
        (daemon_set(1, 0), [pod("a", containerStatuses=[STARTING])], "False", "PodsStarting", "it is starting"),
        (daemon_set(1, 0), [pod("a", phase="Failed")], "False", "NoPodReady", "it is Failed"),
        (daemon_set(5, 0), [pod(name) for name in "abcde"], "False", "PodsStarting", "2 more"),
        (daemon_set(2, 1), [pod("a", ready=True), pod("b")], "True", "SomePodsNotReady", "b on on-b"),
    ],
)
def test_whether_the_virtual_ip_is_held(found: DaemonSet, pods: list[Pod], status: str, reason: str, part: str) -> None:
    condition = keepalived_ready(with_vip(), found, pods)
    assert (condition.type, condition.status, condition.reason) == ("KeepalivedReady", status, reason)
    assert part in condition.message


def test_without_a_selector_any_control_plane_node_will_do() -> None:
    condition = keepalived_ready(with_vip(node_selector={}), daemon_set(0, 0), [])
    assert condition.message.endswith("label one with node-role.kubernetes.io/control-plane")


def test_a_node_that_is_wanted_is_described_once() -> None:
    role = "node-role.kubernetes.io/control-plane"
    condition = keepalived_ready(with_vip(node_selector={role: "", "rack": "a"}), daemon_set(0, 0), [])
    assert f"label one with {role} and rack=a, or change" in condition.message
