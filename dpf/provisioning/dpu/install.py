"""Flashing a card through DMS: the one long job of provisioning.

The order of calls: wait until the card does nothing else; set its mode; hand over image and configuration (DMS says at once if
it has the image); activate; ask how far it is until it is done; ask for its firmware's versions, which a DMS need not know. There
is no Verify: that a card runs what it was given, not what its boot loader fell back to, is part of what DMS calls success.
Every call may be made again: a manager that takes over, or a connection that breaks, begins at the top, and DMS does nothing
twice for the same image and configuration.

An answer that the card failed is final (:class:`Refused`); no answer is not: DMS restarts, hosts reboot, networks heal.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dpf.provisioning.dpu.rebootpolicy import Policy
from dpf.runtime.errors import DpfError
from dpf.runtime.jobs import Job
from dpf.runtime.log import get_logger
from dpf_api import names
from dpf_api.dpu import Firmware

log = get_logger(__name__)

BUDGET = 1800.0
"""Seconds from the first request until a card must be done."""
POLL = (0.1, 3.0)
"""Seconds between questions how far a card is: at first, and at most. A card can't call back."""
RECONNECT = (0.2, 10.0)
FOLLOW = (5.0, 60.0)
"""Seconds between questions whether a reboot failed. The tools take seconds to minutes; a host that goes down answers no more."""
RETRIES = 3
"""How often a failure that the card itself calls passing is tried again."""
MODE = "DPU"


class Refused(DpfError):
    """The card or its DMS says that what was asked of it can't be done."""


class RebootFailed(DpfError):
    """DMS took a request to reboot the host and could not carry it out."""


class Unreachable(DpfError):
    """DMS does not answer; it may in a moment."""


@dataclass(frozen=True)
class Report:
    """What DMS says of its card: at work or not; if not, how the last work ended."""

    active: bool
    outcome: str
    """``success``, ``failure``, ``retriable`` or ``unknown``."""
    text: str
    percent: int = 0


@dataclass(frozen=True)
class Order:
    """What a card is to be flashed with. The configuration is secret: it holds a join token."""

    dpu: str
    version: str
    image: Path
    config: bytes = field(repr=False)

    @property
    def sha256(self) -> str:
        """Digest of the configuration; with the version it is the identity of a flash."""
        return hashlib.sha256(self.config).hexdigest()

    @property
    def config_name(self) -> str:
        """Its file name on the shared volume."""
        return names.bfcfg_file(self.dpu)


class Dms(Protocol):
    """A connection to one card's DMS. Every call raises :class:`Unreachable` or :class:`Refused`."""

    async def set_mode(self, mode: str) -> None: ...
    async def install(self, version: str, content: Path | bytes) -> None: ...
    async def activate(self, version: str) -> None: ...
    async def report(self) -> Report: ...
    async def firmware(self) -> Firmware | None: ...
    async def reboot(self, policy: Policy, request: str) -> None: ...
    async def reboot_failure(self) -> str: ...


class Connect(Protocol):
    """Opens a connection to the DPU's DMS, wherever that is now."""

    def __call__(self) -> AbstractAsyncContextManager[Dms]: ...


async def perform(
    job: Job[Firmware | None], order: Order, connect: Connect, *, seconds: float = BUDGET
) -> Firmware | None:
    """Flashes the card and returns the versions of its firmware, if it tells them.

    :param seconds: how long it may take.
    :raises Refused: if the card can't be flashed, or not in time.
    :raises OSError: if the image can't be read.
    """
    said, firmware = "", None
    try:
        async with asyncio.timeout(seconds) as limit:
            for pause in _pauses(RECONNECT):
                try:
                    async with connect() as dms:
                        await _install(job, order, dms)
                        limit.reschedule(None)
                        firmware = await _firmware(dms)
                    break
                except Unreachable as error:
                    if str(error) != said:
                        said = str(error)
                        log.warning("dms_unreachable", error=said)
                    _tell(job, f"DMS does not answer, trying again: {error}")
                await asyncio.sleep(pause)
    except TimeoutError:
        if not limit.expired():
            raise
        last, _ = job.progress or ("nothing was heard of it", 0)
        raise Refused(f"the card was not done within {BUDGET / 60:g} min: {last}") from None
    return firmware


async def follow_reboot(connect: Connect, *, seconds: float) -> None:
    """Asks for so long whether the reboot of the host failed.

    :raises RebootFailed: once DMS says so, and why.
    """
    with suppress(TimeoutError, Refused):  # A DMS that does not know the question refuses it: then nobody knows more.
        async with asyncio.timeout(seconds):
            for pause in _pauses(FOLLOW):
                await asyncio.sleep(pause)
                with suppress(Unreachable):
                    async with connect() as dms:
                        if failure := await dms.reboot_failure():
                            raise RebootFailed(failure)


async def _install(job: Job[Firmware | None], order: Order, dms: Dms) -> None:
    if (before := await dms.report()).active:
        await _settled(job, dms, before)
    await dms.set_mode(MODE)
    _tell(job, f"handing over {order.version}")
    await dms.install(order.version, order.image)
    for _ in range(RETRIES):
        # Each time: DMS keeps it no longer than the card needs it.
        await dms.install(order.config_name, order.config)
        log.info("card_activate", version=order.version, config_sha256=order.sha256)
        await dms.activate(f"{order.version};{order.config_name}")
        report = await _settled(job, dms, await dms.report())
        if report.outcome == "success":
            return
        if report.outcome != "retriable":
            raise Refused(report.text or f"the card reports {report.outcome}")
        _tell(job, f"trying again: {report.text}")
    raise Refused(f"the card failed {RETRIES} times: {report.text}")


async def _firmware(dms: Dms) -> Firmware | None:
    """The versions; None if they can't be had, which is no reason to call a flash failed."""
    try:
        return await dms.firmware()
    except (Unreachable, Refused) as error:
        log.info("firmware_not_told", error=str(error))
        return None


async def _settled(job: Job[Firmware | None], dms: Dms, report: Report) -> Report:
    """The first report in which the card is not at work."""
    for pause in _pauses(POLL):
        if not report.active:
            break
        _tell(job, report.text, report.percent)
        await asyncio.sleep(pause)
        report = await dms.report()
    return report


def _tell(job: Job[Firmware | None], text: str, percent: int | None = None) -> None:
    _, before = job.progress or ("", 0)
    job.progress = (text, before if percent is None else percent)


def _pauses(bounds: tuple[float, float]) -> Iterator[float]:
    pause, longest = bounds
    while True:
        yield pause
        pause = min(2 * pause, longest)
