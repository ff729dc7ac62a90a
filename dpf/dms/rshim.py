"""A BlueField behind the rshim driver.

The driver shows a card as a folder (``/dev/rshim0``): what is written to ``boot`` is what the card boots, ``misc`` tells and takes
settings, its log included. An image is pushed by writing it and the bf.cfg after it in one go: the driver resets the card when
``boot`` is opened. The card then installs itself and says in its log how far it is. It cannot call back, so the log is read every
few seconds. The log is a buffer of 1 KiB in the card that takes nothing more once it is full, so until the installation is done
each look empties it and what was seen is kept here.

Mode, firmware and resets are the firmware tools' business (mlxconfig, flint, mlxfwreset), the host's power the BMC's (ipmitool).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

from dpf.dms import devices, tools
from dpf.dms.card import CardError, CardStatus, Power, State
from dpf.dms.devices import LOG, Place, in_thread
from dpf.gnxi.dms import NIC
from dpf.runtime import threads
from dpf.runtime.log import get_logger

log = get_logger(__name__)

POLL = 3.0
"""Seconds between looks at the log."""
BOOT_TIMEOUT = 300.0
"""Seconds that it may take for a piece of an image: while the card resets it waits by itself, for some 150 s by default."""
PIECE = 1 << 20
ARM_OFF_TRIES = 30
ARM_OFF_PAUSE = 5.0
"""How often, and seconds apart, the log is looked at for the Arm side to be off."""
RESET_TIMEOUT = 600.0
EMPTIES = "2.0.33"
"""The first version of the driver that knows CLEAR_ON_READ."""

MILESTONES = (
    ("INFO[BL2]: start", 5),
    ("INFO[UEFI]: UEFI image booting", 15),
    ("Linux up", 25),
    ("Installing OS image", 35),
    ("Installing", 40),
    ("Updating", 80),
    ("Installation finished", 90),
    ("Rebooting", 92),
)
"""What the log says on the way, and how many percent that is."""
READY = "DPU is ready"
INSTALLED = ("Installation finished", "Rebooting")
FAILED = re.compile(
    r"(ERR|ASSERT)\[MISC\]|PANIC\(|Exception\(|.*(CRITICAL ERROR|Installation failed|Failed to install|No space left on device)"
)
LOG_LINE = re.compile(r"(INFO|WARN|ERR|ASSERT)\[|PANIC\(|Exception\(")
ARM_OFF = "System Off"
MODE_SETTING = "INTERNAL_CPU_OFFLOAD_ENGINE"
NIC_VERSION = re.compile(r"^FW Version:\s*(\S+)", re.MULTILINE)
"""What flint says of the firmware on the card's flash; the one that runs until the next reset is ``FW Version(Running)``."""


class RshimCard:
    """One BlueField.

    :param place: where the driver shows it.
    :param wrote: called with how many bytes of an image or bf.cfg the card has taken, as it takes them.
    """

    def __init__(self, place: Place, *, wrote: Callable[[int], None] = lambda _: None) -> None:
        self._wrote = wrote
        self._place = place
        self._pci = place.pci
        self._version = ""
        self._request = ""
        self._emptying = False
        self._seen: list[str] = []
        """Lines of the log that are not in the card any more."""

    # The device folder

    async def _misc(self, level: int, emptying: bool = False) -> tuple[str, bool]:
        misc = await self._place.folder() / "misc"
        return await in_thread(partial(devices.tell, misc, level, emptying), str(misc))

    async def _log(self) -> list[str]:
        """The log's lines, from the push on if there was one."""
        text, emptied = await self._misc(LOG, self._emptying)
        fresh = [line.strip() for line in text.splitlines() if LOG_LINE.match(line.strip())]
        lines = [*self._seen, *fresh]
        if emptied:
            self._seen = lines
        if self._emptying and any(end in line for line in lines for end in (READY, *INSTALLED)):
            # What the next boot says stays for whoever looks, be it the process after this one.
            self._emptying = False
            await self._misc(LOG)
        return lines

    # Card

    async def mode(self) -> str:
        output = await tools.run("mlxconfig", "-d", f"{self._pci}.0", "q", MODE_SETTING)
        return "NIC" if re.search(rf"{MODE_SETTING}\s+DISABLED", output) else "DPU"

    async def set_mode(self, mode: str) -> None:
        if mode not in {"DPU", "NIC"}:
            raise CardError(f"a card has no mode {mode!r}; there are DPU and NIC")
        if await self.mode() == mode:
            return
        value = {"DPU": 0, "NIC": 1}[mode]
        await tools.run("mlxconfig", "-d", f"{self._pci}.0", "-y", "s", f"{MODE_SETTING}={value}")

    async def firmware(self) -> Mapping[str, str]:
        # Of the board management controller and of UEFI nothing is told on this side of the card.
        found = NIC_VERSION.search(await tools.run("flint", "-d", f"{self._pci}.0", "q"))
        return {NIC: found[1]} if found is not None else {}

    async def boot(self, image: Path, version: str, config: bytes, request: str) -> None:
        device = await self._place.folder()
        # What the log says from here on is of this boot; if it could not be emptied, the boot before would be taken for it.
        _, emptied = await self._misc(LOG, True)
        if not emptied:
            raise CardError(f"the rshim driver of {device} can't empty the card's log: it must be {EMPTIES} or newer")
        self._version, self._request, self._seen, self._emptying = version, "", [], True
        log.info("card_push", device=str(device), image=version)
        boot = await in_thread(partial(devices.opened, device / "boot"), f"{device}/boot", BOOT_TIMEOUT)
        try:
            source = await in_thread(lambda: image.open("rb"), str(image))
            try:
                while piece := await in_thread(lambda: source.read(PIECE), str(image)):
                    await in_thread(partial(devices.write, boot, piece), f"{device}/boot", BOOT_TIMEOUT)
                    self._wrote(len(piece))
            finally:
                # A read that hangs keeps the file to itself: who closes it waits for that one.
                threads.start(source.close)
        except BaseException:
            await in_thread(boot.close, f"closing {device}/boot", BOOT_TIMEOUT)
            raise
        await _to_the_end(self._complete(device / "boot", boot, config))
        self._request = request

    async def _complete(self, path: Path, boot: FileIO, config: bytes) -> None:
        """The last of what the card is given: after it the card installs, whatever becomes of this process."""
        try:
            await in_thread(partial(devices.write, boot, config), str(path), BOOT_TIMEOUT)
            self._wrote(len(config))
        finally:
            # Under a name of its own: a write that hangs must not keep it from being closed.
            await in_thread(boot.close, f"closing {path}", BOOT_TIMEOUT)

    async def status(self) -> CardStatus:
        lines = await self._log()
        starts = [index for index, line in enumerate(lines) if MILESTONES[0][0] in line]
        # After an installation the card boots once more; whether it is up, or failed, the latest boot tells.
        boot = lines[starts[-1] :] if starts else lines
        percent, message = _progress(lines)
        if failure := next(filter(FAILED.match, boot), ""):
            return CardStatus(State.FAILED, percent, self._version, failure, self._request)
        ready = next((line for line in boot if READY in line), "")
        if ready and not any(text in line for line in boot for text in ("Installing", *INSTALLED)):
            return CardStatus(State.UP, 100, self._version, ready, self._request)
        installed = any(text in line for line in lines for text in INSTALLED)
        state = State.BOOTING if installed else State.INSTALLING
        return CardStatus(state, percent, self._version, message, self._request)

    async def follow(self) -> AsyncIterator[CardStatus]:
        before: CardStatus | None = None
        if not self._request:
            # Pushed by a process before this one.
            self._emptying = True
        while True:
            try:
                status = await self.status()
            except CardError as error:
                # The device is gone for a while when the card resets. How long that may take, the caller knows.
                if not error.passing:
                    raise
                status = replace(before or CardStatus(State.INSTALLING, version=self._version), message=str(error))
            if status != before:
                yield status
            if status.settled:
                return
            before = status
            await asyncio.sleep(POLL)

    async def boot_id(self) -> str:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()  # noqa: ASYNC240  (the kernel knows it by heart)

    async def boot_time(self) -> int:
        return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    async def reset(self, power: Power, request: str) -> None:
        device = f"{self._pci}.0"
        # The firmware complains of a register while the Arm side goes down; whether it is down, the log tells.
        await tools.run(
            "mlxfwreset",
            "-d",
            device,
            "-l",
            "1",
            "-t",
            "4",
            "reset",
            "-y",
            "--sync",
            "0",
            timeout=RESET_TIMEOUT,
            check=False,
        )
        await self._arm_off()
        # The level-4 reset waits for the PCIe link to go, which the host's reset brings about.
        await tools.run("mlxfwreset", "-d", device, "-l", "4", "r", "-y", timeout=RESET_TIMEOUT, check=False)
        await self.power_cycle(power, request)

    async def _arm_off(self) -> None:
        for attempt in range(ARM_OFF_TRIES):
            text, _ = await self._misc(LOG)
            if ARM_OFF in text:
                return
            if attempt + 1 < ARM_OFF_TRIES:
                await asyncio.sleep(ARM_OFF_PAUSE)
        seconds = ARM_OFF_TRIES * ARM_OFF_PAUSE
        raise CardError(f"the card's Arm side did not go down within {seconds:g} s; the host was not reset")

    async def power_cycle(self, power: Power, request: str) -> None:
        await tools.run("ipmitool", "chassis", "power", power)


def _progress(lines: list[str]) -> tuple[int, str]:
    """How many percent are done, and the line that said so."""
    percent, message = 0, ""
    for line in lines:
        for text, reached in MILESTONES:
            if text in line and reached >= percent:
                percent, message = reached, line
    return percent, message


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Does it even if that is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    task.result()
