"""Processes of the sandbox: restarted when they end, gone when their parent is."""

from __future__ import annotations

import asyncio
import os
import select
import sys
from pathlib import Path

import pytest

from dpf.sandbox.processes import NotReady, Supervised, tail

FOREVER = [sys.executable, "-c", "import signal; print('started', flush=True); signal.pause()"]


def process(folder: Path, command: list[str]) -> Supervised:
    return Supervised("it", command, folder / "it.log")


async def wait_ended(pid: int) -> None:
    """Returns when the process is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        await asyncio.to_thread(select.select, [descriptor], [], [])
    finally:
        os.close(descriptor)


async def test_killed_process_comes_back(tmp_path: Path) -> None:
    it = process(tmp_path, FOREVER)

    async def restarted() -> bool:
        return it.restarts == 1

    async with asyncio.TaskGroup() as group:
        task = group.create_task(it.run())
        await it.wait_ready(10.0)
        first = it.pid
        assert first is not None
        assert it.kill()
        await wait_ended(first)
        it.probe = restarted
        await it.wait_ready(10.0)
        assert it.pid not in (None, first)
        task.cancel()
    assert it.pid is None


async def test_process_that_keeps_ending_is_reported_with_its_log(tmp_path: Path) -> None:
    it = process(tmp_path, [sys.executable, "-c", "raise SystemExit('no such flag')"])

    async def never() -> bool:
        return False

    it.probe = never
    async with asyncio.TaskGroup() as group:
        task = group.create_task(it.run())
        with pytest.raises(NotReady, match=r"it keeps ending(.|\n)*no such flag"):
            await it.wait_ready(30.0)
        task.cancel()


async def test_process_that_does_not_become_ready_is_reported(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="not ready after 0 s"):
        await process(tmp_path, FOREVER).wait_ready(0.0)


PARENT = """
import asyncio, os, sys
from pathlib import Path
from dpf.sandbox.processes import Supervised
async def main():
    it = Supervised("it", [sys.executable, "-c", "import signal; signal.pause()"], Path(sys.argv[1]))
    async with asyncio.TaskGroup() as group:
        group.create_task(it.run())
        await it.wait_ready(10.0)
        print(it.pid, flush=True)
asyncio.run(main())
"""


async def test_nothing_outlives_a_killed_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path / "log")]
    parent = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    parent.kill()
    await parent.wait()
    await wait_ended(child)


def test_tail_shows_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert tail(log) == "    (no log)"
    log.write_text("\n".join(str(number) for number in range(100)))
    assert tail(log, 2) == "    98\n    99"
