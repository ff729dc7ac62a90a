"""What there is to say of a cluster, from what was found: the conditions Created and KeepalivedReady.

Created is True from when Kamaji has made the control plane; while Kamaji upgrades it, or refuses a change, it serves on and the
condition stays True with a reason that says what goes on. KeepalivedReady is True as long as one pod is ready, for one
suffices to hold the address; which others are missing stands in the message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from dpf.clustermanager.common import CREATED
from dpf.clustermanager.kamaji.controlplane import keepalived_of
from dpf.clustermanager.kamaji.waits import Kept
from dpf.runtime import podtrouble
from dpf.runtime.conditions import is_true, new
from dpf.runtime.errors import Waiting
from dpf.runtime.k8s import DaemonSet, Pod
from dpf.runtime.meta import Condition
from dpf_api.dpucluster import ConditionType, DPUCluster, Keepalived
from dpf_api.kamaji import TenantControlPlane, VersionStatus

KEEPALIVED_READY = ConditionType.KEEPALIVED_READY.value

REFUSED = "Refused"
"""Why, if the API server would not take something."""

NOT_READY = "ClusterNotReady"
"""Why, if there is nothing to do but to wait for the control plane."""

OVERDUE = "ControlPlaneOverdue"
"""The same, if that takes long."""

NAMED = 3
"""Pods in trouble that a message names; the rest are counted."""

TOLD: dict[str, Literal["Normal", "Warning"]] = {
    "Created": "Normal",
    "Upgrading": "Normal",
    "Deployed": "Normal",
    "DataStoreMissing": "Warning",
    "EndpointMissing": "Warning",
    "InvalidEndpoint": "Warning",
    "InvalidName": "Warning",
    "InvalidNodePort": "Warning",
    "InvalidVersion": "Warning",
    "KamajiNotInstalled": "Warning",
    "NameTaken": "Warning",
    "NoNodeFits": "Warning",
    "NoPodReady": "Warning",
    OVERDUE: "Warning",
    REFUSED: "Warning",
}
"""Reasons that make an event when they are new, and its type."""


def held(cluster: DPUCluster, waiting: Waiting, kind: str = CREATED) -> Condition:
    """The condition of a cluster for which nothing could be done."""
    status = isinstance(waiting, Kept) and is_true(cluster.status.conditions, kind)
    return new(kind, status, waiting.reason, waiting.message, generation=cluster.metadata.generation)


def without_data_store(name: str) -> Waiting:
    """Why a control plane cannot be made while there is no DataStore of that name."""
    return Waiting("DataStoreMissing", f"Kamaji has no DataStore {name} to keep the cluster's data in; create it")


def made(control_plane: TenantControlPlane) -> bool:
    """Whether Kamaji has made the control plane, however it is now: it names version and kubeconfig."""
    status = control_plane.status
    return bool(status.version.version and status.kubeconfig.admin.secret_name)


def created(cluster: DPUCluster, control_plane: TenantControlPlane, *, data_store: bool) -> Condition:
    """How far the control plane is.

    :param data_store: whether the DataStore that it names exists.
    """
    status, reason, message = _created(control_plane, data_store=data_store)
    return new(CREATED, status, reason, message, generation=cluster.metadata.generation)


def _created(control_plane: TenantControlPlane, *, data_store: bool) -> tuple[bool, str, str]:
    running = control_plane.status.version
    name = control_plane.name
    if made(control_plane):
        wanted = control_plane.spec.kubernetes.version
        if running.status == VersionStatus.UPGRADING or (
            running.status == VersionStatus.READY and running.version != wanted
        ):
            return True, "Upgrading", f"Kamaji brings TenantControlPlane {name} from {running.version} to {wanted}"
        if running.status == VersionStatus.READY:
            return True, "Created", f"TenantControlPlane {name} runs Kubernetes {running.version}"
        what = f"TenantControlPlane {name} is {running.status or 'in no state yet'}: look at its pods"
        return False, NOT_READY, what
    if not data_store:
        missing = without_data_store(control_plane.spec.data_store)
        return False, missing.reason, missing.message
    if not control_plane.spec.network_profile.address:
        what = (
            f"Kamaji waits for an address to serve at: set spec.clusterEndpoint.keepalived, or "
            f"spec.networkProfile.address of TenantControlPlane {name} if something else bears it"
        )
        return False, "EndpointMissing", what
    if running.status == VersionStatus.READY:
        return False, NOT_READY, f"waiting for Kamaji to name the Secret with the kubeconfig of {name}"
    state = running.status or "not looked at by Kamaji yet: does it run?"
    return False, NOT_READY, f"waiting for TenantControlPlane {name} to be Ready; it is {state}"


def keepalived_ready(cluster: DPUCluster, daemon_set: DaemonSet, pods: Sequence[Pod]) -> Condition:
    """Whether somebody holds the virtual IP, and who is missing."""
    status, reason, message = _keepalived_ready(cluster, daemon_set, pods)
    return new(KEEPALIVED_READY, status, reason, message, generation=cluster.metadata.generation)


def _keepalived_ready(cluster: DPUCluster, daemon_set: DaemonSet, pods: Sequence[Pod]) -> tuple[bool, str, str]:
    status = daemon_set.status
    wanted, ready = status.desired_number_scheduled, status.number_ready
    if ready:
        count = f"{ready} of {wanted} pods are ready"
        return (
            (True, "Deployed", count)
            if ready >= wanted
            else (True, "SomePodsNotReady", f"{count}; {missing(wanted, pods)}")
        )
    if status.observed_generation < daemon_set.metadata.generation:
        message = f"waiting for DaemonSet {daemon_set.name} to be taken up; does kube-controller-manager run?"
        return False, "DaemonSetNotObserved", message
    if not wanted:
        return False, "NoNodeFits", f"no node may hold the virtual IP: {_selector(keepalived_of(cluster))}"
    # One that is just starting needs nobody's attention.
    reason = "NoPodReady" if any(trouble(pod) for pod in pods if not pod.ready) else "PodsStarting"
    return False, reason, f"none of {wanted} pods is ready; {missing(wanted, pods)}"


def _selector(keepalived: Keepalived | None) -> str:
    chosen = keepalived.node_selector if keepalived is not None else {}
    role = "node-role.kubernetes.io/control-plane"
    wanted = [role, *(f"{key}={value}" if value else key for key, value in sorted(chosen.items()))]
    # The sample's selector names the role that is wanted in any case.
    words = f"label one with {' and '.join(dict.fromkeys(wanted))}"
    return f"{words}, or change spec.clusterEndpoint.keepalived.nodeSelector" if chosen else words


def missing(wanted: int, pods: Sequence[Pod]) -> str:
    """Which of the wanted pods are not ready, and why."""
    waiting = sorted((pod for pod in pods if not pod.ready), key=lambda pod: pod.name)
    found = [
        f"{pod.name} on {pod.spec.node_name or 'no node yet'}: {trouble(pod) or 'it is starting'}"
        for pod in waiting[:NAMED]
    ]
    if len(waiting) > NAMED:
        found.append(f"{len(waiting) - NAMED} more")
    if (absent := wanted - len(pods)) > 0:
        found.append(f"{absent} not made yet")
    return "; ".join(found) or "waiting for the DaemonSet's count"


def trouble(pod: Pod) -> str:
    """What keeps a pod from being ready; empty if it is just starting."""
    if (found := podtrouble.trouble(pod)) is not None:
        return f"container {found.container}: {found.reason}: {found.message}"
    if unscheduled := podtrouble.unschedulable(pod):
        return unscheduled
    return "" if pod.status.phase in ("", "Pending", "Running") else f"it is {pod.status.phase}"
