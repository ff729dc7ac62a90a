"""Initializing: the host is there and prepared, and the DPU gets the cluster that its card will join."""

from __future__ import annotations

from typing import Any

from dpf.provisioning.bfcfg import discovery
from dpf.provisioning.dpu import needs, nodelabels, podparts
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Act, Advance, Changes, Hold, Step, done, waits
from dpf.runtime.conditions import is_true
from dpf.runtime.errors import BadRequest, Forbidden, Invalid
from dpf_api.dpu import ConditionType, Phase
from dpf_api.names import LABEL_OOB_BRIDGE_CONFIGURED

INITIALIZED, READY = ConditionType.INITIALIZED, ConditionType.READY


def decide(seen: Seen) -> Step:
    if is_true(seen.dpu.status.conditions, READY.value):
        # Whoever put the DPU back here by hand did not say so.
        return Advance(Phase.INITIALIZING, (waits(READY, "Provisioning", "the card is to be flashed"),))
    name = seen.dpu.spec.node_name
    if not name:
        return Hold(waits(INITIALIZED, "NodeNameMissing", podparts.NO_HOST))
    if seen.node is None:
        message = f"no node {name!r} in the host cluster; goes on when its kubelet registers it, else delete the DPU"
        return Hold(waits(INITIALIZED, "NodeNotFound", message))
    if LABEL_OOB_BRIDGE_CONFIGURED not in seen.node.labels:
        message = (
            f"node {name} has no label {LABEL_OOB_BRIDGE_CONFIGURED}: set up bridge br-dpu on the host; "
            "the detector labels the node then"
        )
        return Hold(waits(INITIALIZED, "DPUOOBBridgeNotConfigured", message))
    if (hold := needs.labels(seen, INITIALIZED) or needs.image_stays(seen, INITIALIZED)) is not None:
        return hold
    reference = seen.dpu.spec.cluster
    if not reference.name:
        return Act(assign, INITIALIZED, "AssignmentFailed")
    if seen.cluster is None or seen.cluster.deleting:
        # Before anything is done to host and card.
        what = (
            "does not exist; create it" if seen.cluster is None else "is being deleted; create it anew when it is gone"
        )
        message = f"DPUCluster {reference.namespace}/{reference.name} {what}, or delete the DPU"
        return Hold(waits(INITIALIZED, "DPUClusterNotFound" if seen.cluster is None else "DPUClusterDeleting", message))
    if seen.cluster.status.reason == discovery.REASON:
        message = f"DPUCluster {reference.namespace}/{reference.name}: {seen.cluster.status.message}"
        return Hold(waits(INITIALIZED, "DPUClusterNotJoinable", message))
    return needs.flavor(seen, INITIALIZED) or Advance(Phase.NODE_EFFECT, (done(INITIALIZED),))


async def assign(hands: Hands, seen: Seen) -> Changes | None:
    """Gives the DPU its cluster and, as far as they are known, the labels of its Node there: one write.

    It is locked: whatever becomes of the answer, once the DPU is past this version the write has been done or never will be.
    """
    await hands.allocator.ready()
    dpu = seen.dpu
    cluster = hands.allocator.choose(dpu)
    patch: dict[str, Any] = {"name": cluster.name, "namespace": cluster.namespace}
    if labels := nodelabels.missing(dpu, seen.bfb):
        patch["nodeLabels"] = labels
    try:
        await hands.client.merge_patch(
            dpu, {"spec": {"cluster": patch}}, resource_version=dpu.metadata.resource_version
        )
    except (BadRequest, Forbidden, Invalid):
        hands.allocator.release(dpu)
        raise
    note = f"the card joins cluster {cluster.key}"
    hands.events.normal(dpu, "ClusterAssigned", note, related=cluster, weight="step")
    return None
