"""Flashing a card through DMS: the one long job of provisioning.

The order of calls: wait until the card does nothing else; set its mode; hand over image and configuration (DMS says at once if
it has the image); activate; ask how far it is until it is done; ask for its firmware's versions, which a DMS need not know. There
is no Verify: that a card runs what it was given, not what its boot loader fell back to, is part of what DMS calls success.
Every call may be made again: a manager that takes over, or a connection that breaks, begins at the top, and DMS does nothing
twice for the same image and configuration.

An answer that the card failed is final (:class:`Refused`), also if it failed while nobody looked; no answer is not: DMS restarts,
hosts reboot, networks heal. But who does not answer for a while lets others go first: the job ends (:class:`Unreachable`), and is
begun anew in its turn.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from dpf.provisioning.dpu.outcome import Progress
from dpf.provisioning.dpu.rebootpolicy import Policy
from dpf.provisioning.volume import VolumeFile
from dpf.runtime.errors import ApiError, DpfError, Waiting
from dpf.runtime.jobs import Job
from dpf.runtime.log import get_logger
from dpf.runtime.meta import now
from dpf_api import names
from dpf_api.dpu import Firmware

log = get_logger(__name__)

BUDGET = 1800.0
"""Seconds in which a card must be done: handing over and activation together, or if another job asked for the activation, from
then."""
AT_LEAST = 60.0
"""Seconds that a card which is found at work has at least to say how it ended."""
PATIENCE = 60.0
"""Seconds of nothing but silence and passing errors after which a card's turn ends: others wait for it. Twice what DMS takes to
start anew, so a restart of it ends no turn."""
POLL = (0.1, 3.0)
"""Seconds between questions how far a card is: at first, and at most. A card can't call back."""
RECONNECT = (0.2, 10.0)
FOLLOW = (5.0, 60.0)
"""Seconds between questions whether a reboot failed. The tools take seconds to minutes; a host that goes down answers no more."""
AGAIN = (10.0, 60.0)
"""Seconds until a failure that the card itself calls passing is tried again, each time. What hangs takes its time to pass."""
MODE = "DPU"


class Refused(DpfError):
    """The card or its DMS says that what was asked of it can't be done."""


class RebootFailed(DpfError):
    """DMS took a request to reboot the host and could not carry it out."""


class Unreachable(DpfError):
    """DMS does not answer; it may in a moment."""


class NoRoom(DpfError):
    """DMS has no room for what it was given; it takes somebody to make some."""


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
    image: VolumeFile
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
    """A connection to one card's DMS. Every call raises :class:`Unreachable`, :class:`NoRoom` or :class:`Refused`."""

    async def set_mode(self, mode: str) -> None: ...
    async def install(self, version: str, content: VolumeFile | bytes) -> bool: ...
    async def activate(self, version: str) -> None: ...
    async def report(self) -> Report: ...
    async def firmware(self) -> Firmware | None: ...
    async def reboot(self, policy: Policy, request: str) -> None: ...
    async def reboot_failure(self) -> str: ...


class Connect(Protocol):
    """Opens a connection to the DPU's DMS, wherever that is now."""

    def __call__(self) -> AbstractAsyncContextManager[Dms]: ...


async def perform(
    job: Job[Firmware | None], order: Order, connect: Connect, activated: datetime | None = None
) -> Firmware | None:
    """Flashes the card and returns the versions of its firmware, if it tells them.

    :param activated: when the card was asked to activate the order, if it was before.
    :raises Refused: if the card can't be flashed, or not in time.
    :raises Unreachable: if nothing but errors was heard for :data:`PATIENCE`; it may go on where it is, and be asked again.
    :raises NoRoom: if the volume can't take what the card needs.
    :raises OSError: if the image can't be read.
    """
    try:
        async with asyncio.timeout(BUDGET) as limit:
            return await _Flash(job, order, limit, activated).through(connect)
    except TimeoutError:
        if not limit.expired():
            raise
        last = job.progress.text if job.progress is not None else ""
        raise Refused(
            f"the card was not done within {BUDGET / 60:g} min: {last or 'nothing was heard of it'}"
        ) from None


async def follow_reboot(connect: Connect, *, seconds: float) -> None:
    """Asks for so long whether the reboot of the host failed.

    :raises RebootFailed: once DMS says so, and why.
    """
    # A DMS that does not know the question refuses it: then nobody knows more.
    with suppress(TimeoutError, Refused):
        async with asyncio.timeout(seconds):
            for pause in _pauses(FOLLOW):
                await asyncio.sleep(pause)
                # A host that goes down, or an API server that has a hiccup, says nothing about the reboot.
                with suppress(Unreachable, NoRoom, Waiting, ApiError):
                    async with connect() as dms:
                        if failure := await dms.reboot_failure():
                            raise RebootFailed(failure)


class _Flash:
    """One flash, over as many connections as it takes.

    :param limit: ends it; begins with all of :data:`BUDGET`.
    """

    def __init__(
        self, job: Job[Firmware | None], order: Order, limit: asyncio.Timeout, activated: datetime | None
    ) -> None:
        self._job = job
        self._order = order
        self._limit = limit
        self._lost_since: float | None = None
        self._job.progress = Progress(activated_at=activated)

    async def through(self, connect: Connect) -> Firmware | None:
        """Connects until it is done; see :func:`perform`."""
        for pause in _pauses(RECONNECT):
            try:
                async with connect() as dms:
                    await self._install(dms)
                    self._limit.reschedule(None)
                    return await _firmware(dms)
            except Unreachable as error:
                self._lost(error)
            await asyncio.sleep(pause)
        raise AssertionError("pauses do not end")

    async def _install(self, dms: Dms) -> None:
        order = self._order
        found = before = await dms.report()
        if found.active:
            self._ends_in_time()
            before = await self._settled(dms, found)
        if self._progress.activated_at is not None and before.outcome == "failure":
            # This attempt's, for a new one has no time yet at which the card was asked.
            raise Refused(_failure(before))
        if not found.active:
            # Whatever was asked of it has ended: what is asked now has time of its own.
            self._tell(activated_at=None)
        await dms.set_mode(MODE)
        self._tell(text=f"handing over {order.version}")
        if await dms.install(order.version, order.image):
            # That it had the image says nothing of whether the volume takes a write: then the silence before goes on counting.
            self._lost_since = None
        for pause in (*AGAIN, None):
            # Each time: DMS keeps it no longer than the card needs it.
            await dms.install(order.config_name, order.config)
            log.info("card_activate", version=order.version, config_sha256=order.sha256)
            await dms.activate(f"{order.version};{order.config_name}")
            self._tell(activated_at=self._progress.activated_at or now().replace(microsecond=0))
            report = await self._settled(dms, await dms.report())
            if report.outcome == "success":
                return
            if report.outcome != "retriable":
                raise Refused(_failure(report))
            if pause is not None:
                self._tell(text=f"trying again: {report.text}")
                await asyncio.sleep(pause)
        raise Refused(f"the card failed {len(AGAIN) + 1} times: {report.text}")

    async def _settled(self, dms: Dms, report: Report) -> Report:
        """The first report in which the card is not at work."""
        for pause in _pauses(POLL):
            self._lost_since = None
            if not report.active:
                break
            self._tell(text=report.text, percent=report.percent)
            await asyncio.sleep(pause)
            report = await dms.report()
        return report

    def _ends_in_time(self) -> None:
        """Lets the time run from when the card was asked for what it is at: neither a restart nor a lost connection adds to it."""
        activated = self._progress.activated_at
        if activated is not None:
            left = max(AT_LEAST, BUDGET - (now() - activated).total_seconds())
            ends = asyncio.get_running_loop().time() + left
            self._limit.reschedule(min(ends, self._limit.when() or ends))

    def _lost(self, error: Unreachable) -> None:
        """Notes that DMS did not answer, or only with errors that pass.

        :raises Unreachable: if that has been so for too long: another card may have the turn.
        """
        text = f"DMS does not answer, it is tried again: {error}"
        if not self._progress.lost or text != self._progress.text:
            log.warning("dms_unreachable", error=str(error))
        self._tell(text=text, lost=True)
        time = asyncio.get_running_loop().time()
        self._lost_since = time if self._lost_since is None else self._lost_since
        if time - self._lost_since >= PATIENCE:
            raise Unreachable(text) from error

    @property
    def _progress(self) -> Progress:
        progress: Progress = self._job.progress
        return progress

    def _tell(self, *, lost: bool = False, **changes: Any) -> None:
        self._job.progress = replace(self._progress, lost=lost, **changes)


def _failure(report: Report) -> str:
    return report.text or f"the card reports {report.outcome}"


async def _firmware(dms: Dms) -> Firmware | None:
    """The versions; None if they can't be had, which is no reason to call a flash failed."""
    try:
        return await dms.firmware()
    except (Unreachable, NoRoom, Refused) as error:
        log.info("firmware_not_told", error=str(error))
        return None


def _pauses(bounds: tuple[float, float]) -> Iterator[float]:
    pause, longest = bounds
    while True:
        yield pause
        pause = min(2 * pause, longest)
