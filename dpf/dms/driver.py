"""Runs the rshim driver for one card, for as long as the card is served.

The driver is a program, ``rshim``. With a device named it drives that one alone, whatever else is on the host and whoever drives
that, and shows it as ``/dev/rshim<N>``. It does not choose a free N by itself. It needs root, the host's ``/dev`` with ``cuse`` in
it, and sysfs to write to. Without the card, or if somebody else drives it, it ends.

A card that a driver shows already is left to that one: two on one card write over each other. That may be the host's own, or
one that a ``dms`` which was killed has left; one of ours is started when it is gone.
"""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from dpf.dms.card import CardError
from dpf.dms.devices import Place
from dpf.host.pci import Sysfs
from dpf.runtime.log import get_logger

log = get_logger(__name__)

START = 20.0
"""Seconds that the driver may take to show the card before it is served without."""
LOOK = 0.2
"""Seconds between looks whether a folder is there."""
STEADY = 60.0
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds until it is started again: twice as many each time, anew after it has run for ``STEADY``."""
GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL. It gives the card back to others, for which it takes three itself."""
INDEXES = range(64)
"""Numbers that a folder may have."""
LAST_WORDS = 3
"""Lines of its output that are told when it has ended: the very last only says that it failed."""
CHUNK = 4096


@asynccontextmanager
async def driven(place: Place, program: str, sysfs: Sysfs) -> AsyncIterator[None]:
    """Keeps ``program`` running, unless it is empty. Inside, the card is shown, or ``place.why`` says why it is not yet."""
    if not program:
        yield
        return
    driver = _Driver(place, program, sysfs)
    task = asyncio.create_task(driver.run(), name="rshim driver")
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(START):
                await driver.known.wait()
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


class _Driver:
    def __init__(self, place: Place, program: str, sysfs: Sysfs) -> None:
        self._place = place
        self._program = program
        self._sysfs = sysfs
        self._said: deque[str] = deque(maxlen=LAST_WORDS)
        self._ended = ""
        """Why it does not run, or did not before."""
        self.known = asyncio.Event()
        """Set once it is known whether the card is shown."""

    async def run(self) -> None:
        """Has the card shown until cancelled."""
        pause, loop = FIRST_PAUSE, asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                why = await self._once()
            except OSError as error:
                why = f"{error.filename}: {error.strerror}"
            self._place.forget()
            self._place.why = self._ended = why
            self.known.set()
            if loop.time() - began > STEADY:
                pause = FIRST_PAUSE
            log.warning("rshim_ended", why=why, again_in=pause)
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)

    async def _once(self) -> str:
        """Has the card shown, by whomever; returns when that is over, with the reason."""
        try:
            other = await self._place.look()
        except CardError as error:
            # Of another card, whose driver has just gone or hangs. If it is this one's, the program says so.
            log.warning("rshim_not_looked_at", error=str(error))
            other = None
        if other is not None:
            log.info("rshim_found", device=str(other))
            self.known.set()
            await _until(lambda: not (other / "misc").exists(), FIRST_PAUSE)
            return f"the rshim that showed it as {other.name} is gone"
        if not (function := self._function()):
            return f"the host has no function that rshim could drive at {self._place.pci} (lspci -D -d 15b3:)"
        free = [index for index in INDEXES if not (self._place.devices / f"rshim{index}").exists()]
        if not free:
            return f"rshim{INDEXES[0]} to rshim{INDEXES[-1]} are all there already"
        return await self._drive(f"pcie-{function}", free[0])

    def _function(self) -> str:
        """The address of the card's function that rshim drives; empty if there is none."""
        for slot, address in self._sysfs.functions():
            if slot == self._place.pci.lower() or slot.endswith(f":{self._place.pci.lower()}"):
                with suppress(OSError, ValueError):
                    if self._sysfs.is_rshim(address):
                        return address
        return ""

    async def _drive(self, name: str, index: int) -> str:
        command = (self._program, "--foreground", "--device", name, "--index", str(index))
        try:
            # In a session of its own: when it ends it may kill its whole process group, and that would be this one.
            process = await asyncio.create_subprocess_exec(
                *command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, start_new_session=True
            )
        except OSError as error:
            return f"{self._program} cannot be run: {error.strerror}"
        log.info("rshim_started", device=name, index=index, pid=process.pid)
        self._place.why = f"{self._program} runs for {name} and does not show it"
        if self._ended:
            self._place.why += f"; before that {self._ended}"
        self._said.clear()
        others = [asyncio.create_task(work) for work in (self._read(process), self._shown(index))]
        try:
            code = await process.wait()
            self._place.forget()
            await asyncio.wait(others[:1], timeout=LOOK)
        finally:
            for task in others:
                task.cancel()
            await _end(process)
        return f"{self._program} for {name} ended with {code}: {'; '.join(self._said) or 'no output'}"

    async def _shown(self, index: int) -> None:
        folder = self._place.devices / f"rshim{index}"
        await _until((folder / "misc").exists, LOOK)
        log.info("rshim_shows_card", device=str(folder))
        self.known.set()

    async def _read(self, process: Process) -> None:
        """Logs what it prints; while it runs that comes late, by the buffer."""
        if process.stdout is None:
            return
        rest = b""
        while chunk := await process.stdout.read(CHUNK):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._says(line)
            rest = rest[-CHUNK:]
        self._says(rest)

    def _says(self, line: bytes) -> None:
        if text := line.decode(errors="replace").strip():
            self._said.append(text)
            log.info("rshim_says", line=text)


async def _until(so: Callable[[], bool], every: float) -> None:
    """Waits until something is so; of a folder of devices nobody tells when it comes and goes."""
    while True:
        if so():
            return
        await asyncio.sleep(every)


async def _end(process: Process) -> None:
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
    for seconds in (GRACE, GRACE):
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await process.wait()
                return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
