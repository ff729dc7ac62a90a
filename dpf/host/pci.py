"""PCI functions as sysfs shows them.

A card is a slot (``0000:04:00``: domain, bus, device); it has functions (``0000:04:00.0``), physical ones and the virtual ones
that those make. The root is a parameter: in a container the host's sysfs lies elsewhere, and in a test it is a folder.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

from dpf.host.vpd import LARGEST
from dpf.runtime import threads

VENDOR = 0x15B3
DPUS = {0xA2DC: "BlueField-3", 0xA2D6: "BlueField-2"}
"""Device ids of the network functions of cards."""
RSHIMS = {0xC2D2, 0xC2D3, 0xC2D4, 0xC2D5}
"""Device ids of the functions through which a host manages cards, BlueField-1 to -3; its number depends on the card's ports."""
VPD = 10.0
"""Seconds that a device may take to tell its vital product data."""

SLOT = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]")
_FUNCTION = re.compile(rf"({SLOT.pattern})\.([0-7])")


class Sysfs:
    """The PCI functions under a sysfs root. A method raises OSError if what it asks for cannot be read, ValueError if it is
    garbage; what one function does wrong says nothing of the others."""

    def __init__(self, root: Path) -> None:
        self.devices = root / "bus" / "pci" / "devices"

    def functions(self) -> Iterator[tuple[str, str]]:
        """Slot and address of every function, in PCI address order."""
        found = [match for path in self.devices.iterdir() if (match := _FUNCTION.fullmatch(path.name))]
        for match in sorted(found, key=lambda match: [int(part, 16) for part in re.split("[:.]", match[0])]):
            yield match[1], match[0]

    def there(self, address: str) -> bool:
        """Whether there is such a function."""
        return (self.devices / address).exists()

    def is_dpu(self, address: str) -> bool:
        """Whether the function is a network function of a BlueField card."""
        return self._number(address, "vendor") == VENDOR and self._number(address, "device") in DPUS

    def is_rshim(self, address: str) -> bool:
        """Whether the function is the one of a BlueField card that the rshim driver drives."""
        return self._number(address, "vendor") == VENDOR and self._number(address, "device") in RSHIMS

    def netdev(self, address: str) -> str:
        """The name of its network device in this network namespace; empty if it has none here."""
        folder = self.devices / address / "net"
        if not folder.is_dir():
            return ""
        names = sorted(path.name for path in folder.iterdir())
        # A physical function's folder has the representors of its virtual ones too, while the card switches for the host.
        return next((name for name in names if not _represents(folder / name)), "")

    def board_id(self, address: str) -> str:
        """The PSID as the RDMA driver shows it; empty if that driver does not run."""
        folder = self.devices / address / "infiniband"
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        return (found[0] / "board_id").read_text().strip() if found else ""

    async def vpd(self, address: str) -> bytes:
        """Its vital product data. A device takes up to a second to tell it, in which others go on.

        :raises OSError: if it can't be read, TimeoutError if it does not answer; at once while an earlier read still waits.
        """
        path = self.devices / address / "vpd"
        return await threads.within(VPD, str(path), _start_of, path)

    def driver(self, address: str) -> str:
        """The name of the driver that holds it; empty if none does."""
        link = self.devices / address / "driver"
        return link.readlink().name if link.is_symlink() else ""

    def virtual(self, address: str) -> list[str]:
        """The addresses of its virtual functions, in order of their numbers."""
        found = {}
        for path in (self.devices / address).glob("virtfn*"):
            number = path.name.removeprefix("virtfn")
            if number.isdecimal():
                found[int(number)] = path.readlink().name
        return [found[number] for number in sorted(found)]

    def count(self, address: str) -> int | None:
        """How many virtual functions it has; None if it can't have any."""
        path = self.devices / address / "sriov_numvfs"
        return int(path.read_text()) if path.exists() else None

    def offered(self, address: str) -> int:
        """How many virtual functions its firmware can give."""
        return int((self.devices / address / "sriov_totalvfs").read_text())

    async def set_count(self, address: str, number: int) -> None:
        """Makes so many virtual functions, or takes them away (0); takes seconds, in which others go on. The kernel takes a
        number other than 0 only while there are none."""
        await asyncio.to_thread((self.devices / address / "sriov_numvfs").write_text, str(number))

    def _number(self, address: str, name: str) -> int:
        return int((self.devices / address / name).read_text(), 16)


def _start_of(vpd: Path) -> bytes:
    with vpd.open("rb") as file:
        return file.read(LARGEST)


def _represents(netdev: Path) -> bool:
    """Whether a network device stands for a function behind it: its port is called ``pf0vf1``, where a real one is ``p0``."""
    try:
        return "pf" in (netdev / "phys_port_name").read_text()
    except OSError:
        return False
