"""What a DPUSet does next: which DPUs to replace, in which order, within which budget.

``Recreate`` changes no DPU that exists: a DPU that a user deletes is made anew from the template. ``RollingUpdate`` replaces
DPUs whose BFB or flavor differs from the template, in order of name: those that are unavailable anyway at once, available
ones while the budget of unavailable DPUs lasts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from dpf.runtime.errors import Terminal

_PERCENT = re.compile(r"0*([0-9]{1,3})%", re.ASCII)

MAX_UNAVAILABLE = 1
"""Budget of a rolling update that names none."""


@dataclass(frozen=True)
class Member:
    """A DPU of the set, as far as a rollout looks at it."""

    name: str
    available: bool
    outdated: bool


def budget(max_unavailable: int | str | None, total: int) -> int:
    """How many of ``total`` DPUs may be unavailable: percentages are rounded up, and it is at least 1.

    :raises Terminal: if the text is no percentage; the CRD lets none through that is not.
    """
    if isinstance(max_unavailable, str):
        found = _PERCENT.fullmatch(max_unavailable)
        if found is None:
            message = f"spec.strategy.rollingUpdate.maxUnavailable is {max_unavailable[:40]!r}; write a number or 10%"
            raise Terminal("InvalidMaxUnavailable", message)
        amount = math.ceil(int(found[1]) * total / 100)
    else:
        amount = MAX_UNAVAILABLE if max_unavailable is None else max_unavailable
    return max(1, min(amount, total))


def replaceable(members: Iterable[Member], *, wanted: int, allowed: int) -> list[str]:
    """Names of the DPUs that a rolling update deletes now, in order.

    :param wanted: number of DPUs that the set should have.
    :param allowed: how many of them may be unavailable.
    """
    members = sorted(members, key=lambda member: member.name)
    unavailable = max(0, wanted - len(members)) + sum(not member.available for member in members)
    outdated = [member for member in members if member.outdated]
    broken = [member.name for member in outdated if not member.available]
    room = max(0, allowed - unavailable)
    return broken + [member.name for member in outdated if member.available][:room]
