"""Conditions: what an object says of itself.

A condition's ``last_transition_time`` moves only when its ``status`` does (Kubernetes API conventions), so that "since when"
can be read off it; reason and message may change freely.
"""

from __future__ import annotations

from collections.abc import Iterable

from dpf.runtime.log import hidden
from dpf.runtime.meta import Condition, now


def new(kind: str, status: bool | str, reason: str, message: str = "", *, generation: int = 0) -> Condition:
    """A condition of type ``kind``; True and False stand for the words, ``"Unknown"`` may be given as such.

    The message is often an error's text: secrets are hidden in it, as in logs.
    """
    word = status if isinstance(status, str) else str(status)
    return Condition(type=kind, status=word, reason=reason, message=hidden(message), observed_generation=generation)


def find(conditions: Iterable[Condition] | None, kind: str) -> Condition | None:
    """The condition of that type, or None."""
    return next((condition for condition in conditions or () if condition.type == kind), None)


def is_true(conditions: Iterable[Condition] | None, kind: str) -> bool:
    """Whether the condition is there and True."""
    condition = find(conditions, kind)
    return condition is not None and condition.status == "True"


def set_condition(conditions: Iterable[Condition] | None, condition: Condition) -> list[Condition]:
    """The conditions with this one in its type's place, or at the end.

    A ``last_transition_time`` that is given is kept; else it is the old one while the status stays the same, else now.
    """
    current = list(conditions or ())
    old = find(current, condition.type)
    if condition.last_transition_time is None:
        same = old is not None and old.status == condition.status
        since = old.last_transition_time if old is not None and same else None
        condition = condition.model_copy(update={"last_transition_time": since or now().replace(microsecond=0)})
    if old is None:
        return [*current, condition]
    return [condition if each.type == condition.type else each for each in current]
