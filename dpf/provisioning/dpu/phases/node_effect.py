"""Node Effect: the host is made ready for the card to be worked on, in the way that the DPU asks for."""

from __future__ import annotations

from dpf.provisioning.dpu import effects, nodeeffect
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Act, Advance, Hold, Step, done, fail, waits
from dpf_api.dpu import ConditionType, Phase
from dpf_api.names import REQUESTOR

READY = ConditionType.NODE_EFFECT_READY

FINISHED = Advance(Phase.PENDING, (done(READY),))


def decide(seen: Seen) -> Step:
    effect = seen.dpu.spec.node_effect
    if nodeeffect.none(effect):
        return FINISHED
    if seen.node is None:
        message = f"node {seen.dpu.spec.node_name} is gone from the host cluster; waiting for it to come back"
        return Hold(waits(READY, "NodeNotFound", message))
    if nodeeffect.marks(effect):
        return FINISHED if nodeeffect.marked(seen.node, seen.dpu.uid, effect) else Act(effects.mark, READY)
    return _drain(seen)


def _drain(seen: Seen) -> Step:
    maintenance = seen.maintenance
    if maintenance is not None and maintenance.deleting:
        message = (
            f"an earlier NodeMaintenance {maintenance.name} is being removed; waiting for the maintenance operator"
        )
        return Hold(waits(READY, "DrainEnding", message))
    if maintenance is None or REQUESTOR not in maintenance.spec.additional_requestors:
        return Act(effects.ask_for_drain, READY)
    if maintenance.spec.node_name != seen.dpu.spec.node_name:
        message = f"NodeMaintenance {maintenance.name} is for node {maintenance.spec.node_name!r}; remove it"
        return fail(READY, "ErrorOccured", message)
    if not nodeeffect.drained(maintenance):
        message = (
            f"node {seen.dpu.spec.node_name} is being drained; "
            f"`kubectl describe nodemaintenance {maintenance.name}` shows how far it is"
        )
        return Hold(waits(READY, "Draining", message))
    return FINISHED
