"""Where a sandbox keeps its things on disk, and what its hosts and cards are called.

Everything of one sandbox lies under its data folder, so two sandboxes with different folders share nothing on disk. The one
thing that cannot be told apart by a path is an address: host nodes answer on addresses of 127.0.0.0/8, and each sandbox has a
block of 4,096 of them to itself (see :func:`claim_block`).
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

BLOCK_SIZE = 4096
_FIRST_BLOCK = int(ipaddress.IPv4Address("127.16.0.0"))
_BLOCKS = 256  # 127.16.0.0/12

SOCKET_PATH_LIMIT = 100
"""Longest path of a unix socket that Linux takes is 107 bytes; some room is left for temporary names."""

NAMESPACE = "dpf-operator-system"


def default_data_dir() -> Path:
    """``$XDG_STATE_HOME/dpf-sandbox``, by default ``~/.local/state/dpf-sandbox``."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "dpf-sandbox"


@dataclass(frozen=True)
class Layout:
    """The paths of one sandbox."""

    data_dir: Path

    @cached_property
    def run_dir(self) -> Path:
        """Folder of the unix sockets: in the data folder, or in the temporary one where that path is too long for a socket."""
        inside = self.data_dir / "run"
        if len(str(inside / "supervisor.sock")) < SOCKET_PATH_LIMIT:
            return inside
        digest = hashlib.sha256(str(self.data_dir).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"dpf-sandbox-{os.getuid()}-{digest}"

    @property
    def control_socket(self) -> Path:
        return self.run_dir / "supervisor.sock"

    @property
    def fleet_socket(self) -> Path:
        return self.run_dir / "fleet.sock"

    @property
    def marker(self) -> Path:
        """Says that the folder is a sandbox's: there before anything else of it, and after all else is gone. Whoever has the folder
        has locked it; see :mod:`dpf.sandbox.lock`."""
        return self.data_dir / ".dpf-sandbox"

    @property
    def settings(self) -> Path:
        """What the supervisor was started with; written by ``up``."""
        return self.data_dir / "sandbox.json"

    @property
    def logs(self) -> Path:
        return self.data_dir / "logs"

    @property
    def control_planes(self) -> Path:
        return self.data_dir / "controlplane"

    @property
    def tenants(self) -> Path:
        """Certificates of the control planes that the stand-in for Kamaji runs."""
        return self.data_dir / "kamaji"

    @property
    def kubeconfigs(self) -> Path:
        return self.data_dir / "kubeconfig"

    @property
    def host_kubeconfig(self) -> Path:
        """The user's (and the fleet's) way into the host cluster."""
        return self.kubeconfigs / "host.conf"

    @property
    def dpu_kubeconfig(self) -> Path:
        """The user's way into the DPU cluster."""
        return self.kubeconfigs / "dpu.conf"

    @property
    def bfb_dir(self) -> Path:
        """What the BFB PersistentVolumeClaim stands for."""
        return self.data_dir / "bfb"

    @property
    def images(self) -> Path:
        """What the image server serves."""
        return self.data_dir / "images"

    @property
    def fleet_dir(self) -> Path:
        """State of hosts, cards and pods: what would be on their disks."""
        return self.data_dir / "fleet"


@dataclass(frozen=True)
class CardAddress:
    """A card of the fleet: which slot of which host it sits in."""

    host: str
    index: int

    @property
    def pci(self) -> str:
        """The label form of its PCI address, for example ``0000-04-00``."""
        return f"0000-{4 + self.index:02x}-00"

    @property
    def slot(self) -> str:
        """Its PCI address, for example ``0000:04:00``."""
        return self.pci.replace("-", ":")

    @property
    def pf0(self) -> str:
        """Name of its first physical function's network device."""
        return f"ens{self.index + 1}f0np0"

    @property
    def dpu(self) -> str:
        """The name a DPUSet gives the DPU of this card."""
        return f"{self.host}-{self.pci}"


@dataclass(frozen=True)
class Inventory:
    """The hosts and cards of a fleet.

    :param dpus: number of cards; the last host may have fewer than the others.
    :param block: first address of the sandbox's block.
    :param prefix: what the hosts are called, before their number.
    """

    dpus: int
    per_host: int
    block: str
    prefix: str = "worker"

    def __post_init__(self) -> None:
        if self.dpus < 0 or not 1 <= self.per_host <= 16:
            raise ValueError("a fleet has 0 or more DPUs, and 1 to 16 of them in a host")
        if -(-self.dpus // self.per_host) > BLOCK_SIZE - 2:
            raise ValueError(f"a sandbox has addresses for {BLOCK_SIZE - 2} hosts at most")

    @cached_property
    def hosts(self) -> dict[str, list[CardAddress]]:
        """The cards of each host, by the name of its node."""
        names = [f"{self.prefix}{number + 1}" for number in range(-(-self.dpus // self.per_host))]
        return {
            name: [CardAddress(name, i) for i in range(min(self.per_host, self.dpus - position * self.per_host))]
            for position, name in enumerate(names)
        }

    def cards(self) -> Iterator[CardAddress]:
        """All cards, host by host."""
        for cards in self.hosts.values():
            yield from cards

    def address(self, host: str) -> str:
        """The address of a host: one of 127.0.0.0/8 that no other host has."""
        return str(ipaddress.IPv4Address(self.block) + int(host.removeprefix(self.prefix)))


def spare_address(block: str) -> str:
    """The one address of a block that is never a host's: control planes listen there whose own is not of this machine."""
    return str(ipaddress.IPv4Address(block) + BLOCK_SIZE - 1)


def claim_block() -> tuple[str, socket.socket]:
    """A block of loopback addresses that no other sandbox on this machine uses, and the socket that holds the claim.

    The claim lasts as long as the socket is open, so it needs no clean-up after a crash.

    :raises OSError: if all blocks are taken.
    """
    for number in range(_BLOCKS):
        first = ipaddress.IPv4Address(_FIRST_BLOCK + number * BLOCK_SIZE)
        claim = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        with suppress(OSError):
            claim.bind((str(first), 9338))
            return str(first), claim
        claim.close()
    raise OSError(f"all {_BLOCKS} address blocks of 127.16.0.0/12 are taken by other sandboxes")
