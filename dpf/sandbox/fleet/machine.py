"""The inside of a simulated host: a folder that looks like its sysfs, and its network.

What is on the disk stays when the fleet dies, and may be changed by hand: a card whose folder is taken away is a card that was
pulled out, until the fleet starts again. The network is what a host has after it was booted.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from dpf.host.network import BRIDGE, Link, NetworkError
from dpf.host.pci import Sysfs

VENDOR, BLUEFIELD_3, VIRTUAL = "0x15b3", "0xa2dc", "0x101e"
OFFERED = 127
"""Virtual functions that a card's firmware offers."""
METRIC = 5
"""Of the default route over the bridge, as NVIDIA's guide has it."""


@dataclass(frozen=True)
class Hardware:
    """A card as its maker built it.

    :param slot: for example ``0000:04:00``.
    :param pf0: name of the first port's network device; the other's is made of it.
    :param number: of its RDMA devices on the host.
    :param two_ports: whether it has a second port.
    """

    slot: str
    pf0: str
    number: int = 0
    product: str = "BlueField-3 P-Series DPU 200GbE/NDR200 dual-port QSFP-112, simulated"
    part: str = "900-9D3B6-00CV-AA0"
    serial: str = ""
    psid: str = "MT_0000000884"
    two_ports: bool = True

    @property
    def ports(self) -> tuple[str, ...]:
        """The network devices of its ports."""
        return (self.pf0, self.pf0.replace("f0np0", "f1np1")) if self.two_ports else (self.pf0,)


def serial_number(name: str) -> str:
    """A serial number that the card of a name always has."""
    return f"MT2430X{hashlib.sha256(name.encode()).hexdigest()[:5].upper()}"


def vital_product_data(product: str, fields: Mapping[str, str]) -> bytes:
    """A device's vital product data, as :mod:`dpf.host.vpd` reads it."""
    name = product.encode()
    body = b"".join(key.encode() + bytes([len(value)]) + value.encode() for key, value in fields.items())
    length = len(body) + 4
    data = b"\x82" + len(name).to_bytes(2, "little") + name + b"\x90" + length.to_bytes(2, "little") + body + b"RV\x01"
    return data + bytes([-sum(data) % 256]) + b"\x78"


def plug(sysfs: Path, card: Hardware) -> None:
    """Puts a card into a sysfs folder, unless it is in."""
    for port, netdev in enumerate(card.ports):
        function = sysfs / "bus" / "pci" / "devices" / f"{card.slot}.{port}"
        if function.exists():
            continue
        with _appearing(function) as made:
            (made / "net" / netdev).mkdir(parents=True)
            files = {"vendor": VENDOR, "device": BLUEFIELD_3, "sriov_totalvfs": str(OFFERED), "sriov_numvfs": "0"}
            for name, content in files.items():
                (made / name).write_text(f"{content}\n")
            if port == 0:
                rdma = made / "infiniband" / f"mlx5_{card.number}"
                rdma.mkdir(parents=True)
                (rdma / "board_id").write_text(f"{card.psid}\n")
                vital = {"PN": card.part, "EC": "A6", "SN": card.serial or serial_number(card.slot)}
                (made / "vpd").write_bytes(vital_product_data(card.product, vital))


@contextmanager
def _appearing(function: Path) -> Iterator[Path]:
    """A folder to be filled, which is then the function's: a fleet may be killed at any time, and what it leaves is a function
    or none."""
    made = _aside(function)
    made.mkdir(parents=True)
    yield made
    function.parent.mkdir(parents=True, exist_ok=True)
    made.replace(function)


def _vanish(function: Path) -> None:
    """Takes a function away, all of it at once."""
    if function.exists():
        shutil.rmtree(function.replace(_aside(function)))


def _aside(function: Path) -> Path:
    """A name for a folder that is no function, or no more; whatever a dead fleet left there is gone."""
    aside = function.parent.parent / f".{function.name}"
    shutil.rmtree(aside, ignore_errors=True)
    return aside


@dataclass
class SimulatedNetwork:
    """A host's network. Who uses it takes a :class:`View` of it."""

    links: dict[str, Link] = field(default_factory=dict)
    addresses: set[int] = field(default_factory=set)
    """Devices that have an IPv4 address."""
    routes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Metrics of the default routes over a device."""
    _views: list[asyncio.Event] = field(default_factory=list)
    _last: int = 0

    def add(self, name: str, kind: str = "") -> Link:
        """Makes a device; one of that name that there is stays."""
        if name not in self.links:
            self._last += 1
            self.links[name] = Link(self._last, name, kind)
            self.notify()
        return self.links[name]

    def remove(self, name: str) -> None:
        """Takes a device away, if it is there."""
        if gone := self.links.pop(name, None):
            self.addresses.discard(gone.index)
            self.routes.pop(gone.index, None)
            self.notify()

    def change(self, name: str, **what: int | bool) -> None:
        """Changes fields of a device, as an administrator would."""
        self.links[name] = replace(self.links[name], **what)  # type: ignore[arg-type]
        self.notify()

    def add_bridge(self, name: str = BRIDGE) -> None:
        """What a host's administrator makes before the node joins: the bridge, its address and its default route."""
        bridge = self.add(name, "bridge")
        self.addresses.add(bridge.index)
        self.routes[bridge.index] = (METRIC,)
        self.notify()

    def notify(self) -> None:
        """Tells all views that something changed."""
        for event in self._views:
            event.set()

    @contextmanager
    def view(self) -> Iterator[View]:
        """The network as one program sees it."""
        event = asyncio.Event()
        self._views.append(event)
        try:
            yield View(self, event)
        finally:
            self._views.remove(event)


class View:
    """See :class:`dpf.host.network.Network`."""

    def __init__(self, network: SimulatedNetwork, event: asyncio.Event) -> None:
        self._network = network
        self._event = event

    async def link(self, name: str) -> Link | None:
        return self._network.links.get(name)

    async def has_ipv4(self, index: int) -> bool:
        return index in self._network.addresses

    async def default_metrics(self, index: int) -> tuple[int, ...]:
        return self._network.routes.get(index, ())

    async def set_master(self, index: int, master: int) -> None:
        self._network.change(self._name(index), master=master)

    async def set_mtu(self, index: int, mtu: int) -> None:
        self._network.change(self._name(index), mtu=mtu)

    async def set_up(self, index: int) -> None:
        self._network.change(self._name(index), up=True)

    async def changed(self) -> None:
        await self._event.wait()
        self._event.clear()

    def _name(self, index: int) -> str:
        found = next((link.name for link in self._network.links.values() if link.index == index), "")
        if not found:
            raise NetworkError(f"there is no device {index}")
        return found


class SimulatedSysfs(Sysfs):
    """A sysfs folder with a driver behind it: functions that are asked for appear, with their network devices.

    :param shown: how many of them; a fleet of thousands shows the first only.
    """

    def __init__(self, root: Path, network: SimulatedNetwork, shown: int = 1) -> None:
        super().__init__(root)
        self._network = network
        self._shown = shown

    async def vpd(self, address: str) -> bytes:
        return (self.devices / address / "vpd").read_bytes()

    async def set_count(self, address: str, number: int) -> None:
        have = self.count(address)
        if have and number:
            raise OSError(16, "Device or resource busy")
        for function in self.virtual(address):
            self._network.remove(self.netdev(function))
            _vanish(self.devices / function)
        self.write_count(address, number)
        self.show(address)

    def write_count(self, address: str, number: int) -> None:
        """Sets ``sriov_numvfs`` at once: a file of the real sysfs is never read half written."""
        temporary = self.devices / address / ".sriov_numvfs.new"
        temporary.write_text(f"{number}\n")
        temporary.replace(self.devices / address / "sriov_numvfs")

    def show(self, address: str) -> None:
        """Makes the functions that ``sriov_numvfs`` says be there, and no others."""
        number, folder = self.count(address) or 0, self.devices / address
        slot, _, port = address.rpartition(".")
        netdev = self.netdev(address).partition("np")[0]
        for index in range(number, len(self.virtual(address))):
            (folder / f"virtfn{index}").unlink()
        for index in range(min(number, self._shown)):
            # Sixteen functions of each port, beside the card's own.
            function, name = f"{slot[:-2]}{1 + index // 8 + 2 * int(port):02x}.{index % 8}", f"{netdev}v{index}"
            made = self.devices / function
            if not made.exists():
                with _appearing(made) as new:
                    (new / "net" / name).mkdir(parents=True)
                    (new / "vendor").write_text(f"{VENDOR}\n")
                    (new / "device").write_text(f"{VIRTUAL}\n")
                    (new / "driver").symlink_to("../../drivers/mlx5_core")
            if not (folder / f"virtfn{index}").is_symlink():
                (folder / f"virtfn{index}").symlink_to(f"../{function}")
            self._network.add(name)


class Machine:
    """A simulated host's hardware and network.

    :param root: the host's file system; its sysfs is in it, where pods look for it.
    """

    def __init__(self, root: Path, cards: Sequence[Hardware]) -> None:
        self.root = root
        self.network = SimulatedNetwork()
        self._cards = cards
        self.sysfs = SimulatedSysfs(root / "sys", self.network)

    def power_on(self) -> None:
        """The cards are in their slots and the bridge is there. Functions that a fleet before this one made are still there."""
        (self.sysfs.devices).mkdir(parents=True, exist_ok=True)
        self.network.add_bridge()
        for card in self._cards:
            plug(self.root / "sys", card)
            for port in range(len(card.ports)):
                self.sysfs.show(f"{card.slot}.{port}")

    async def reboot(self) -> None:
        """A host that was rebooted has no virtual functions and nothing in its bridge."""
        for card in self._cards:
            for port in range(len(card.ports)):
                if self.sysfs.there(f"{card.slot}.{port}"):
                    await self.sysfs.set_count(f"{card.slot}.{port}", 0)
