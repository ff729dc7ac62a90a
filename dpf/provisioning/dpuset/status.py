"""What a DPUSet says of its DPUs together: from counts alone, so that it costs next to nothing for a thousand."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dpf.provisioning.dpuset.members import (
    AVAILABLE,
    LEAVING,
    LIKE,
    OF_SET,
    PHASE,
    UNDER_WAY,
    in_phase,
    state,
    template_of,
)
from dpf.provisioning.dpuset.rollout import Member, budget
from dpf.runtime.conditions import new, set_condition
from dpf.runtime.informer import Informer
from dpf.runtime.meta import Condition, Key
from dpf_api.dpu import DPU, Phase
from dpf_api.dpuset import LONGEST_NAME, DPUSet, DPUSetStatus, StrategyType
from dpf_api.dpuset import ConditionType as SetCondition

NAMED = 3
"""DPUs that a message names."""


@dataclass
class Refusals:
    """What the API server did not let be done at the last look at the set: its answers, by the DPU's name."""

    made: dict[str, str] = field(default_factory=dict)
    deleted: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tally:
    """How the DPUs of a set stand."""

    wanted: int
    """How many cards are selected."""
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
    taken: int = 0
    """How many of those that are wanted can't be made, as another's DPU has their card."""
    unselected: tuple[Member, ...] = ()
    """Those that stay though their card is not selected: its labels are just not there, or they can't be deleted."""
    unmade: Mapping[str, str] = field(default_factory=dict)
    """Of those that are not there the ones that the API server did not let be made, and its answer."""
    undeleted: Mapping[str, str] = field(default_factory=dict)
    """Of those that stay the ones that it did not let be deleted."""

    @property
    def total(self) -> int:
        """How many there are to be."""
        return self.wanted + len(self.unselected)

    @property
    def attainable(self) -> int:
        """How many of these the set can have: a share of them is what a rolling update may have unavailable."""
        return self.total - self.taken

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

    @property
    def replaceable(self) -> int:
        """How many are not as the template says and would be made anew."""
        return self.outdated - sum(member.outdated for member in self.unselected)

    @property
    def held(self) -> int:
        """How many use up the budget without being made anew."""
        return sum(member.held for member in self.unselected)

    @property
    def down(self) -> int:
        """How many are not available, and would be made anew."""
        return self.unavailable - self.in_flight - self.held

    def room(self, allowed: int) -> bool:
        """Whether a rollout that has something to replace may replace one now; as :func:`rollout.replaceable` decides it.

        :param allowed: how many may be unavailable.
        """
        return self.unavailable < allowed or (self.down > 0 and self.in_flight < allowed)


def tally(
    dpuset: DPUSet,
    wanted: Collection[str],
    dpus: Informer[DPU],
    taken: Collection[str] = (),
    refusals: Refusals | None = None,
) -> Tally:
    """Counts a set's DPUs.

    :param wanted: names of the DPUs of the cards that are selected.
    :param taken: of these the ones that can't be made, as another's DPU has their card.
    """
    uid, like, refusals = dpuset.uid, template_of(dpuset), refusals or Refusals()
    leaving = dpus.keys_by(LEAVING, uid)
    missing = tuple(name for name in wanted if Key(dpuset.namespace, name) not in dpus and name not in taken)
    others = (dpus.get(key.name, key.namespace) for key in dpus.keys_by(OF_SET, uid) if key.name not in wanted)
    return Tally(
        wanted=len(wanted),
        missing=missing,
        leaving=tuple(key.name for key in leaving if key.name in wanted),
        staying=dpus.count_by(OF_SET, uid) - len(leaving),
        updated=dpus.count_by(LIKE, like),
        under_way=dpus.count_by(UNDER_WAY, like),
        available=dpus.count_by(AVAILABLE, uid),
        failed=dpus.count_by(PHASE, in_phase(uid, Phase.ERROR)),
        taken=sum(name in taken for name in wanted),
        unselected=tuple(state(dpuset, dpu, selected=False) for dpu in others if dpu is not None and not dpu.deleting),
        unmade={name: said for name, said in refusals.made.items() if name in missing},
        undeleted={
            name: said
            for name, said in refusals.deleted.items()
            if (dpu := dpus.get(name, dpuset.namespace)) is not None and not dpu.deleting
        },
    )


def count_outdated(dpuset: DPUSet, dpus: Informer[DPU]) -> int:
    """How many of a set's DPUs stay and are not as the template says."""
    staying = dpus.count_by(OF_SET, dpuset.uid) - dpus.count_by(LEAVING, dpuset.uid)
    return staying - dpus.count_by(LIKE, template_of(dpuset))


def allowed(dpuset: DPUSet, total: int) -> int | None:
    """How many DPUs of the set a rolling update may have in flight; None if there is no rolling update.

    :param total: how many DPUs the set can have, also those that stay though no label tells of their card: they take up room.
    """
    strategy = dpuset.spec.strategy
    if strategy is None or strategy.type is not StrategyType.ROLLING_UPDATE:
        return None
    return budget(strategy.rolling_update.max_unavailable if strategy.rolling_update is not None else None, total)


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
            "replicas": stand.total,
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

    if why := unlabelled(dpuset):
        return condition(False, "NameTooLong", why)
    down = [member for member in stand.unselected if not member.available]
    if stand.total == 0:
        message = "no card is selected; look at nodeSelector, dpuSelector and the labels of the nodes"
        return condition(False, "NothingSelected", message)
    if stand.available >= stand.total:
        return condition(True, "AllReady", *_why_kept(stand, stand.unselected))
    message = f"{stand.available} of {stand.total} DPUs are ready, {stand.failed} failed"
    said = [*_why_kept(stand, down), *_refused("made", stand.unmade)]
    if taken:
        return condition(False, "CardTaken", message, _first_of(taken), *said)
    if down and len(down) == stand.total - stand.available:
        return condition(False, _reason_kept(stand, down), message, *said)
    return condition(False, "Failed" if stand.failed else "Provisioning", message, *said)


def unlabelled(dpuset: DPUSet) -> str:
    """What keeps a set that was stored before its name was looked at from having DPUs at all; empty if nothing does."""
    if (length := len(dpuset.name)) <= LONGEST_NAME:
        return ""
    return (
        f"no DPU can be made: metadata.name becomes a label of the set's DPUs, which may have {LONGEST_NAME} characters, and has"
        f" {length}; delete the DPUSet and make one with a shorter name"
    )


def _first_of(said: Sequence[str]) -> str:
    more = f" (other cards like it: {len(said) - 1})" if len(said) > 1 else ""
    return f"{said[0]}{more}" if said else ""


def _progressing(dpuset: DPUSet, stand: Tally, dpus: Informer[DPU]) -> Condition:
    """Whether the template gets to the DPUs, as a Deployment tells it of its pods."""

    def condition(status: bool, reason: str, message: str) -> Condition:
        return new(SetCondition.PROGRESSING.value, status, reason, message, generation=dpuset.metadata.generation)

    if why := unlabelled(dpuset):
        return condition(False, "NameTooLong", why)
    so_far = f"{stand.updated} of {stand.total} DPUs are as the template says"
    left = [member for member in stand.unselected if member.outdated]
    if not stand.outdated:
        whole = stand.staying >= stand.total
        message = "; ".join([so_far, *_refused("made", stand.unmade)])
        return condition(True, "UpToDate" if whole else "Creating", message)
    room = allowed(dpuset, stand.attainable)
    if room is None:
        others = f"delete the other {stand.outdated} to have them provisioned anew"
        return condition(False, "Recreate", "; ".join([so_far, others, *_why_kept(stand, left)]))
    if not stand.replaceable:
        return condition(False, _reason_kept(stand, left), "; ".join([so_far, *_why_kept(stand, left)]))
    if stand.room(room):
        # Whatever may go is tried at each look, so what was not let go is what keeps the rollout.
        names = {member.name for member in stand.unselected}
        kept = {name: said for name, said in stand.undeleted.items() if name not in names}
        if kept:
            return condition(False, "DeletionFailed", "; ".join([so_far, *_refused("deleted", kept)]))
        return condition(True, "RollingUpdate", so_far)
    verb = "is" if stand.unavailable == 1 else "are"
    why = f"{so_far}; {stand.unavailable} {verb} unavailable ({stand.failed} failed) and {room} may be"
    if stand.held >= room and not stand.down:
        held = "; ".join(_why_kept(stand, [member for member in left if member.held]))
        return condition(False, "BudgetUsedUp", f"{why}; held up by DPUs that can't be replaced: {held}")
    down = _why_kept(stand, [member for member in stand.unselected if not member.available])
    message = "; ".join([why, f"goes on when {_awaited(dpuset, stand, dpus)}", *down, *_refused("made", stand.unmade)])
    return condition(True, "BudgetUsedUp", message)


def _why_kept(stand: Tally, which: Sequence[Member]) -> Iterator[str]:
    """Why DPUs of cards that are not selected stay as they are, and what to do about it."""
    kept = {each.name: stand.undeleted[each.name] for each in which if each.name in stand.undeleted}
    if names := [each.name for each in which if each.name not in kept]:
        yield lost(names)
    yield from _refused("deleted", kept)


def _reason_kept(stand: Tally, which: Sequence[Member]) -> str:
    return "DeletionFailed" if all(each.name in stand.undeleted for each in which) else "CardNotFound"


def lost(names: Collection[str]) -> str:
    """What is said of DPUs whose card the labels of their node do not tell of any more, and what to do about it."""
    return (
        f"node labels tell no more of the cards of {named(names)}: see with lspci whether the hosts have them, and that the"
        " labels come back; or delete these DPUs, which are made anew when their cards are back"
    )


def _refused(what: str, said: Mapping[str, str]) -> Iterator[str]:
    """What the API server did not let be done; by the first that it happened to."""
    if said:
        name = min(said)
        more = f" (and {len(said) - 1} more)" if len(said) > 1 else ""
        yield f"DPU {name}{more} can't be {what}, which is tried again: {said[name]}"


def _awaited(dpuset: DPUSet, stand: Tally, dpus: Informer[DPU]) -> str:
    """What a rollout that pauses waits for: the DPUs in flight, and those of them that somebody must do something about."""
    under_way = {key.name for key in dpus.keys_by(UNDER_WAY, template_of(dpuset))}
    failed = [key.name for key in dpus.keys_by(PHASE, in_phase(dpuset.uid, Phase.ERROR)) if key.name in under_way]
    words = f"one of these is Ready: {named(under_way.union(stand.missing, stand.leaving))}"
    words += f". In Error, to be retried or deleted: {named(failed)}" if failed else ""
    return words + (
        f". Being deleted, `dpfctl describe` tells how far: {named(stand.leaving)}" if stand.leaving else ""
    )


def named(names: Collection[str]) -> str:
    """DPUs in a sentence: the first ones by name, and how many more."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(sorted(names)[:NAMED]) + more
