"""Flashing a card through DMS, in virtual time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta

import pytest

from dpf.provisioning.dpu.install import (
    BUDGET,
    Dms,
    NoRoom,
    Order,
    RebootFailed,
    Refused,
    Report,
    Unreachable,
    follow_reboot,
    perform,
)
from dpf.provisioning.dpu.outcome import Progress
from dpf.provisioning.dpu.rebootpolicy import Policy
from dpf.provisioning.volume import VolumeFile
from dpf.runtime.errors import Unavailable, Waiting
from dpf.runtime.jobs import Job
from dpf.runtime.meta import now
from dpf.runtime.testing import run_virtual
from dpf_api.dpu import Firmware
from test.unit.provisioning.worlds import IMAGE

ORDER = Order("d1", "image.bfb", IMAGE, b"secret")
DONE = Report(active=False, outcome="success", text="done", percent=100)
IDLE = Report(active=False, outcome="unknown", text="")


def busy(percent: int) -> Report:
    return Report(active=True, outcome="unknown", text=f"installing: {percent} %", percent=percent)


class Script:
    """A DMS that reports what it is told to, and fails where it is told to."""

    def __init__(self, *reports: Report, failures: int = 0) -> None:
        self.calls: list[str] = []
        self.failures = failures
        self.firmware_error: Exception | None = None
        self.refused = ""
        self._reports = list(reports)

    def __call__(self) -> AbstractAsyncContextManager[Dms]:
        return self._connected()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Dms]:
        if self.failures:
            self.failures -= 1
            raise Unreachable("connection refused")
        yield self

    async def set_mode(self, mode: str) -> None:
        self.calls.append(f"mode {mode}")

    async def install(self, version: str, content: VolumeFile | bytes) -> bool:
        self.calls.append(f"install {version}")
        return True

    async def activate(self, version: str) -> None:
        self.calls.append(f"activate {version}")

    async def report(self) -> Report:
        return self._reports.pop(0) if len(self._reports) > 1 else self._reports[0]

    async def firmware(self) -> Firmware | None:
        if self.firmware_error is not None:
            raise self.firmware_error
        return Firmware(nic="32.43.1014")

    async def reboot(self, policy: Policy, request: str) -> None:
        raise AssertionError("nobody asked for that")

    async def reboot_failure(self) -> str:
        self.calls.append("reboot failure?")
        return self.refused if len(self.calls) > 2 else ""


def ago(**span: float) -> datetime:
    return now() - timedelta(**span)


def flash(script: Script, *, activated: datetime | None = None) -> Firmware | None:
    job: Job[Firmware | None] = Job("uid")
    told: list[Firmware | None] = []

    async def work() -> None:
        told.append(await perform(job, ORDER, script, activated))

    run_virtual(work)
    return told[0]


def test_image_and_configuration_are_handed_over_then_activated_once() -> None:
    script = Script(IDLE, busy(10), busy(60), DONE)
    flash(script)
    assert script.calls == ["mode DPU", "install image.bfb", "install d1.cfg", "activate image.bfb;d1.cfg"]


def test_a_card_at_work_is_not_disturbed() -> None:
    script = Script(busy(10), busy(90), DONE)
    flash(script)
    assert script.calls[0] == "mode DPU"


def test_what_does_not_answer_is_tried_again() -> None:
    script = Script(DONE, failures=5)
    flash(script)
    assert script.calls.count("activate image.bfb;d1.cfg") == 1


def test_a_failure_of_the_card_ends_it() -> None:
    with pytest.raises(Refused, match="write error"):
        flash(Script(IDLE, Report(active=False, outcome="failure", text="write error")))


FAILED = Report(active=False, outcome="failure", text="write error")


@pytest.mark.parametrize("reports", [(FAILED, DONE), (busy(40), FAILED, DONE)], ids=["before", "then"])
def test_a_card_that_failed_while_nobody_looked_is_not_flashed_again(reports: tuple[Report, ...]) -> None:
    script = Script(*reports)
    with pytest.raises(Refused, match="write error"):
        flash(script, activated=ago(seconds=120))
    assert script.calls == []


def test_a_card_that_fails_while_its_connection_is_lost_is_not_flashed_again() -> None:
    class Lost(Script):
        broken = False

        async def activate(self, version: str) -> None:
            await super().activate(version)
            self.broken = True

        async def report(self) -> Report:
            if self.broken:
                self.broken = False
                raise Unreachable("connection reset")
            return await super().report()

    script = Lost(IDLE, FAILED, DONE)
    with pytest.raises(Refused, match="write error"):
        flash(script)
    assert script.calls.count("activate image.bfb;d1.cfg") == 1


def test_a_failure_of_an_earlier_attempt_is_nothing_to_this_one() -> None:
    script = Script(FAILED, DONE)
    flash(script)
    assert script.calls.count("activate image.bfb;d1.cfg") == 1


def test_a_passing_failure_is_tried_again_and_then_ends_it() -> None:
    script = Script(IDLE, Report(active=False, outcome="retriable", text="busy"))
    with pytest.raises(Refused, match="3 times: busy"):
        flash(script)
    assert script.calls.count("activate image.bfb;d1.cfg") == 3
    assert script.calls.count("install d1.cfg") == 3, "DMS has forgotten it by then"


def test_what_hangs_has_time_to_pass_between_the_tries() -> None:
    times: list[float] = []

    class Timed(Script):
        async def activate(self, version: str) -> None:
            times.append(asyncio.get_running_loop().time())

    with pytest.raises(Refused):
        flash(Timed(IDLE, Report(active=False, outcome="retriable", text="misc does not answer")))
    assert [later - earlier for earlier, later in itertools.pairwise(times)] == [10.0, 60.0]


def test_a_volume_that_has_the_image_and_takes_no_bf_cfg_ends_the_turn_and_not_the_installation() -> None:
    class Unwritten(Script):
        async def install(self, version: str, content: VolumeFile | bytes) -> bool:
            if version.endswith(".cfg"):
                raise Unreachable("INSTALL_IN_PROGRESS")
            return False

    with pytest.raises(Unreachable, match="INSTALL_IN_PROGRESS"):
        flash(Unwritten(IDLE))


def test_a_silence_before_a_long_transfer_does_not_count_with_one_after_it() -> None:
    class Slow(Script):
        hiccup = True

        async def install(self, version: str, content: VolumeFile | bytes) -> bool:
            if version.endswith(".bfb"):
                await asyncio.sleep(240)
            elif self.hiccup:
                self.hiccup = False
                raise Unreachable("connection reset")
            return await super().install(version, content)

    flash(Slow(IDLE, DONE, failures=1))


def test_the_firmware_is_asked_for_when_the_card_is_done() -> None:
    assert flash(Script(IDLE, DONE)) == Firmware(nic="32.43.1014")


@pytest.mark.parametrize("error", [Refused("UNIMPLEMENTED"), Unreachable("INTERNAL")])
def test_a_dms_that_does_not_know_the_firmware_is_no_failure(error: Exception) -> None:
    script = Script(IDLE, DONE)
    script.firmware_error = error
    assert flash(script) is None
    assert script.calls.count("activate image.bfb;d1.cfg") == 1


def test_what_takes_too_long_is_given_up_with_what_was_heard_last() -> None:
    with pytest.raises(Refused, match=r"not done within 30 min: .*40 %"):
        flash(Script(busy(40)))


class Slow(Script):
    """A DMS whose card is at work for so long, from the first activation on or, if it is found at it, from the first look."""

    def __init__(self, seconds: float, *, at_it: bool = False) -> None:
        super().__init__(IDLE)
        self._seconds = seconds
        self._at_it = at_it
        self._ends: float | None = None

    async def activate(self, version: str) -> None:
        await super().activate(version)
        self._begins()

    async def report(self) -> Report:
        if self._at_it:
            self._begins()
        if self._ends is None:
            return IDLE
        return busy(40) if asyncio.get_running_loop().time() < self._ends else DONE

    def _begins(self) -> None:
        self._ends = self._ends or asyncio.get_running_loop().time() + self._seconds


def test_a_card_that_only_now_gets_its_turn_has_all_its_time_however_long_ago_it_was_asked() -> None:
    assert flash(Slow(1500), activated=ago(hours=5)) is not None


def test_a_card_that_is_still_at_it_has_what_is_left_of_its_time() -> None:
    flash(Slow(600, at_it=True), activated=ago(minutes=15))
    with pytest.raises(Refused, match="not done within 30 min"):
        flash(Slow(1500, at_it=True), activated=ago(minutes=15))


def told_after_a_second(script: Script) -> Progress:
    """What a flash has told when it is cut off after a second."""
    job: Job[Firmware | None] = Job("uid")

    async def work() -> None:
        task = asyncio.create_task(perform(job, ORDER, script))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])

    run_virtual(work)
    progress: Progress = job.progress
    return progress


def test_when_the_card_was_asked_is_told_for_whoever_goes_on() -> None:
    activated = told_after_a_second(Slow(60)).activated_at
    assert activated is not None
    assert abs((activated - now()).total_seconds()) < 60


class Ailing(Script):
    """A DMS that answers, and whose card fails in a way that may pass."""

    async def set_mode(self, mode: str) -> None:
        raise Unreachable("rshim does not answer")


@pytest.mark.parametrize("script", [lambda: Script(DONE, failures=10**6), lambda: Ailing(DONE)])
def test_who_does_not_answer_lets_others_go_first_after_a_minute(script: Callable[[], Script]) -> None:
    took = 0.0

    async def work() -> None:
        nonlocal took
        try:
            await perform(Job("uid"), ORDER, script())
        finally:
            took = asyncio.get_running_loop().time()

    with pytest.raises(Unreachable, match="it is tried again"):
        run_virtual(work)
    assert 60 <= took <= 80


def test_a_connection_that_breaks_now_and_then_ends_no_turn() -> None:
    class Flaky(Slow):
        async def report(self) -> Report:
            if asyncio.get_running_loop().time() % 100 < 30:
                raise Unreachable("connection reset")
            return await super().report()

    assert flash(Flaky(1200)) is not None


def test_a_full_volume_ends_the_turn_at_once() -> None:
    class Full(Script):
        async def install(self, version: str, content: VolumeFile | bytes) -> bool:
            raise NoRoom("no space left on device")

    with pytest.raises(NoRoom):
        flash(Full(IDLE))


def test_a_hiccup_while_the_host_reboots_is_no_failed_reboot() -> None:
    errors: list[Exception] = [
        Unavailable(503, "ServiceUnavailable", "the API server is away"),
        Waiting("ClientCertificateMissing", "not there yet"),
        Unreachable("connection refused"),
    ]

    class Troubled(Script):
        @asynccontextmanager
        async def _connected(self) -> AsyncIterator[Dms]:
            if errors:
                raise errors.pop(0)
            yield self

    script = Troubled()
    script.refused = "ipmitool: no such device"
    with pytest.raises(RebootFailed, match="ipmitool: no such device"):
        run_virtual(lambda: follow_reboot(script, seconds=BUDGET))


def test_progress_is_told() -> None:
    assert told_after_a_second(Script(busy(40))) == Progress("installing: 40 %", 40)


def test_the_configuration_does_not_show() -> None:
    assert "secret" not in repr(ORDER)
    assert len(ORDER.sha256) == 64


def test_a_reboot_that_fails_later_is_noticed_though_dms_was_away_meanwhile() -> None:
    script = Script(failures=2)
    script.refused = "ipmitool: no such device"
    with pytest.raises(RebootFailed, match="ipmitool: no such device"):
        run_virtual(lambda: follow_reboot(script, seconds=BUDGET))
    assert len(script.calls) == 3


def test_a_reboot_is_not_asked_about_for_ever() -> None:
    script = Script()
    run_virtual(lambda: follow_reboot(script, seconds=BUDGET))
    assert 25 <= len(script.calls) <= 40


def test_a_dms_that_does_not_know_the_question_is_not_asked_again() -> None:
    class Unimplemented(Script):
        async def reboot_failure(self) -> str:
            self.calls.append("reboot failure?")
            raise Refused("UNIMPLEMENTED")

    script = Unimplemented()
    run_virtual(lambda: follow_reboot(script, seconds=BUDGET))
    assert len(script.calls) == 1
