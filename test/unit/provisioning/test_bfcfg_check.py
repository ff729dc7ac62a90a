"""Looking at a flavor keeps nobody else waiting, and leaves no process behind."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from dpf.provisioning.bfcfg import check, shell
from dpf.provisioning.bfcfg.check import judge, known
from dpf_api.dpuflavor import DPUFlavorSpec


def flavor(name: str) -> DPUFlavorSpec:
    """One that the shell is asked about."""
    return DPUFlavorSpec.model_validate({"bfcfgParameters": [f"A='{name} {os.urandom(8).hex()}'"]})


class Held:
    """A shell that says nothing until a pipe is opened."""

    def __init__(self, folder: Path) -> None:
        self.pipe = folder / "pipe"
        self._pid = folder / "pid"
        os.mkfifo(self.pipe)
        self.command = ("sh", "-c", f"echo $$ >{self._pid}.new; mv {self._pid}.new {self._pid}; exec cat {self.pipe}")

    async def pid(self) -> int:
        await until(self._pid.exists)
        return int(self._pid.read_text())

    async def let_go(self) -> None:
        def opened() -> bool:
            # Without a reader it can't be opened.
            with suppress(OSError):
                os.close(os.open(self.pipe, os.O_WRONLY | os.O_NONBLOCK))
                return True
            return False

        await until(opened)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.005)


def gone(pid: int) -> bool:
    """Not even a zombie is left."""
    return not Path(f"/proc/{pid}").exists()


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Held:
    held = Held(tmp_path)
    monkeypatch.setattr(shell, "COMMAND", held.command)
    return held


async def test_the_event_loop_goes_on_while_the_shell_reads(held: Held) -> None:
    spec = flavor("slow")
    asking = asyncio.create_task(judge(spec))
    pid = await held.pid()
    assert known(spec) is None
    await held.let_go()
    assert (await asking).unfit is None
    assert known(spec) == check.Verdict(None)
    assert gone(pid)


async def test_whoever_is_cancelled_is_so_at_once_and_the_shell_ends_by_itself(held: Held) -> None:
    spec = flavor("left")
    asking = asyncio.create_task(judge(spec))
    pid = await held.pid()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert not gone(pid)
    await held.let_go()
    await until(lambda: gone(pid))
    await until(lambda: known(spec) is not None)


async def test_a_shell_that_does_not_answer_is_killed_at_its_deadline(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "DEADLINE", 2.0)
    with pytest.raises(shell.NoAnswer, match="not read it within 2 s"):
        await judge(flavor("late"))
    assert gone(await held.pid())


@pytest.mark.parametrize(("script", "said"), [("kill -9 $$", "ended by signal 9"), ("exec sleep 60", "within 1 s")])
async def test_a_shell_that_gave_no_answer_is_asked_again(
    script: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = flavor("unlucky")
    with monkeypatch.context() as unlucky:
        unlucky.setattr(shell, "COMMAND", ("sh", "-c", script))
        unlucky.setattr(shell, "DEADLINE", 1.0)
        unlucky.setattr(check, "SILENT", 0.0)
        with pytest.raises(shell.NoAnswer, match=said):
            await judge(spec)
    assert known(spec) is None
    assert await judge(spec) == check.Verdict(None)


async def test_a_shell_that_gave_no_answer_is_not_asked_by_each_dpu_of_the_flavor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[DPUFlavorSpec] = []

    def silent(spec: DPUFlavorSpec) -> None:
        asked.append(spec)
        raise shell.NoAnswer("has not read it")

    monkeypatch.setattr(check, "unfit", silent)
    spec = flavor("of a thousand")
    told = await asyncio.gather(*(judge(spec) for _ in range(50)), return_exceptions=True)
    assert {type(each) for each in told} == {shell.NoAnswer}
    assert len(asked) <= check.AT_ONCE


async def test_no_more_than_so_many_are_looked_at_at_once_and_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, go, running, peak, asked = threading.Lock(), threading.Event(), 0, 0, list[str]()

    def slow(spec: DPUFlavorSpec) -> None:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
            asked.append(spec.bfcfg_parameters[0])
        assert go.wait(20)
        with lock:
            running -= 1

    monkeypatch.setattr(check, "unfit", slow)
    flavors = [flavor(str(number)) for number in range(6)]
    asking = [asyncio.create_task(judge(spec)) for spec in flavors]
    await until(lambda: running == check.AT_ONCE)
    again = [asyncio.create_task(judge(spec)) for spec in flavors[check.AT_ONCE :]]
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*asking, *again)
    assert peak == check.AT_ONCE
    assert len(set(asked)) == len(flavors)
    assert await judge(flavors[0]) == check.Verdict(None)


async def test_verdicts_are_forgotten_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "REMEMBERED", 2)
    monkeypatch.setattr(check, "unfit", lambda _: None)
    first, *others = [flavor(str(number)) for number in range(3)]
    for spec in (first, *others):
        await judge(spec)
    assert known(first) is None
    assert all(known(spec) is not None for spec in others)
