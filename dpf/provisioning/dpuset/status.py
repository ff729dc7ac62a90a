"""What a DPUSet says of its DPUs together: from counts alone, so that it costs next to nothing for a thousand."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dpf.provisioning.dpuset.members import AVAILABLE, LEAVING, LIKE, OF_SET, PHASE, UNDER_WAY, in_phase, template_of
from dpf.provisioning.dpuset.rollout import budget
from dpf.runtime.conditions import new, set_condition
from dpf.runtime.informer import Informer
from dpf.runtime.meta import Condition, Key
from dpf_api.dpu import DPU, Phase
from dpf_api.dpuset import ConditionType as SetCondition
from dpf_api.dpuset import DPUSet, DPUSetStatus, StrategyType

NAMED = 3
"""DPUs that a message names."""


@dataclass(frozen=True)
class Tally:
    """How the DPUs of a set stand."""

    wanted: int
    """How many there are to be."""
    missing: tuple[str, ...]
    """Those that are not there and can be made."""
    leaving: tuple[str, ...]
    """Those that are being deleted to be made anew."""
    staying: int
    """How many are there and not being deleted."""
    updated: int
    """How many of these are as the template says."""
    under_way: int
    """How many of these are not available."""
    available: int
    failed: int

    @property
    def outdated(self) -> int:
        """How many are not as the template says."""
        return self.staying - self.updated

    @property
    def in_flight(self) -> int:
        """How many are being made anew."""
        return len(self.missing) + len(self.leaving) + self.under_way

    @property
    def unavailable(self) -> int:
        """How many are not available, whatever the reason."""
        return len(self.missing) + len(self.leaving) + self.staying - self.available


def tally(dpuset: DPUSet, wanted: Collection[str], dpus: Informer[DPU], taken: Collection[str] = ()) -> Tally:
    """Counts a set's DPUs.

    :param wanted: names of the DPUs that there are to be.
    :param taken: of these the ones that can't be made, as another's DPU has their card.
    """
    uid, like = dpuset.uid, template_of(dpuset)
    leaving = dpus.keys_by(LEAVING, uid)
    return Tally(
        wanted=len(wanted),
        missing=tuple(name for name in wanted if Key(dpuset.namespace, name) not in dpus and name not in taken),
        leaving=tuple(key.name for key in leaving if key.name in wanted),
        staying=dpus.count_by(OF_SET, uid) - len(leaving),
        updated=dpus.count_by(LIKE, like),
        under_way=dpus.count_by(UNDER_WAY, like),
        available=dpus.count_by(AVAILABLE, uid),
        failed=dpus.count_by(PHASE, in_phase(uid, Phase.ERROR)),
    )


def outdated(dpuset: DPUSet, dpus: Informer[DPU]) -> int:
    """How many of a set's DPUs stay and are not as the template says."""
    staying = dpus.count_by(OF_SET, dpuset.uid) - dpus.count_by(LEAVING, dpuset.uid)
    return staying - dpus.count_by(LIKE, template_of(dpuset))


def allowed(dpuset: DPUSet, wanted: int) -> int | None:
    """How many DPUs of the set a rolling update may have in flight; None if there is no rolling update."""
    strategy = dpuset.spec.strategy
    if strategy is None or strategy.type is not StrategyType.ROLLING_UPDATE:
        return None
    return budget(strategy.rolling_update.max_unavailable if strategy.rolling_update is not None else None, wanted)


def summary(
    dpuset: DPUSet, stand: Tally, dpus: Informer[DPU], taken: Sequence[str] = (), contested: Sequence[str] = ()
) -> DPUSetStatus:
    """The set's status.

    :param taken: what is said of cards that another's DPU has.
    :param contested: what is said of cards that other sets want too.
    """
    counts = {phase.value: dpus.count_by(PHASE, in_phase(dpuset.uid, phase)) for phase in Phase}
    ready = _ready(dpuset, stand, taken, contested)
    conditions = set_condition(dpuset.status.conditions, ready)
    return dpuset.status.model_copy(
        update={
            "dpu_statistics": {phase: count for phase, count in counts.items() if count},
            "replicas": stand.wanted,
            "ready_replicas": stand.available,
            "updated_replicas": stand.updated,
            "reason": "" if ready.status == "True" else ready.reason,
            "observed_generation": dpuset.metadata.generation,
            "conditions": set_condition(conditions, _progressing(dpuset, stand, dpus)),
        }
    )


def _ready(dpuset: DPUSet, stand: Tally, taken: Sequence[str], contested: Sequence[str]) -> Condition:
    def condition(status: bool, reason: str, *said: str) -> Condition:
        message = "; ".join(each for each in (*said, _first_of(contested)) if each)
        return new(SetCondition.READY.value, status, reason, message, generation=dpuset.metadata.generation)

    if stand.wanted == 0:
        message = "no card is selected; look at nodeSelector, dpuSelector and the labels of the nodes"
        return condition(False, "NothingSelected", message)
    if stand.available >= stand.wanted:
        return condition(True, "AllReady")
    message = f"{stand.available} of {stand.wanted} DPUs are ready, {stand.failed} failed"
    if taken:
        return condition(False, "CardTaken", message, _first_of(taken))
    return condition(False, "Failed" if stand.failed else "Provisioning", message)


def _first_of(said: Sequence[str]) -> str:
    more = f", and {len(said) - 1} cards more" if len(said) > 1 else ""
    return f"{said[0]}{more}" if said else ""


def _progressing(dpuset: DPUSet, stand: Tally, dpus: Informer[DPU]) -> Condition:
    """Whether the template gets to the DPUs, as a Deployment tells it of its pods."""

    def condition(status: bool, reason: str, message: str) -> Condition:
        return new(SetCondition.PROGRESSING.value, status, reason, message, generation=dpuset.metadata.generation)

    so_far = f"{stand.updated} of {stand.wanted} DPUs are as the template says"
    if not stand.outdated:
        whole = stand.staying >= stand.wanted
        return condition(True, "UpToDate" if whole else "Creating", so_far)
    room = allowed(dpuset, stand.wanted)
    if room is None:
        others = f"delete the {stand.outdated} others to have them provisioned anew"
        return condition(False, "Recreate", f"{so_far}; {others}")
    if stand.in_flight >= room:
        why = f"{stand.unavailable} are unavailable ({stand.failed} failed) and {room} may be"
        return condition(True, "BudgetUsedUp", f"{so_far}; {why}; goes on when {_awaited(dpuset, stand, dpus)}")
    return condition(True, "RollingUpdate", so_far)


def _awaited(dpuset: DPUSet, stand: Tally, dpus: Informer[DPU]) -> str:
    """What a rollout that pauses waits for: the DPUs in flight, and those of them that somebody must do something about."""
    under_way = {key.name for key in dpus.keys_by(UNDER_WAY, template_of(dpuset))}
    failed = [key.name for key in dpus.keys_by(PHASE, in_phase(dpuset.uid, Phase.ERROR)) if key.name in under_way]
    words = f"one of those being provisioned anew is Ready: {_names(under_way.union(stand.missing, stand.leaving))}"
    return f"{words}. In Error, to be retried or deleted: {_names(failed)}" if failed else words


def _names(names: Collection[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(sorted(names)[:NAMED]) + more
