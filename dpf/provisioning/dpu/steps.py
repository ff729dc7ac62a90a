"""What a phase can decide: to act, to wait, or to go on. Whatever it is, a condition says it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.observe import Seen
from dpf.runtime import conditions
from dpf.runtime.meta import Condition
from dpf_api.dpu import ConditionType, Phase

Changes = Mapping[str, Any]
"""Fields of a DPU's status to their new values."""


def _nothing() -> None:
    """What most actions do after the status was written."""


@dataclass(frozen=True)
class Remember:
    """What an action wants written before anything else is done, so that it is never begun twice.

    :param then: called once it is written.
    :param conditions: written with it: what is waited for next, if that is known, so that it is one write.
    """

    changes: Changes
    then: Callable[[], None] = _nothing
    conditions: tuple[Condition, ...] = ()


Action = Callable[[Hands, Seen], Awaitable[Changes | Remember | None]]
"""Does one thing to the world; returns what the status should keep of it."""


@dataclass(frozen=True)
class Act:
    """Do something, then decide again. If it fails, the condition says why (``reason``) and the DPU is tried again.

    :param also: conditions that hold whether it fails or not.
    :param alone: whether it is done for one DPU of a host at a time, and decided on once more when the DPU has its turn.
    """

    do: Action
    condition: ConditionType
    reason: str = "ErrorOccured"
    also: tuple[Condition, ...] = ()
    alone: bool = False


@dataclass(frozen=True)
class Hold:
    """Wait. What is waited for wakes the DPU; ``after`` (seconds) is for deadlines and for devices that can't call back.

    :param also: other conditions, of what is amiss without being waited for.
    :param cluster: the DPU cluster (``namespace/name``) that must become reachable first, if that is what is waited for.
    """

    condition: Condition
    also: tuple[Condition, ...] = ()
    after: float | None = None
    cluster: str = ""
    changes: Changes = field(default_factory=dict)


@dataclass(frozen=True)
class Advance:
    """Go on with a phase, in this same pass."""

    phase: Phase
    conditions: tuple[Condition, ...] = ()
    changes: Changes = field(default_factory=dict)


Step = Act | Hold | Advance


def done(kind: ConditionType, message: str = "", *, reason: str = "") -> Condition:
    """A condition that is True; its reason is its type, as the API has always had it, unless given."""
    return conditions.new(kind.value, True, reason or kind.value, message)


def waits(kind: ConditionType, reason: str, message: str) -> Condition:
    """A condition that is False; the message says what comes next."""
    return conditions.new(kind.value, False, reason, message)


def fail(kind: ConditionType, reason: str, message: str) -> Advance:
    """Give up: phase Error, and the condition says why."""
    return Advance(Phase.ERROR, (waits(kind, reason, message),))
