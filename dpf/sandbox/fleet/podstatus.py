"""What a kubelet writes into a pod's status, as a pure function of what its containers do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dpf.sandbox.fleet.nodes import timestamp


@dataclass(frozen=True)
class Exit:
    """How a container ended."""

    code: int
    started: str
    finished: str


@dataclass(frozen=True)
class ContainerReport:
    """What a container does now. Neither started nor waiting for something named: it is being created."""

    name: str
    image: str
    ready: bool = False
    restarts: int = 0
    started: str = ""
    """When it was started, if it runs."""
    waiting: str = ""
    """The reason why it does not run, for example ``CrashLoopBackOff``."""
    message: str = ""
    last: Exit | None = None
    """The end of the run before this one."""


def pod_status(pod: dict[str, Any], host_ip: str, containers: Sequence[ContainerReport], since: str) -> dict[str, Any]:
    """The status of a pod on a host.

    :param since: when the pod was first seen by its node.
    """
    ready = all(container.ready for container in containers)
    begun = any(container.started or container.restarts for container in containers)
    conditions = [
        _condition("PodScheduled", True, since),
        _condition("Initialized", True, since),
        _condition("ContainersReady", ready, since),
        _condition("Ready", ready, since),
    ]
    status: dict[str, Any] = {
        "phase": "Running" if begun else "Pending",
        "hostIP": host_ip,
        "hostIPs": [{"ip": host_ip}],
        "podIP": host_ip,
        "podIPs": [{"ip": host_ip}],
        "startTime": since,
        "conditions": conditions,
        "containerStatuses": [_container(container) for container in containers],
    }
    if init := pod["spec"].get("initContainers"):
        status["initContainerStatuses"] = [_done(container, since) for container in init]
    return status


def is_ready(pod: dict[str, Any]) -> bool:
    """Whether a pod's status says that it is ready."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _condition(kind: str, holds: bool, since: str) -> dict[str, Any]:
    at = since if kind in ("PodScheduled", "Initialized") else timestamp()
    condition: dict[str, Any] = {"type": kind, "status": "True" if holds else "False", "lastTransitionTime": at}
    if not holds:
        condition |= {"reason": "ContainersNotReady", "message": "containers with unready status"}
    return condition


def _container(report: ContainerReport) -> dict[str, Any]:
    if report.started:
        state: dict[str, Any] = {"running": {"startedAt": report.started}}
    else:
        state = {"waiting": {"reason": report.waiting or "ContainerCreating"}}
        if report.message:
            state["waiting"]["message"] = report.message
    return {
        "name": report.name,
        "image": report.image,
        "imageID": f"sandbox://{report.image}",
        "ready": report.ready,
        "started": bool(report.started),
        "restartCount": report.restarts,
        "state": state,
        "lastState": {"terminated": _terminated(report.last)} if report.last else {},
    }


def _terminated(end: Exit) -> dict[str, Any]:
    reason = "Completed" if end.code == 0 else "Error"
    return {"exitCode": end.code, "reason": reason, "startedAt": end.started, "finishedAt": end.finished}


def _done(container: dict[str, Any], at: str) -> dict[str, Any]:
    image = container.get("image", "")
    return {
        "name": container["name"],
        "image": image,
        "imageID": f"sandbox://{image}",
        "ready": True,
        "restartCount": 0,
        "state": {"terminated": _terminated(Exit(0, at, at))},
    }
