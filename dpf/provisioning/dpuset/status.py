"""What a DPUSet says of its DPUs together: from counts alone, so that it costs the same for one as for a thousand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dpf.provisioning.dpuset.members import AVAILABLE, LIKE, OF_SET, PHASE, in_phase, template_of
from dpf.provisioning.dpuset.rollout import budget
from dpf.runtime.conditions import new, set_condition
from dpf.runtime.informer import Informer
from dpf.runtime.meta import Condition
from dpf_api.dpu import DPU, Phase
from dpf_api.dpuset import ConditionType as SetCondition
from dpf_api.dpuset import DPUSet, DPUSetStatus, StrategyType


def summary(dpuset: DPUSet, wanted: int, dpus: Informer[DPU], taken: Sequence[str] = ()) -> DPUSetStatus:
    """The set's status, from counts alone.

    :param taken: what is said of cards that another's DPU has.
    """
    counts = {phase.value: dpus.count_by(PHASE, in_phase(dpuset.uid, phase)) for phase in Phase}
    tally = Tally(
        wanted=wanted,
        there=dpus.count_by(OF_SET, dpuset.uid),
        updated=dpus.count_by(LIKE, template_of(dpuset)),
        available=dpus.count_by(AVAILABLE, dpuset.uid),
        failed=counts[Phase.ERROR.value],
    )
    ready = _ready(dpuset, tally, taken)
    conditions = set_condition(dpuset.status.conditions, ready)
    return dpuset.status.model_copy(
        update={
            "dpu_statistics": {phase: count for phase, count in counts.items() if count},
            "replicas": wanted,
            "ready_replicas": tally.available,
            "updated_replicas": tally.updated,
            "reason": "" if ready.status == "True" else ready.reason,
            "observed_generation": dpuset.metadata.generation,
            "conditions": set_condition(conditions, _progressing(dpuset, tally)),
        }
    )


@dataclass(frozen=True)
class Tally:
    """How many DPUs of a set there are to be, are there, are as the template says, are available, have failed."""

    wanted: int
    there: int
    updated: int
    available: int
    failed: int


def _ready(dpuset: DPUSet, tally: Tally, taken: Sequence[str]) -> Condition:
    def condition(status: bool, reason: str, message: str = "") -> Condition:
        return new(SetCondition.READY.value, status, reason, message, generation=dpuset.metadata.generation)

    if tally.wanted == 0:
        message = "no card is selected; look at nodeSelector, dpuSelector and the labels of the nodes"
        return condition(False, "NothingSelected", message)
    if tally.available >= tally.wanted:
        return condition(True, "AllReady")
    message = f"{tally.available} of {tally.wanted} DPUs are ready, {tally.failed} failed"
    if taken:
        more = f", and {len(taken) - 1} cards more" if len(taken) > 1 else ""
        return condition(False, "CardTaken", f"{message}; {taken[0]}{more}")
    return condition(False, "Failed" if tally.failed else "Provisioning", message)


def _progressing(dpuset: DPUSet, tally: Tally) -> Condition:
    """Whether the template gets to the DPUs, as a Deployment tells it of its pods."""

    def condition(status: bool, reason: str, message: str) -> Condition:
        return new(SetCondition.PROGRESSING.value, status, reason, message, generation=dpuset.metadata.generation)

    outdated = tally.there - tally.updated
    so_far = f"{tally.updated} of {tally.wanted} DPUs are as the template says"
    if not outdated and tally.there >= tally.wanted:
        return condition(True, "UpToDate", so_far)
    if not outdated:
        return condition(True, "Creating", so_far)
    strategy = dpuset.spec.strategy
    if strategy is None or strategy.type is not StrategyType.ROLLING_UPDATE:
        return condition(False, "Recreate", f"{so_far}; delete the {outdated} others to have them provisioned anew")
    pace = strategy.rolling_update.max_unavailable if strategy.rolling_update is not None else None
    allowed, unavailable = budget(pace, tally.wanted), tally.wanted - tally.available
    if unavailable >= allowed:
        why = f"{unavailable} are unavailable ({tally.failed} failed) and {allowed} may be; goes on when one is Ready"
        return condition(True, "BudgetUsedUp", f"{so_far}; {why}")
    return condition(True, "RollingUpdate", so_far)
