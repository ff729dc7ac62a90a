"""Node Effect: the host is made ready for the card to be worked on, in the way that the DPU asks for."""

from __future__ import annotations

from datetime import datetime

from dpf.provisioning.dpu import effects, needs, nodeeffect
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Act, Advance, Hold, Step, done, fail, waits
from dpf.provisioning.dpu.waiting import wait
from dpf_api.dpu import ConditionType, Phase
from dpf_api.nodemaintenance import NodeMaintenance

READY = ConditionType.NODE_EFFECT_READY

FINISHED = Advance(Phase.PENDING, (done(READY),))


def decide(seen: Seen) -> Step:
    effect = seen.dpu.spec.node_effect
    if nodeeffect.none(effect):
        return FINISHED
    if seen.node is None:
        return Hold(waits(READY, "NodeNotFound", needs.host_gone(seen.dpu)))
    if nodeeffect.marks(effect):
        return FINISHED if nodeeffect.marked(seen.node, seen.dpu.uid, effect) else Act(effects.mark, READY)
    return _drain(seen)


def _drain(seen: Seen) -> Step:
    maintenance = seen.maintenance
    if maintenance is not None and maintenance.deleting:
        # Whoever deletes it waits for those who asked for it, and so for us.
        if nodeeffect.requested(maintenance) and not nodeeffect.needed_by_others(maintenance, seen.siblings):
            return Act(effects.let_go, READY)
        return _slow(
            seen,
            "DrainEnding",
            f"an earlier NodeMaintenance {maintenance.name} is being removed; waiting for the maintenance operator",
            maintenance.metadata.deletion_timestamp,
            f"it is kept by finalizers {', '.join(maintenance.metadata.finalizers) or 'that are gone'} and by requestors "
            f"{', '.join(maintenance.spec.additional_requestors) or 'that are gone'}",
        )
    if maintenance is None or not nodeeffect.joined(maintenance, seen.dpu.uid):
        return Act(effects.ask_for_drain, READY)
    if maintenance.spec.node_name != seen.dpu.spec.node_name:
        message = f"NodeMaintenance {maintenance.name} is for node {maintenance.spec.node_name!r}; remove it"
        return fail(READY, "ErrorOccured", message)
    if not nodeeffect.drained(maintenance):
        return _slow(
            seen,
            "Draining",
            f"node {seen.dpu.spec.node_name} is being drained; "
            f"`kubectl describe nodemaintenance {maintenance.name}` shows how far it is",
            maintenance.metadata.creation_timestamp,
            _obstacle(maintenance),
        )
    return FINISHED


def _slow(seen: Seen, reason: str, message: str, since: datetime | None, then: str) -> Hold:
    return wait(
        seen,
        READY,
        reason,
        message,
        limit=seen.settings.drain_timeout,
        overdue="DrainOverdue",
        then=then,
        since=(since,),
    )


def _obstacle(maintenance: NodeMaintenance) -> str:
    """What keeps the host from being empty, as far as the maintenance operator says."""
    pods = nodeeffect.evicting(maintenance)
    if pods:
        more = f" and {len(pods) - 3} more" if len(pods) > 3 else ""
        return f"these pods are still there: {', '.join(map(str, pods[:3]))}{more}; look at their PodDisruptionBudgets"
    said = next((each for each in maintenance.status.conditions if each.type == "Ready"), None)
    if said is None:
        return "nothing was heard of the maintenance operator; look whether it runs"
    return f"the maintenance operator says {said.reason}: {said.message or 'no more'}"
