"""Actions on the host around provisioning; what they do is decided in :mod:`dpf.provisioning.dpu.nodeeffect`."""

from __future__ import annotations

from typing import Any

from dpf.provisioning.dpu import nodeeffect
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Changes
from dpf.runtime.errors import Forbidden, Invalid, NotFound, Terminal
from dpf.runtime.k8s import Node
from dpf_api.nodemaintenance import NodeMaintenance


def to_undo(seen: Seen) -> bool:
    """Whether the host still bears an effect on behalf of this DPU, or of one that is no more."""
    if seen.node is not None and nodeeffect.undo(seen.node, seen.dpu.uid, *_lost(seen, seen.node)) is not None:
        return True
    return _drain_to_undo(seen) is not None


def held(seen: Seen) -> bool:
    """Whether this DPU itself holds a mark or a drain of the host. Of a drain that others made it is no owner: it holds it if we
    are in it and no other DPU needs it."""
    if seen.node is not None and nodeeffect.held(seen.node, seen.dpu.uid):
        return True
    drain = _drain_to_undo(seen)
    return drain is not None and (nodeeffect.owned(drain, seen.dpu.uid) or not nodeeffect.ours(drain))


async def mark(hands: Hands, seen: Seen) -> Changes | None:
    """Puts labels or taint on the host's Node."""
    node, effect = seen.node, seen.dpu.spec.node_effect
    if node is not None and (patch := nodeeffect.apply(node, seen.dpu.uid, effect, seen.dpu.namespace)) is not None:
        await hands.client.merge_patch(node, patch, resource_version=node.metadata.resource_version)
        what = "labelled" if effect.custom_label else "tainted"
        hands.events.normal(seen.dpu, "NodeEffectApplied", f"node {node.name} is {what}", related=node, weight="step")
    return None


async def ask_for_drain(hands: Hands, seen: Seen) -> Changes | None:
    """Asks the maintenance operator for the host, by a request of our own or by joining the one that is there.

    :raises Terminal: if the API refuses the request: there is no maintenance operator, or it does not let us.
    """
    try:
        if seen.maintenance is None:
            await hands.client.create(nodeeffect.maintenance_for(seen.dpu))
            note = f"node {seen.dpu.spec.node_name} is to be drained"
            hands.events.normal(seen.dpu, "DrainRequested", note, weight="step")
        elif patch := nodeeffect.join(seen.maintenance, seen.dpu):
            await _edit(hands, seen.maintenance, patch)
    except (NotFound, Forbidden, Invalid) as error:
        raise Terminal("ErrorOccured", f"the host can't be drained: {error.message}") from error
    return None


async def undo(hands: Hands, seen: Seen) -> Changes | None:
    """Takes from the host what this DPU holds of it, and those that are no more. What is gone already is fine."""
    node = seen.node
    try:
        if node is not None and (patch := nodeeffect.undo(node, seen.dpu.uid, *_lost(seen, node))) is not None:
            await hands.client.merge_patch(node, patch, resource_version=node.metadata.resource_version)
            whom = "this DPU" if nodeeffect.held(node, seen.dpu.uid) else "a DPU that is no more"
            note = f"node {node.name} is rid of what it bore for {whom}"
            hands.events.normal(seen.dpu, "NodeEffectUndone", note, related=node, weight="step")
        if (maintenance := _drain_to_undo(seen)) is not None:
            await _end_drain(hands, seen, maintenance)
    except NotFound:
        return None
    return None


async def let_go(hands: Hands, seen: Seen) -> Changes | None:
    """Gives up our request for a drain that somebody deletes."""
    if seen.maintenance is not None and (patch := nodeeffect.leave(seen.maintenance, seen.dpu.uid, seen.siblings)):
        await _edit(hands, seen.maintenance, patch)
    return None


async def _end_drain(hands: Hands, seen: Seen, maintenance: NodeMaintenance) -> None:
    needed = nodeeffect.needed_by_others(maintenance, seen.siblings)
    if patch := nodeeffect.leave(maintenance, seen.dpu.uid, seen.siblings):
        maintenance = await _edit(hands, maintenance, patch)
    if needed:
        return
    note = f"node {maintenance.spec.node_name} need not be drained any more"
    hands.events.normal(seen.dpu, "NodeEffectUndone", note, weight="step")
    if nodeeffect.ours(maintenance) and not maintenance.deleting:
        # Another DPU may ask for it at this very moment: then it is not deleted but looked at again.
        await hands.client.delete(maintenance, resource_version=maintenance.metadata.resource_version)


def _lost(seen: Seen, node: Node) -> set[str]:
    """Who holds something of the host and is none of its DPUs any more."""
    return nodeeffect.lost(node, {seen.dpu.uid, *(other.uid for other in seen.siblings)}, seen.watched)


def _drain_to_undo(seen: Seen) -> NodeMaintenance | None:
    """The request for the host's drain, if this DPU holds it, or it is there for DPUs that no longer need it."""
    found = seen.maintenance
    # Whatever the DPU's effect is by now: it may have been another when the drain was asked for.
    if found is None:
        return None
    # Of one that somebody deletes only our request is to be given up: it is waited for, and the host stays cordoned.
    if nodeeffect.owned(found, seen.dpu.uid) and not found.deleting:
        return found
    return found if nodeeffect.requested(found) and not nodeeffect.needed_by_others(found, seen.siblings) else None


async def _edit(hands: Hands, maintenance: NodeMaintenance, patch: dict[str, Any]) -> NodeMaintenance:
    """Locked on the version that was read: its API wants that of everybody who shares it."""
    return await hands.client.merge_patch(maintenance, patch, resource_version=maintenance.metadata.resource_version)
