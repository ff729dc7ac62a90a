"""How the pods of a DPU are made, and how they are: whether one will come back by itself, what is said of one that does not run."""

from __future__ import annotations

from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Act, Changes, Hold, waits
from dpf.provisioning.dpu.waiting import PODS_END, wait
from dpf.runtime import podtrouble
from dpf.runtime.errors import AlreadyExists, NotFound, Waiting
from dpf.runtime.k8s import Pod
from dpf.runtime.meta import now
from dpf_api.dpu import DPU, ConditionType

BY_NODE = frozenset({"Evicted", "NodeShutdown", "Preempting", "Shutdown", "Terminated"})
"""Reasons of pods that the kubelet has ended for its node's sake: the node was shut down in good order, or lacked something."""

EARLIER = 30.0
"""Seconds between looks at a pod that an earlier DPU has left; that it is gone is told."""

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


def ending(seen: Seen, pod: Pod, kind: ConditionType, word: str) -> Hold:
    """The wait for a pod that is being deleted."""
    return wait(
        seen,
        kind,
        word,
        f"pod {pod.name} is being deleted; a new one is made then",
        limit=PODS_END,
        overdue="PodsDoNotEnd",
        then="look at the kubelet of its node",
        since=(pod.metadata.deletion_timestamp,),
    )


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


async def create(hands: Hands, dpu: DPU, pod: Pod) -> None:
    """Makes a pod of the DPU; one left by an earlier DPU of the same name must go first.

    :raises Waiting: while it is going.
    """
    try:
        await hands.client.create(pod)
    except AlreadyExists:
        try:
            found = await hands.client.get(Pod, pod.name, pod.namespace)
        except NotFound:
            return
        if found.owned_by(dpu):
            return
        if not found.deleting:
            await hands.client.delete(found)
        message = f"pod {pod.name} of an earlier DPU is being removed; a new one is made then"
        since = found.metadata.deletion_timestamp
        if since is not None and (now() - since).total_seconds() > PODS_END:
            then = "if its host was down, look at the kubelet there, or delete the pod by force"
            raise Waiting("PodsDoNotEnd", f"{message}. It takes long: {then}", retry_after=EARLIER) from None
        raise Waiting("EarlierPodEnding", message, retry_after=EARLIER) from None
