"""A volume that falls silent, and what goes on meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import io
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dpf.provisioning import volume as module
from dpf.provisioning.bfb import storage
from dpf.provisioning.bfb.source import Image
from dpf.provisioning.bfb.storage import digest, part_of
from dpf.provisioning.volume import Volume, VolumeFile, VolumeSilent
from dpf.runtime.places import PLACES, Places


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path)


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return part_of(tmp_path, "uid")


class Held:
    """Something that the volume does not answer, until it is let go."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.leave = threading.Event()
        self.left = threading.Event()
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> str:
        self._loop.call_soon_threadsafe(self.entered.set)
        self.leave.wait()
        self.left.set()
        return "done"


@pytest.fixture
async def held() -> AsyncIterator[Held]:
    held = Held()
    yield held
    held.leave.set()


async def test_what_is_asked_is_answered(volume: Volume) -> None:
    assert await volume.ask(int, "7") == 7
    with pytest.raises(FileNotFoundError):
        await volume.ask((volume.folder / "nowhere").stat)


async def test_a_silent_volume_holds_nobody_and_one_thread(
    volume: Volume, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENT", 0.05)
    with pytest.raises(VolumeSilent, match="look at its storage"):
        await volume.ask(held)
    asked: list[int] = []
    with pytest.raises(VolumeSilent):
        await volume.ask(asked.append, 1)
    assert asked == [], "nobody asks while the volume holds a thread"
    (call,) = volume._held
    held.leave.set()
    await asyncio.wrap_future(call)
    monkeypatch.setattr(module, "SILENT", 20.0)
    await volume.ask(asked.append, 2)
    assert asked == [2]


async def test_of_a_volume_that_holds_all_threads_one_asks_at_a_time(
    tmp_path: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(module, "SILENT", 0.05)
    monkeypatch.setattr(module, "THREADS", 2)
    monkeypatch.setattr(module, "monotonic", lambda: now)
    volume, asked = Volume(tmp_path), list[object]()
    submit = volume._threads.submit

    def spied(work: Callable[[], Any]) -> Future[Any]:
        asked.append(work)
        return submit(work)

    monkeypatch.setattr(volume._threads, "submit", spied)

    async def five() -> int:
        """How many of five asked."""
        asked.clear()
        told = await asyncio.gather(*(volume.ask(held) for _ in range(5)), return_exceptions=True)
        assert all(isinstance(each, VolumeSilent) for each in told)
        return len(asked)

    assert await five() == 5, "nobody knows yet"
    assert len(volume._held) == 2
    for _ in range(3):
        assert await five() == 0
        now += module.PROBE
        assert await five() == 1


async def test_once_one_was_answered_all_are(volume: Volume, held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    monkeypatch.setattr(module, "SILENT", 0.05)
    with pytest.raises(VolumeSilent):
        await volume.ask(held)
    monkeypatch.setattr(module, "SILENT", 20.0)
    now += module.PROBE
    with pytest.raises(FileNotFoundError):
        await volume.ask((volume.folder / "nowhere").stat)
    assert await asyncio.gather(*(volume.ask(int, "7") for _ in range(5))) == [7] * 5
    assert len(volume._held) == 1, "the thread may be held for ever"


@pytest.mark.parametrize("writes", [False, True])
async def test_a_reconcile_that_waits_for_the_volume_holds_no_worker(
    volume: Volume, part: Path, held: Held, writes: bool
) -> None:
    lent = asyncio.Event()
    # As in a worker.
    PLACES.set(Places(lent.set))
    waiting = asyncio.create_task(volume.write(part, held) if writes else volume.ask(held))
    PLACES.set(None)
    async with asyncio.timeout(20):
        await lent.wait()
    held.leave.set()
    assert await waiting == "done"


async def test_a_volume_that_keeps_a_thread_for_ever_is_asked_again(
    volume: Volume, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENT", 0.05)
    monkeypatch.setattr(module, "PROBE", 0.0)
    with pytest.raises(VolumeSilent):
        await volume.ask(held)
    monkeypatch.setattr(module, "SILENT", 20.0)
    assert await volume.ask(int, "7") == 7


async def test_a_cancelled_write_is_waited_for(volume: Volume, part: Path, held: Held) -> None:
    task = asyncio.create_task(volume.write(part, held))
    await held.entered.wait()
    task.cancel()
    asyncio.get_running_loop().call_soon(held.leave.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert held.left.is_set()
    assert not volume.busy(part)


async def test_a_write_that_does_not_end_is_left_and_the_next_one_waits_for_it(
    volume: Volume, part: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LET_GO", 0.05)
    monkeypatch.setattr(module, "SILENT", 0.0)

    async def work() -> None:
        try:
            await volume.write(part, held)
        finally:
            # As a file is closed: it comes behind what is held, and is not waited for for ever either.
            with pytest.raises(VolumeSilent):
                await volume.write(part, held.leave.wait)

    task = asyncio.create_task(work())
    await held.entered.wait()
    assert volume.stuck(part)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert volume.busy(part)
    assert not volume.busy(part_of(volume.folder, "another"))
    next_one = asyncio.create_task(volume.quiet(part))
    await asyncio.sleep(0)
    assert not next_one.done()
    held.leave.set()
    await next_one
    assert not volume.busy(part)


def test_a_silent_volume_does_not_keep_a_process_from_ending(tmp_path: Path) -> None:
    program = f"""
import asyncio, pathlib, threading
from dpf.provisioning import volume as module
module.SILENT = module.LET_GO = 0.1
folder = pathlib.Path({str(tmp_path)!r})
async def main():
    volume = module.Volume(folder)
    async with asyncio.timeout(0.3):
        async with asyncio.TaskGroup() as group:
            group.create_task(volume.write(folder / "x", threading.Event().wait))
try:
    asyncio.run(main())
except TimeoutError:
    print("ended")
"""
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, check=True)
    assert ended.stdout == b"ended\n"


async def test_a_digest_is_worked_out_step_by_step(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "STEP", 1 << 18)
    body = bytes(range(256)) * 3000
    path = volume.folder / "image"
    path.write_bytes(body)
    assert await digest(volume, path) == Image(len(body), f"sha256:{hashlib.sha256(body).hexdigest()}")
    path.write_bytes(b"")
    assert (await digest(volume, path)).size == 0


async def test_a_file_is_read_piece_by_piece(volume: Volume) -> None:
    file = VolumeFile(volume, volume.folder / "image")
    file.path.write_bytes(b"0123456789")
    assert await file.size() == 10
    assert [chunk async for chunk in file.chunks(4)] == [b"0123", b"4567", b"89"]


async def test_a_file_that_the_volume_does_not_give_holds_no_reader(
    volume: Volume, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENT", 0.05)
    monkeypatch.setattr(Path, "open", lambda *_, **__: held())
    with pytest.raises(VolumeSilent):
        await anext(VolumeFile(volume, volume.folder / "image").chunks(4))


async def test_a_file_is_closed_where_it_was_read_for_the_volume_may_not_let_it_be(volume: Volume) -> None:
    closed, loop = asyncio.Event(), asyncio.get_running_loop()
    threads: list[threading.Thread] = []

    class File(io.BytesIO):
        def close(self) -> None:
            threads.append(threading.current_thread())
            loop.call_soon_threadsafe(closed.set)

    file = File(b"0123")
    path = cast("Path", SimpleNamespace(open=lambda *_, **__: file))
    assert [chunk async for chunk in VolumeFile(volume, path).chunks(4)] == [b"0123"]
    async with asyncio.timeout(20):
        await closed.wait()
    assert threads[0] is not threading.main_thread()
