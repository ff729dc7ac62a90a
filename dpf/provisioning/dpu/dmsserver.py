"""The DMS server of a card as phases see it: whether it answers, and what there is to do or to wait for until it does."""

from __future__ import annotations

from dpf.provisioning.dpu import dmspod, needs, podhealth
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Act, Advance, Changes, Hold, Step, done, fail, waits
from dpf.provisioning.dpu.waiting import for_host
from dpf.runtime import podtrouble
from dpf.runtime.conditions import is_true
from dpf.runtime.errors import Waiting
from dpf.runtime.k8s import Pod
from dpf_api.dpu import ConditionType, Phase

RUNNING = ConditionType.DMS_RUNNING


def server(seen: Seen) -> Step | None:
    """What there is to do until DMS answers; None when it does.

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
        return podhealth.ending(seen, pod, RUNNING, "DMSPodEnding")
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
    return "ExistingRshimInstallDetected" if trouble.container == dmspod.PREFLIGHT_CONTAINER else "DMSPodNotRunning"


def why(pod: Pod) -> str:
    """The same in a sentence."""
    return podhealth.why(pod, f"waiting for pod {pod.name} to be ready")


async def create(hands: Hands, seen: Seen) -> Changes | None:
    """Makes the server's certificate and its pod."""
    if seen.node is None:
        raise Waiting("NodeNotFound", needs.host_gone(seen.dpu))
    pod = dmspod.build(seen.dpu, hands.settings, seen.dms_port)
    certificate = await hands.certificates.ensure_server(seen.dpu, seen.node)
    await podhealth.create(hands, seen.dpu, pod)
    return {"certificate": certificate}
