"""The place of a worker, lent to another while its reconcile waits for somebody who may never answer.

A reconcile that asks another cluster or a device holds its worker until the answer or the deadline. A handful of objects of one
cluster that has just fallen silent would hold all workers, and everybody else's objects would wait for that deadline. So who waits
for longer than a moment lends its place: the controller starts another worker, and one leaves when the reconcile goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar

MOMENT = 1.0
"""Seconds; healthy clusters and devices answer within it, also when all are busy. Were it much shorter, a burst of work could hire
workers without end, and the worker limit is what keeps a thousand objects from being begun at once."""


class Places:
    """Of one controller's workers.

    :param hire: starts a worker.
    """

    def __init__(self, hire: Callable[[], None]) -> None:
        self._hire = hire
        self._surplus = 0
        """Workers that there are more than places."""

    def lend(self) -> None:
        """A worker's reconcile waits: another has its place."""
        if self._surplus:
            self._surplus -= 1
        else:
            self._hire()

    def take_back(self) -> None:
        """It goes on."""
        self._surplus += 1

    def is_one_too_many(self) -> bool:
        """Whether the worker that asks, between two objects, has no place; it leaves then."""
        if not self._surplus:
            return False
        self._surplus -= 1
        return True


PLACES: ContextVar[Places | None] = ContextVar("places", default=None)
"""Of the controller whose worker this is; None for who is no worker."""


@asynccontextmanager
async def elsewhere() -> AsyncIterator[None]:
    """For what waits neither for this process nor for its own API server: after a moment another object has the worker's place."""
    places, lent = PLACES.get(), False
    if places is None:
        yield
        return

    def lend() -> None:
        nonlocal lent
        lent = True
        places.lend()

    timer = asyncio.get_running_loop().call_later(MOMENT, lend)
    try:
        yield
    finally:
        timer.cancel()
        if lent:
            places.take_back()
