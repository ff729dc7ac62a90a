"""Calls that may hang in the kernel, each in a daemon thread of its own.

``asyncio.to_thread`` has a few threads for everything, so what hangs there is soon in the way of what would answer; and a process
that ends waits for them. A thread that is left behind here is in nobody's way, and while it is there no other follows it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from time import monotonic
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_calls: dict[Future[Any], tuple[str, float]] = {}
"""Those of :func:`within` that run: what they work on, and when they have had their time. One for the process, as what they work
on is the machine's."""


def start(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
    """Calls it in a thread."""
    call: Future[R] = Future()
    # Or who is cancelled while it waits would cancel the call too, which then had nowhere to put its outcome.
    call.set_running_or_notify_cancel()
    threading.Thread(
        target=_run, args=(call, partial(work, *args, **kwargs)), name="dpf-host-call", daemon=True
    ).start()
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
    if any(each == what and monotonic() >= due for each, due in list(_calls.values())):
        raise TimeoutError
    call = start(work, *args, **kwargs)
    _calls[call] = what, monotonic() + timeout
    call.add_done_callback(_ended)
    async with asyncio.timeout(timeout):
        return await asyncio.wrap_future(call)


def _ended(call: Future[Any]) -> None:
    _calls.pop(call, None)


def _run(call: Future[R], work: Callable[[], R]) -> None:
    try:
        call.set_result(work())
    except BaseException as error:  # noqa: BLE001  (whoever waits gets it)
        call.set_exception(error)
