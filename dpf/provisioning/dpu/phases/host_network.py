"""Host Network Configuration: the host has its virtual functions of the card, and the bridge has one of them."""

from __future__ import annotations

from dpf.provisioning.dpu import hostnetworkpod, podparts
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.phases.dms_deployment import create_pod
from dpf.provisioning.dpu.steps import Act, Advance, Changes, Hold, Step, done, fail, waits
from dpf.runtime.errors import Waiting
from dpf_api.dpu import ConditionType, Phase

READY = ConditionType.HOST_NETWORK_READY
RESTARTS = 10
"""Restarts of a container after which the host's network is given up."""


def decide(seen: Seen) -> Step:
    pod = seen.hostnetwork_pod
    if pod is None:
        return Act(create, READY)
    if pod.deleting:
        return Hold(waits(READY, "Initializing", f"pod {pod.name} is being deleted; a new one is made then"))
    if pod.ready:
        return Advance(Phase.DPU_CLUSTER_CONFIG, (done(READY),))
    trouble = podparts.trouble(pod)
    statuses = (*pod.status.init_container_statuses, *pod.status.container_statuses)
    if trouble is not None and max((s.restart_count for s in statuses), default=0) >= RESTARTS:
        message = f"container {trouble.container} of pod {pod.name} keeps failing: {trouble.reason}: {trouble.message}"
        return fail(READY, "InitializationFailed", message)
    if trouble is not None:
        why = f"container {trouble.container} of pod {pod.name}: {trouble.reason}: {trouble.message}"
    elif problem := podparts.unschedulable(pod):
        why = f"pod {pod.name} can't be scheduled: {problem}"
    else:
        why = f"waiting for pod {pod.name} to set up the host's network"
    return Hold(waits(READY, "Initializing", why))


async def create(hands: Hands, seen: Seen) -> Changes | None:
    """Makes the host network pod."""
    name = seen.dpu.spec.dpu_flavor
    if name and seen.flavor is None:
        raise Waiting("DPUFlavorNotFound", f"no DPUFlavor {name!r} in namespace {seen.dpu.namespace}; create it")
    for config in seen.ignored:
        note = f"DPFOperatorConfig {seen.config.name if seen.config else ''} is older and counts; delete one of them"
        hands.events.warning(config, "ConfigIgnored", note)
    await create_pod(hands, seen.dpu, hostnetworkpod.build(seen.dpu, seen.flavor, seen.config, hands.settings))
    return None
