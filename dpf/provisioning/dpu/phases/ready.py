"""Ready: the card is a healthy node of its cluster. Watched, not polled: what changes is answered, nothing else happens.

The host is given back here: whatever effect it bore for this DPU is undone.
"""

from __future__ import annotations

from dpf.provisioning.dpu import effects
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.phases import dms_deployment, dpu_cluster_config, host_network
from dpf.provisioning.dpu.steps import Act, Advance, Hold, Step, done, waits
from dpf.runtime import conditions
from dpf.runtime.meta import Condition
from dpf_api.dpu import ConditionType, Phase

READY = ConditionType.READY


def decide(seen: Seen) -> Step:
    if effects.to_undo(seen):
        return Act(effects.undo, READY, "NodeEffectError")
    if seen.dms_pod is None and seen.node is not None:
        return Act(dms_deployment.create, READY, "DMSPodMissing")
    if seen.hostnetwork_pod is None and seen.node is not None:
        return Act(host_network.create, READY, "HostNetworkPodMissing")
    if (blocked := dpu_cluster_config.unreachable(seen)) is not None:
        return blocked
    name, node = seen.dpu.name, seen.dpu_node
    if node is None:
        message = (
            f"node {name} is gone from cluster {seen.dpu.spec.cluster.name}; delete the DPU to provision the card anew"
        )
        return Hold(waits(READY, "DPUNodeGetError", message))
    if not node.ready:
        message = f"node {name} is not ready in cluster {seen.dpu.spec.cluster.name}; look at its kubelet"
        return Hold(waits(READY, "DPUNodeNotReady", message))
    if dpu_cluster_config.drift(seen):
        return Advance(Phase.DPU_CLUSTER_CONFIG)
    return Hold(_healthy(seen), changes=dpu_cluster_config.joined(seen))


def _healthy(seen: Seen) -> Condition:
    """Ready as it was, or again."""
    before = conditions.find(seen.dpu.status.conditions, READY.value)
    if before is not None and before.status == "True":
        return before
    return done(READY, f"node {seen.dpu.name} is healthy", reason="DPUNodeReady")
