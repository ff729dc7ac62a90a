"""DMS Deployment: the pod through which the card is flashed runs on the host and answers."""

from __future__ import annotations

from dpf.provisioning.dpu import dmspod, podhealth
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Act, Advance, Changes, Hold, Step, done, fail, waits
from dpf.provisioning.dpu.waiting import PODS_END, for_host, wait
from dpf.runtime import podtrouble
from dpf.runtime.conditions import is_true
from dpf.runtime.errors import AlreadyExists, NotFound, Waiting
from dpf.runtime.k8s import Pod
from dpf.runtime.meta import now
from dpf_api.dpu import DPU, ConditionType, Phase

RUNNING = ConditionType.DMS_RUNNING
PREFLIGHT = "rshim-preflight"
EARLIER = 30.0
"""Seconds between looks at a pod that an earlier DPU has left; that it is gone is told."""


def decide(seen: Seen) -> Step:
    return server(seen) or Advance(Phase.OS_INSTALLING)


def server(seen: Seen) -> Step | None:
    """What there is to do until DMS answers; None when it does. Later phases that need DMS ask here too.

    The time that the host is down is not the pod's: somebody may have rebooted it by hand.
    """
    pod = seen.dms_pod
    if pod is None:
        return Act(create, RUNNING)
    if pod.ready and pod.status.pod_ip and not pod.deleting:
        fine = is_true(seen.dpu.status.conditions, RUNNING.value)
        return None if fine else Advance(seen.dpu.status.phase, (done(RUNNING),))
    if (down := for_host(seen, RUNNING)) is not None:
        return down
    if pod.deleting:
        return ending(seen, pod, RUNNING, "DMSPodEnding")
    at_first = seen.dpu.status.phase is Phase.DMS_DEPLOYMENT
    if podhealth.ended(pod) and at_first and not podhealth.ended_by_node(pod):
        return fail(RUNNING, "DMSPodFailed", podhealth.why(pod, ""))
    left = seen.settings.dms_pod_timeout - seen.waited(RUNNING, seen.host_since)
    if left <= 0:
        limit = f"{seen.settings.dms_pod_timeout:g} s"
        return fail(RUNNING, "DMSPodTimedout", f"pod {pod.name} was not ready within {limit}: {why(pod)}")
    if podhealth.ended(pod):
        return podhealth.anew(seen, pod, RUNNING)
    return Hold(waits(RUNNING, reason(pod), why(pod)), after=left)


def reason(pod: Pod) -> str:
    """The word for a DMS pod that is not ready."""
    trouble = podtrouble.trouble(pod)
    if trouble is None:
        return "DMSPodStarting"
    return "ExistingRshimInstallDetected" if trouble.container == PREFLIGHT else "DMSPodNotRunning"


def why(pod: Pod) -> str:
    """The same in a sentence."""
    return podhealth.why(pod, f"waiting for pod {pod.name} to be ready")


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
        since = found.metadata.deletion_timestamp
        if since is not None and (now() - since).total_seconds() > PODS_END:
            then = "if its host was down, look at the kubelet there, or delete the pod by force"
            raise Waiting("PodsDoNotEnd", f"{message}. It takes long: {then}", retry_after=EARLIER) from None
        raise Waiting("EarlierPodEnding", message, retry_after=EARLIER) from None
