"""The library's test kit: time that passes when nobody has anything to do, waiting for the API to become as expected, and whether
anybody changed what he read."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from dpf.runtime.client import Client, decode
from dpf.runtime.errors import Gone, NotFound, TooManyRequests, Unavailable
from dpf.runtime.meta import T
from dpf.runtime.transport import REQUEST_TIMEOUT

R = TypeVar("R")

RETRY = 0.1
"""Seconds until a server that is away is asked again."""


class _Skipping(selectors.SelectSelector):
    """Never waits: where the loop would, its clock is moved on by as much."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everything waits for something that will never happen")
        if not ready and timeout is not None:
            self.now += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes at once. For code that waits for time and each other, not for sockets."""

    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.now


def run_virtual(work: Callable[[], Coroutine[Any, Any, R]]) -> R:
    """Runs ``work`` in virtual time and returns what it returns: an hour takes a millisecond."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work())


PATIENT = 2 * REQUEST_TIMEOUT
"""Seconds: as long as a request takes that an API server never answers, and one more."""


class Reads:
    """What was read from caches, and what of it somebody has changed since.

    Models are frozen, the dicts and lists in them are not, and whoever reads the same version reads the same object.
    """

    def __init__(self) -> None:
        self._read: dict[int, tuple[bytes, Any]] = {}

    def remember(self, raw: bytes, obj: Any) -> None:
        """The object was read; it came of these bytes."""
        self._read[id(obj)] = raw, obj

    def forget(self) -> None:
        """Holds nothing of what was read so far."""
        self._read.clear()

    def changed(self) -> list[Any]:
        """What is not any more what its bytes say. It is forgotten."""
        found = [obj for raw, obj in self._read.values() if decode(type(obj), raw) != obj]
        for obj in found:
            del self._read[id(obj)]
        return found


async def eventually(
    client: Client,
    kind: type[T],
    name: str,
    namespace: str = "",
    *,
    until: Callable[[T], bool] = lambda _: True,
    timeout: float = PATIENT,
) -> T:
    """The object once ``until`` holds for it, told by a watch.

    :param timeout: seconds to wait.
    :raises AssertionError: if it does not come to that; the message shows what was seen last.
    """
    last: T | None = None
    try:
        async with asyncio.timeout(timeout):
            while True:
                try:
                    async with aclosing(client.watch(kind, namespace, name=name)) as events:
                        async for event, obj in events:
                            last = None if event == "DELETED" else obj
                            if last is not None and until(last):
                                return last
                except (Gone, TooManyRequests, Unavailable):
                    await asyncio.sleep(RETRY)
    except TimeoutError:
        seen = last.model_dump_json(by_alias=True, exclude_unset=True, indent=1) if last is not None else "nothing"
        raise AssertionError(
            f"{kind.RESOURCE.kind} {name} not as expected after {timeout:g} s; seen last: {seen}"
        ) from None


async def eventually_gone(
    client: Client, kind: type[T], name: str, namespace: str = "", *, timeout: float = PATIENT
) -> None:
    """Returns once the object does not exist, told by a watch.

    :raises AssertionError: if it is still there after ``timeout`` seconds.
    """
    try:
        async with asyncio.timeout(timeout):
            while True:
                try:
                    if await _told_gone(client, kind, name, namespace):
                        return
                except (Gone, TooManyRequests, Unavailable):
                    await asyncio.sleep(RETRY)
    except TimeoutError:
        raise AssertionError(f"{kind.RESOURCE.kind} {name} is still there after {timeout:g} s") from None


async def _told_gone(client: Client, kind: type[T], name: str, namespace: str) -> bool:
    """Whether the object does not exist, or was told to be deleted before the watch ended."""
    version = await _version(client, kind, name, namespace)
    if version is None:
        return True
    # From the version that was seen: a deletion right after is not missed.
    async with aclosing(client.watch(kind, namespace, name=name, resource_version=version)) as events:
        async for event, _ in events:
            if event == "DELETED":
                return True
    return False


async def _version(client: Client, kind: type[T], name: str, namespace: str) -> str | None:
    """The object's resourceVersion, None if there is no such object."""
    try:
        return (await client.get(kind, name, namespace)).metadata.resource_version
    except NotFound:
        return None
