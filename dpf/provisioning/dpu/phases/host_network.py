"""Host Network Configuration: the host has its virtual functions of the card, and the bridge has one of them."""

from __future__ import annotations

from dpf.provisioning.dpu import hostnetworkpod, needs, podhealth
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Act, Advance, Changes, Step, done, fail
from dpf.provisioning.dpu.waiting import for_host, wait
from dpf.runtime import podtrouble
from dpf.runtime.errors import Waiting
from dpf_api.dpu import ConditionType, Phase

READY = ConditionType.HOST_NETWORK_READY
RESTARTS = 10
"""Restarts of a container after which the host's network is given up."""
SLOW = 900.0
"""Seconds after which it is called overdue: a kubelet tries to pull an image every 5 minutes at least, so it has tried three times
then. It is no failure: a pod that waits has not failed ten times."""


def decide(seen: Seen) -> Step:
    pod = seen.hostnetwork_pod
    if pod is None:
        return Act(create, READY)
    if pod.ready and not pod.deleting:
        return Advance(Phase.DPU_CLUSTER_CONFIG, (done(READY),))
    if (down := for_host(seen, READY)) is not None:
        return down
    if pod.deleting:
        return podhealth.ending(seen, pod, READY, "Initializing")
    if podhealth.ended(pod):
        return podhealth.anew(seen, pod, READY)
    trouble = podtrouble.trouble(pod)
    statuses = (*pod.status.init_container_statuses, *pod.status.container_statuses)
    if trouble is not None and max((s.restart_count for s in statuses), default=0) >= RESTARTS:
        message = f"container {trouble.container} of pod {pod.name} keeps failing: {trouble.reason}: {trouble.message}"
        return fail(READY, "InitializationFailed", message)
    return wait(
        seen,
        READY,
        "Initializing",
        podhealth.why(pod, f"waiting for pod {pod.name} to set up the host's network"),
        limit=SLOW,
        overdue="HostNetworkOverdue",
        then=f"look at the events and the log of pod {pod.name}",
        since=(seen.host_since,),
    )


async def create(hands: Hands, seen: Seen) -> Changes | None:
    """Makes the host network pod."""
    if seen.dpu.spec.dpu_flavor and seen.flavor is None:
        raise Waiting("DPUFlavorNotFound", needs.no_flavor(seen.dpu))
    for config in seen.ignored:
        note = f"DPFOperatorConfig {seen.config.name if seen.config else ''} is older and counts; delete one of them"
        hands.events.warning(config, "ConfigIgnored", note)
    await podhealth.create(hands, seen.dpu, hostnetworkpod.build(seen.dpu, seen.flavor, seen.config, hands.settings))
    return None
