"""The shared volume. It may be a server's at the other end of a wire (NFS), which can fall silent and wake up hours later.

* What only reads or can be done again (``ask``) has a deadline. A thread that the volume holds is left behind; while it is, and
  for a minute, others are told at once that the volume is silent, so that neither workers nor threads pile up.
* What writes (``write``) has none: whoever goes on while a thread still writes mixes two downloads up. Only a caller that is
  cancelled leaves it, after some seconds; :meth:`Volume.quiet` is where the next one waits for it.
* The threads are daemons, so a silent volume does not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import queue
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, ParamSpec, TypeVar

from dpf.provisioning.bfb.source import DownloadFailed, Image

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
STEP = 64 << 20
"""Bytes that are read and summed up within one deadline."""
RESERVE = 256 << 20
"""Bytes that images leave free: room for the bf.cfg of 2,000 cards, which have at most 128 KiB each."""
MODE = 0o644


class Volume:
    """A folder on it, and the threads that work there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._threads = _Threads(THREADS)
        self._held: set[Future[Any]] = set()
        self._ask_at = 0.0
        self._writes: dict[Future[Any], tuple[Path, float]] = {}

    async def ask(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls something short that may be called again, in a thread.

        :raises DownloadFailed: VolumeSilent, if there is no answer in time.
        """
        if self._held and monotonic() < self._ask_at:
            raise _silent()
        call = self._threads.submit(partial(work, *args, **kwargs))
        try:
            async with asyncio.timeout(SILENT):
                return await asyncio.wrap_future(call)
        except TimeoutError as error:
            if not call.done():
                self._ask_at = monotonic() + PROBE
                self._held.add(call)
                call.add_done_callback(self._held.discard)
            raise _silent() from error

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
            raise _silent()
        return writing.result()

    async def write(self, part: Path, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Both."""
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


def _silent() -> DownloadFailed:
    message = (
        f"the volume of the images does not answer for {SILENT:g} s; look at its storage and at the mount of --bfb-dir"
    )
    return DownloadFailed("VolumeSilent", message)


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


# The files on it


@dataclass(frozen=True)
class Stamp:
    """What tells a file that was written to, or is another one, from the file that was looked at before."""

    size: int
    mtime_ns: int
    inode: int


def stamp(path: Path) -> Stamp | None:
    """A file's; None if it is not there."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return Stamp(stat.st_size, stat.st_mtime_ns, stat.st_ino)


def part_of(folder: Path, uid: str) -> Path:
    """Where an image that is being downloaded lies."""
    return folder / f"bfb-{uid}"


def tag_of(part: Path) -> Path:
    """Where it is remembered which version of the image that is."""
    return part.with_name(f"{part.name}.tag")


def room(part: Path, *, resume: bool) -> int:
    """Bytes that may still be written to the volume; what is there of an image that begins anew counts as free."""
    there = 0 if resume or not part.exists() else part.stat().st_size
    return shutil.disk_usage(part.parent).free + there - RESERVE


def remove(*paths: Path) -> None:
    """Removes files that may be there."""
    for path in paths:
        path.unlink(missing_ok=True)


def publish(part: Path, target: Path) -> None:
    """A complete image gets its name once it is on the disk."""
    descriptor = os.open(part, os.O_RDONLY)
    try:
        os.fchmod(descriptor, MODE)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    part.replace(target)


async def digest(volume: Volume, path: Path) -> Image:
    """Size and checksum of a file.

    :raises DownloadFailed: VolumeSilent.
    """
    size, found = await sum_of(volume, path)
    return Image(size, f"sha256:{found.hexdigest()}")


async def sum_of(volume: Volume, path: Path) -> tuple[int, hashlib._Hash]:
    """Its size, and its sum to be gone on with."""
    found, size = hashlib.sha256(), 0
    while more := await volume.ask(_sum_up, path, size, found):
        size += more
    return size, found


def _sum_up(path: Path, start: int, found: hashlib._Hash) -> int:
    buffer, done = memoryview(bytearray(1 << 18)), 0
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while done < STEP and (size := file.readinto(buffer)):
            found.update(buffer[:size])
            done += size
    return done
