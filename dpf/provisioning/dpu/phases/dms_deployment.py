"""DMS Deployment: the pod through which the card is flashed runs on the host and answers."""

from __future__ import annotations

from dpf.provisioning.dpu import dmspod, podparts
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Act, Advance, Changes, Hold, Step, done, fail, waits
from dpf.runtime.conditions import is_true
from dpf.runtime.errors import AlreadyExists, NotFound, Waiting
from dpf.runtime.k8s import Pod
from dpf_api.dpu import DPU, ConditionType, Phase

RUNNING = ConditionType.DMS_RUNNING
PREFLIGHT = "rshim-preflight"


def decide(seen: Seen) -> Step:
    return server(seen) or Advance(Phase.OS_INSTALLING)


def server(seen: Seen) -> Step | None:
    """What there is to do until DMS answers; None when it does. Later phases that need DMS ask here too."""
    pod = seen.dms_pod
    if pod is None:
        return Act(create, RUNNING)
    if pod.deleting:
        return Hold(waits(RUNNING, "DMSPodEnding", f"pod {pod.name} is being deleted; a new one is made then"))
    if pod.status.phase in ("Failed", "Succeeded"):
        return fail(RUNNING, "DMSPodFailed", f"pod {pod.name} has ended: {pod.status.message or pod.status.phase}")
    if pod.ready and pod.status.pod_ip:
        fine = is_true(seen.dpu.status.conditions, RUNNING.value)
        return None if fine else Advance(seen.dpu.status.phase, (done(RUNNING),))
    left = seen.settings.dms_pod_timeout - seen.waited(RUNNING)
    if left <= 0:
        limit = f"{seen.settings.dms_pod_timeout:g} s"
        return fail(RUNNING, "DMSPodTimedout", f"pod {pod.name} was not ready within {limit}: {_why(pod)}")
    return Hold(waits(RUNNING, _reason(pod), _why(pod)), after=left)


def _reason(pod: Pod) -> str:
    trouble = podparts.trouble(pod)
    if trouble is None:
        return "DMSPodStarting"
    return "ExistingRshimInstallDetected" if trouble.container == PREFLIGHT else "DMSPodNotRunning"


def _why(pod: Pod) -> str:
    if (trouble := podparts.trouble(pod)) is not None:
        return f"container {trouble.container} of pod {pod.name}: {trouble.reason}: {trouble.message}"
    if problem := podparts.unschedulable(pod):
        return f"pod {pod.name} can't be scheduled: {problem}"
    return f"waiting for pod {pod.name} to be ready"


async def create(hands: Hands, seen: Seen) -> Changes | None:
    """Makes the server's certificate and its pod."""
    if seen.node is None:
        raise Waiting("NodeNotFound", f"node {seen.dpu.spec.node_name!r} is gone; waiting for it to come back")
    pod = dmspod.build(seen.dpu, hands.settings, seen.dms_port)
    certificate = await hands.certificates.ensure_server(seen.dpu, seen.node)
    await create_pod(hands, seen.dpu, pod)
    return {"certificate": certificate}


async def create_pod(hands: Hands, dpu: DPU, pod: Pod) -> None:
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
        raise Waiting("EarlierPodEnding", message, retry_after=1.0) from None
