"""What a DPUSet does next: which DPUs to replace, in which order, within which budget.

``Recreate`` changes no DPU that exists: a DPU that a user deletes is made anew from the template. ``RollingUpdate`` replaces
DPUs whose BFB or flavor differs from the template, those first that are not available, and never has more of them in flight than
the budget says: a DPU that is not available may be so for a minute, because its cluster is, and all of them at once too.
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
    """A DPU of the set, as far as a rollout looks at it.

    :param outdated: it must be provisioned anew to be as the template says.
    :param failed: it is in phase Error.
    :param leaving: it is being deleted.
    :param selected: its card is selected now, so that it would be made anew.
    """

    name: str
    available: bool
    outdated: bool
    failed: bool = False
    leaving: bool = False
    selected: bool = True

    @property
    def in_flight(self) -> bool:
        """Whether it is being replaced, or was and is not of use yet."""
        return self.leaving or not (self.outdated or self.available)

    @property
    def held(self) -> bool:
        """Whether it uses up the budget and nothing that the rollout does ends that: it is of no use, and can't be replaced."""
        return self.outdated and not (self.available or self.leaving or self.selected)


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


def replaceable(members: Iterable[Member], *, missing: int, allowed: int) -> list[str]:
    """Names of the DPUs that a rolling update deletes now, in order: those in Error, others that are not available, and
    available ones, each by name.

    :param missing: selected cards that have no DPU and get one.
    :param allowed: how many DPUs may be unavailable. As many may be in flight; of the available ones only so many go that no
        more than that are unavailable.
    """
    members = list(members)
    in_flight = missing + sum(member.in_flight for member in members)
    unavailable = missing + sum(not member.available for member in members)
    outdated = sorted(
        (member for member in members if member.outdated and member.selected and not member.leaving),
        key=lambda member: (not member.failed, member.name),
    )
    down = [member.name for member in outdated if not member.available][: max(0, allowed - in_flight)]
    up = [member.name for member in outdated if member.available][: max(0, allowed - unavailable)]
    return down + up
