"""A line of ``make bench``."""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Result:
    """One figure. ``goal`` is what it must not exceed, None where it is only shown; ``compared_with`` says what else ran."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    compared_with: str = ""
    detail: str = ""

    def line(self) -> str:
        """As JSON, with whether the goal is met."""
        met = None if self.goal is None else self.value <= self.goal
        return json.dumps({**asdict(self), "value": round(self.value, 3), "met": met})


def say(text: str) -> None:
    """Progress, on standard error: standard output has the figures only."""
    sys.stderr.write(f"bench: {text}\n")
    sys.stderr.flush()


def median(values: Sequence[float]) -> float:
    """The median of a few runs."""
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    """Smallest and largest, for the detail of a result."""
    return f"{min(values):.3g} to {max(values):.3g} in {len(values)} runs"


def size(variable: str, full: int) -> int:
    """How much of something a bench takes: ``full``, on which its goals hold, or what the environment says, to try it out."""
    return int(os.environ.get(variable) or full)
