"""The volume that the manager shares with every DMS: images, and bf.cfg files.

It may be a server's at the other end of a wire (NFS), which can fall silent and wake up hours later.

* What only reads or can be done again (``ask``) has a deadline. A thread that the volume holds is left behind; while it is, others
  are told at once that the volume is silent, so that neither workers nor threads pile up. Once a minute one asks for all of them.
* A reconcile that waits for it lends its worker's place.
* What writes (``write``) has none: whoever goes on while a thread still writes mixes two downloads up. Only a caller that is
  cancelled leaves it, after some seconds; :meth:`Volume.quiet` is where the next one waits for it.
* The threads are daemons, so a silent volume does not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import errno
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, ParamSpec, TypeVar

from dpf.runtime.places import elsewhere

P = ParamSpec("P")
R = TypeVar("R")

SILENT = 30.0
"""Seconds after which a volume that does not answer counts as silent."""
PROBE = 60.0
"""Seconds until a silent volume is asked again while it still holds a thread."""
LET_GO = 3.0
"""Seconds that a cancelled caller gives a write to end; a pod has ten in all."""
THREADS = 24
"""At most; downloads hold one each while they write."""


class VolumeSilent(OSError):
    """The volume does not answer. What was asked for may be done all the same, some time."""

    def __init__(self, folder: Path) -> None:
        why = f"the shared volume does not answer for {SILENT:g} s; look at its storage and at the mount of --bfb-dir"
        super().__init__(errno.ETIMEDOUT, why, str(folder))


class Volume:
    """A folder on it, and the threads that work there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._threads = _Threads(THREADS)
        self._held: set[Future[Any]] = set()
        self._ask_at: float | None = None
        """When the next one asks while threads are held; None if it has answered since."""
        self._writes: dict[Future[Any], tuple[Path, float]] = {}

    async def ask(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls something short that may be called again, in a thread.

        :raises VolumeSilent: if there is no answer in time.
        """
        probes = False
        if self._held and self._ask_at is not None:
            if monotonic() < self._ask_at:
                raise VolumeSilent(self.folder)
            probes, self._ask_at = True, monotonic() + PROBE
        call = self._threads.submit(partial(work, *args, **kwargs))
        try:
            async with elsewhere(), asyncio.timeout(SILENT):
                return await asyncio.wrap_future(call)
        except TimeoutError as error:
            probes = False
            if not call.done():
                self._held.add(call)
                call.add_done_callback(self._held.discard)
            # Also if all threads are held and this one got none.
            self._ask_at = monotonic() + PROBE
            raise VolumeSilent(self.folder) from error
        finally:
            if probes and call.done() and not call.cancelled():
                self._ask_at = None  # It answers, whatever that was: others may ask too.

    def leave(self, work: Callable[[], object]) -> None:
        """Calls something that nobody waits for, in a thread."""
        self._threads.submit(work)

    def begin(self, part: Path, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[R]:
        """Begins a write of the image whose part that is; :meth:`ended` waits for it."""
        call = self._threads.submit(partial(work, *args, **kwargs))
        self._writes[call] = part, monotonic()
        call.add_done_callback(self._written)
        return _awaitable(call)

    async def ended(self, writing: asyncio.Future[R]) -> R:
        """The outcome of a write; one that is cancelled waits for it as well, but not for ever."""
        task = asyncio.current_task()
        if task is None or not task.cancelling():
            try:
                return await asyncio.shield(writing)
            except asyncio.CancelledError:
                await asyncio.wait([writing], timeout=LET_GO)
                raise
        await asyncio.wait([writing], timeout=LET_GO)
        if not writing.done():
            raise VolumeSilent(self.folder)
        return writing.result()

    async def write(self, part: Path, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Both."""
        async with elsewhere():
            return await self.ended(self.begin(part, work, *args, **kwargs))

    def _written(self, call: Future[Any]) -> None:
        self._writes.pop(call, None)

    def busy(self, part: Path) -> bool:
        """Whether something of that image is still being written, perhaps for a caller that is gone."""
        return any(each == part for each, _ in list(self._writes.values()))

    async def quiet(self, part: Path) -> None:
        """Waits until nothing is."""
        if calls := [_awaitable(call) for call, (each, _) in list(self._writes.items()) if each == part]:
            await asyncio.wait(calls)

    def stuck(self, part: Path) -> bool:
        """Whether the volume has not taken a write of that image for long."""
        return any(each == part and monotonic() - since > SILENT for each, since in list(self._writes.values()))


def _awaitable(call: Future[R]) -> asyncio.Future[R]:
    future = asyncio.wrap_future(call)
    # Nobody may be left who asks for its error.
    future.add_done_callback(lambda each: each.cancelled() or each.exception())
    return future


@dataclass(frozen=True)
class VolumeFile:
    """A file on it that is read. Every step raises OSError if it can't be, :class:`VolumeSilent` too."""

    volume: Volume
    path: Path

    async def size(self) -> int:
        """Its bytes."""
        return (await self.volume.ask(self.path.stat)).st_size

    async def chunks(self, size: int) -> AsyncGenerator[bytes, None]:
        """What is in it, so many bytes at a time."""
        file = await self.volume.ask(self.path.open, "rb", buffering=0)
        try:
            while chunk := await self.volume.ask(file.read, size):
                yield chunk
        finally:
            # On NFS it may have to ask the server.
            self.volume.leave(file.close)


class _Threads:
    """As ThreadPoolExecutor, but of daemons: the interpreter does not wait for them when it ends."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._idle = threading.Semaphore(0)
        self._todo: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()

    def submit(self, work: Callable[[], R]) -> Future[R]:
        future: Future[R] = Future()
        self._todo.put((future, work))
        if not self._idle.acquire(blocking=False) and self._count < self._limit:
            self._count += 1
            threading.Thread(target=self._run, name=f"volume-{self._count}", daemon=True).start()
        return future

    def _run(self) -> None:
        while True:
            future, work = self._todo.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001  (whoever waits gets it)
                    future.set_exception(error)
            del future, work
            self._idle.release()
