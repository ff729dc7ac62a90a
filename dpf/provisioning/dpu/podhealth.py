"""How the pods of a DPU are: whether one will come back by itself, and what is said of one that does not run."""

from __future__ import annotations

from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Act, Changes, Hold, waits
from dpf.runtime import podtrouble
from dpf.runtime.k8s import Pod
from dpf_api.dpu import ConditionType

BY_NODE = frozenset({"Evicted", "NodeShutdown", "Preempting", "Shutdown", "Terminated"})
"""Reasons of pods that the kubelet has ended for its node's sake: the node was shut down in good order, or lacked something."""

PAUSE = 30.0
"""Seconds from one pod to the next at least, should each be ended at once."""


def ended(pod: Pod) -> bool:
    """Whether the pod has ended for good: its kubelet starts it no more, whatever its restart policy."""
    return pod.status.phase in ("Failed", "Succeeded")


def ended_by_node(pod: Pod) -> bool:
    """Whether it ended through no fault of its own."""
    return ended(pod) and pod.status.reason in BY_NODE


def why(pod: Pod, otherwise: str) -> str:
    """Why the pod is not ready: the container that is in trouble, or what keeps it from being scheduled."""
    if ended(pod):
        return f"pod {pod.name} has ended: {pod.status.message or pod.status.reason or pod.status.phase}"
    if (trouble := podtrouble.trouble(pod)) is not None:
        return f"container {trouble.container} of pod {pod.name}: {trouble.reason}: {trouble.message}"
    if problem := podtrouble.unschedulable(pod):
        return f"pod {pod.name} can't be scheduled: {problem}"
    return otherwise


def anew(seen: Seen, pod: Pod, kind: ConditionType) -> Act | Hold:
    """What is done about a pod that has ended: it is removed, so that another is made."""
    made = pod.metadata.creation_timestamp
    left = PAUSE - (seen.now - made).total_seconds() if made is not None else 0.0
    if left > 0:
        return Hold(waits(kind, "PodEnded", f"{why(pod, '')}; a new one is made soon"), after=left)
    return Act(remove_ended, kind)


async def remove_ended(hands: Hands, seen: Seen) -> Changes | None:
    """Removes the DPU's pods that have ended."""
    for pod in (seen.dms_pod, seen.hostnetwork_pod):
        if pod is not None and ended(pod) and not pod.deleting:
            await hands.client.delete(pod)
    return None
