"""The folder of device files in which the rshim driver shows a card, such as ``/dev/rshim0``."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TypeVar

from dpf.dms.card import CardError
from dpf.runtime import threads

R = TypeVar("R")

DEVICES = Path("/dev")
MISC_TIMEOUT = 60.0
"""Seconds that the driver may take for an answer."""

ADVANCED, LOG = 1, 2
"""Values of misc's DISPLAY_LEVEL; 0 is the least."""


class Place:
    """Where a card's folder is.

    :param pci: domain, bus and device, ``0000:04:00``; without its domain, ``04:00``, on a host that has only one.
    :param folder: found by the address if not given.
    """

    def __init__(self, pci: str, folder: Path | None = None, *, devices: Path = DEVICES) -> None:
        self.pci = pci
        self.devices = devices
        self.why = "does the rshim driver run here, and nowhere else?"
        """What to look at if no rshim shows the card."""
        self._given = folder
        self._found = folder
        self._forgotten = 0

    async def folder(self) -> Path:
        """The folder.

        :raises CardError: if no rshim shows the address, with what to look at.
        """
        if self._found is None:
            forgotten, found = self._forgotten, await self.look()
            # What was found before the driver ended is not its folder any more.
            self._found = found if forgotten == self._forgotten else None
        if self._found is None:
            names = ", ".join(path.name for path in self._all()) or "none"
            raise CardError(f"no rshim of {names} shows a card at {self.pci}: {self.why}", passing=True)
        return self._found

    async def look(self) -> Path | None:
        """The folder that shows the address now.

        :raises CardError: if none does, and one can't be read: it may be that one.
        """
        failed: CardError | None = None
        for candidate in self._all():
            try:
                text, _ = await in_thread(partial(tell, candidate / "misc", ADVANCED, False), f"{candidate}/misc")
            except CardError as error:
                failed = error
                continue
            if shows(text, self.pci):
                return candidate
        if failed is not None:
            raise failed
        return None

    def forget(self) -> None:
        """Has the folder looked for again: its driver has ended, and the next of that name may be another card's."""
        self._found = self._given
        self._forgotten += 1

    def _all(self) -> list[Path]:
        return sorted(self.devices.glob("rshim*"))


def shows(misc: str, pci: str) -> bool:
    """Whether an rshim tells that it is the card at an address. Where one of the two leaves the domain out, it does not count.

    :param misc: has the address of the rshim's own function in it: ``DEV_NAME pcie-0000:04:00.2``.
    """
    *domain, bus, device = pci.split(":")
    found = re.search(rf"(?<![0-9a-f:])(?:([0-9a-f]+):)?{bus}:{device}\.", misc, re.IGNORECASE)
    return found is not None and (not domain or found[1] is None or int(found[1], 16) == int(domain[0], 16))


def opened(path: Path) -> FileIO:
    """A device file to write to. One that is not there is not made: a plain file would take the image and boot nothing."""
    return FileIO(path, "w", opener=lambda name, _: os.open(name, os.O_WRONLY))


def write(file: FileIO, data: bytes) -> None:
    """The driver takes what it can; a short write is not an error."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) or 0 :]


def tell(misc: Path, level: int, emptying: bool) -> tuple[str, bool]:
    """What ``misc`` shows, and whether that emptied the log; a driver too old for it refuses to."""
    with opened(misc) as file:
        try:
            file.write(f"CLEAR_ON_READ {int(emptying)}\n".encode())
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            emptying = False
        file.write(f"DISPLAY_LEVEL {level}\n".encode())
    return misc.read_text(errors="replace"), emptying


async def in_thread(work: Callable[[], R], what: str, timeout: float = MISC_TIMEOUT) -> R:
    """Device files block; a card that hangs must not stop anything but what is asked of it.

    :param what: the file.
    :param timeout: seconds.
    :raises CardError: if it takes longer or fails; at once while an earlier call that took longer still holds the file.
    """
    try:
        return await threads.within(timeout, what, work)
    except TimeoutError:
        raise CardError(f"{what} does not answer for {timeout:g} s", passing=True) from None
    except OSError as error:
        raise CardError(f"{what}: {error.strerror}", passing=True) from error
