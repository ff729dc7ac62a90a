"""A BlueField behind the rshim driver.

The driver shows a card as a folder (``/dev/rshim0``): what is written to ``boot`` is what the card boots, ``misc`` tells and takes
settings, its log included. An image is pushed by writing it and the bf.cfg after it in one go; the card then installs itself
and says in its log how far it is. It cannot call back, so the log is read every few seconds.

Mode and resets are the firmware tools' business (mlxconfig, mlxfwreset), the host's power the BMC's (ipmitool).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

from dpf.dms import tools
from dpf.dms.card import CardError, CardStatus, Power, State
from dpf.runtime.log import get_logger

log = get_logger(__name__)

R = TypeVar("R")

DEVICES = Path("/dev")
POLL = 3.0
"""Seconds between looks at the log."""
WRITE_TIMEOUT = 60.0
"""Seconds that the driver may take for one piece of an image: it stalls while the card resets."""
PIECE = 1 << 20
ARM_OFF_TRIES = 30
ARM_OFF_PAUSE = 5.0
"""How often, and seconds apart, the log is looked at for the Arm side to be off."""
RESET_TIMEOUT = 600.0

BASIC, ADVANCED, LOG = 0, 1, 2
"""Values of misc's DISPLAY_LEVEL."""

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
FAILED = re.compile(r"(ERR\[MISC\].*|.*Installation failed.*|.*Failed to install.*|.*No space left on device.*)")
ARM_OFF = "System Off"
MODE_SETTING = "INTERNAL_CPU_OFFLOAD_ENGINE"


class RshimCard:
    """One BlueField.

    :param pci: bus and device, ``04:00``.
    :param device: its rshim folder; found by the address if not given.
    """

    def __init__(self, pci: str, *, device: Path | None = None, devices: Path = DEVICES) -> None:
        self._pci = pci
        self._device = device
        self._devices = devices
        self._version = ""
        self._request = ""

    # The device folder

    async def folder(self) -> Path:
        """The card's rshim folder.

        :raises CardError: if no rshim shows the address, with what to look at.
        """
        if self._device is None:
            for candidate in sorted(self._devices.glob("rshim*")):
                if f"{self._pci}." in await self._misc(candidate, ADVANCED):
                    self._device = candidate
                    break
            else:
                found = ", ".join(path.name for path in self._devices.glob("rshim*")) or "none"
                raise CardError(
                    f"no rshim of {found} shows a card at {self._pci}: does the rshim driver run here, and nowhere else?",
                    passing=True,
                )
        return self._device

    async def _misc(self, device: Path, level: int) -> str:
        def read() -> str:
            (device / "misc").write_text(f"DISPLAY_LEVEL {level}\n")
            return (device / "misc").read_text(errors="replace")

        return await _in_thread(read, f"{device}/misc")

    async def _log(self) -> list[str]:
        text = await self._misc(await self.folder(), LOG)
        lines = [line.strip() for line in text.splitlines()]
        starts = [index for index, line in enumerate(lines) if MILESTONES[0][0] in line]
        # Only the present boot counts; after an installation the card boots once more.
        return lines[starts[-1] :] if starts else lines

    # Card

    async def mode(self) -> str:
        output = await tools.run("mlxconfig", "-d", self._pci, "q", MODE_SETTING)
        return "NIC" if re.search(rf"{MODE_SETTING}\s+DISABLED", output) else "DPU"

    async def set_mode(self, mode: str) -> None:
        if mode not in {"DPU", "NIC"}:
            raise CardError(f"a card has no mode {mode!r}; there are DPU and NIC")
        if await self.mode() == mode:
            return
        value = {"DPU": 0, "NIC": 1}[mode]
        await tools.run("mlxconfig", "-d", self._pci, "-y", "s", f"{MODE_SETTING}={value}")

    async def boot(self, image: Path, version: str, config: bytes, request: str) -> None:
        device = await self.folder()
        self._version, self._request = version, ""
        log.info("card_pushed", device=str(device), image=version)
        boot = await _in_thread(lambda: (device / "boot").open("wb", buffering=0), f"{device}/boot")
        try:
            source = await _in_thread(lambda: image.open("rb"), str(image))
            try:
                while piece := await _in_thread(lambda: source.read(PIECE), str(image)):
                    await _in_thread(lambda data=piece: _write(boot, data), f"{device}/boot")  # type: ignore[misc]
            finally:
                source.close()
            await _in_thread(lambda: _write(boot, config), f"{device}/boot")
        finally:
            await _in_thread(boot.close, f"{device}/boot")
        self._request = request

    async def status(self) -> CardStatus:
        lines = await self._log()
        percent, message = 0, ""
        for line in lines:
            if FAILED.match(line):
                return CardStatus(State.FAILED, percent, self._version, line, self._request)
            if READY in line and not any(text in entry for entry in lines for text in ("Installing", *INSTALLED)):
                return CardStatus(State.UP, 100, self._version, line, self._request)
            for text, reached in MILESTONES:
                if text in line and reached >= percent:
                    percent, message = reached, line
        installed = any(text in line for line in lines for text in INSTALLED)
        state = State.BOOTING if installed else State.INSTALLING
        return CardStatus(state, percent, self._version, message, self._request)

    async def follow(self) -> AsyncIterator[CardStatus]:
        before: CardStatus | None = None
        while True:
            status = await self.status()
            if status != before:
                yield status
            if status.settled:
                return
            before = status
            await asyncio.sleep(POLL)

    async def boot_id(self) -> str:
        return (await _in_thread(Path("/proc/sys/kernel/random/boot_id").read_text, "boot_id")).strip()

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
            text = await self._misc(await self.folder(), LOG)
            if ARM_OFF in text:
                return
            if attempt + 1 < ARM_OFF_TRIES:
                await asyncio.sleep(ARM_OFF_PAUSE)
        seconds = ARM_OFF_TRIES * ARM_OFF_PAUSE
        raise CardError(f"the card's Arm side did not go down within {seconds:g} s; the host was not reset")

    async def power_cycle(self, power: Power, request: str) -> None:
        await tools.run("ipmitool", "chassis", "power", power)


def _write(file: object, data: bytes) -> None:
    """The driver takes what it can; a short write is not an error."""
    view = memoryview(data)
    while view:
        written = file.write(view)  # type: ignore[attr-defined]
        view = view[written:]


async def _in_thread(work: Callable[[], R], what: str) -> R:
    """Device files block; a card that hangs must not stop the others."""
    try:
        async with asyncio.timeout(WRITE_TIMEOUT):
            return await asyncio.to_thread(work)
    except TimeoutError:
        raise CardError(f"{what} does not answer for {WRITE_TIMEOUT:g} s", passing=True) from None
    except OSError as error:
        raise CardError(f"{what}: {error.strerror}", passing=True) from error
