"""Calls that may hang in the kernel, each in a daemon thread of its own.

``asyncio.to_thread`` has a few threads for everything, so what hangs there is soon in the way of what would answer; and a process
that ends waits for them. A thread that is left behind here is in nobody's way, and while it is there no other follows it.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from time import monotonic
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_calls: dict[Future[Any], tuple[str, float]] = {}
"""Those of :func:`within` that run: what they work on, and when they have had their time. One for the process, as what they work
on is the machine's."""


def start(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
    """Calls it in a thread."""
    call = _running()
    threading.Thread(target=_run, args=(call, partial(work, *args, **kwargs)), name="dpf-call", daemon=True).start()
    return call


async def outcome(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Calls it in a thread and waits for it, however long it takes. One who is cancelled leaves it behind."""
    return await asyncio.wrap_future(start(work, *args, **kwargs))


async def within(timeout: float, what: str, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Calls it in a thread and waits for it.

    :param timeout: seconds.
    :param what: what it works on, a path for example.
    :raises TimeoutError: if it takes longer; at once if an earlier call of the same ``what`` does and holds its thread still.
    """
    late = TimeoutError(errno.ETIMEDOUT, f"no answer for {timeout:g} s", what)
    if any(each == what and monotonic() >= due for each, due in list(_calls.values())):
        raise late
    call = start(work, *args, **kwargs)
    _calls[call] = what, monotonic() + timeout
    call.add_done_callback(_ended)
    try:
        async with asyncio.timeout(timeout) as limit:
            return await asyncio.wrap_future(call)
    except TimeoutError:
        if limit.expired():
            raise late from None
        raise


class Line:
    """A thread that does one call after the other, so that one which was left behind is done before what comes after it."""

    def __init__(self) -> None:
        self._todo: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self.ended = start(self._run)
        """When it has done all after :meth:`close`."""

    def add(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Has it called when what was added before is done."""
        call = _running()
        self._todo.put((call, partial(work, *args, **kwargs)))
        return call

    async def outcome(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Adds it and waits for it, however long it takes. One who is cancelled leaves it behind."""
        return await asyncio.wrap_future(self.add(work, *args, **kwargs))

    async def close(self, timeout: float) -> None:
        """Nothing is added any more; waits for the end, but not for long.

        :param timeout: seconds.
        """
        self._todo.put(None)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(self.ended), timeout)

    def _run(self) -> None:
        while (each := self._todo.get()) is not None:
            _run(*each)
            del each


def _running() -> Future[Any]:
    call: Future[Any] = Future()
    # Or who is cancelled while it waits would cancel the call too, which then had nowhere to put its outcome.
    call.set_running_or_notify_cancel()
    return call


def _ended(call: Future[Any]) -> None:
    _calls.pop(call, None)


def _run(call: Future[R], work: Callable[[], R]) -> None:
    try:
        call.set_result(work())
    except BaseException as error:  # noqa: BLE001  (whoever waits gets it)
        call.set_exception(error)
