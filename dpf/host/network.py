"""What the programs on a host need of its network, behind one protocol: netlink's is in :mod:`dpf.host.netlink`, the sandbox has
one that is simulated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from dpf.runtime.errors import DpfError

BRIDGE = "br-dpu"
"""The bridge that an administrator makes on each host; cards get their address through it."""
SETTLE = 0.2
"""Seconds between a change and the next look, so that changes that come together are looked at together."""


class NetworkError(DpfError):
    """The kernel refused a request about the network."""


@dataclass(frozen=True)
class Link:
    """A network device.

    :param kind: what made it, such as ``bridge`` or ``veth``; empty for hardware.
    :param master: index of the bridge that it belongs to; 0 for none.
    """

    index: int
    name: str
    kind: str = ""
    master: int = 0
    mtu: int = 1500
    up: bool = False


class Network(Protocol):
    """The network namespace of the host. Every method raises :class:`NetworkError` if the kernel does not do as asked."""

    async def link(self, name: str) -> Link | None:
        """The network device of that name."""

    async def has_ipv4(self, index: int) -> bool:
        """Whether a device has an IPv4 address."""

    async def default_metrics(self, index: int) -> tuple[int, ...]:
        """Metrics of the main table's IPv4 routes over a device that reach 0.0.0.0."""

    async def set_master(self, index: int, master: int) -> None:
        """Puts a device into a bridge, out of the one that it is in; 0 only takes it out."""

    async def set_mtu(self, index: int, mtu: int) -> None:
        """Sets the MTU of a device, bytes."""

    async def set_up(self, index: int) -> None:
        """Brings a device up."""

    async def changed(self) -> None:
        """Returns when a device, an address or a route may have changed since it returned last."""


async def looks(network: Network, interval: float, settle: float = SETTLE) -> AsyncIterator[None]:
    """When to look: at once, then after each change, and every ``interval`` seconds for what tells nobody when it changes.

    :param settle: seconds from a change to the look; no two looks are closer to each other.
    """
    while True:
        yield
        with suppress(TimeoutError):
            async with asyncio.timeout(interval):
                await network.changed()
                await asyncio.sleep(settle)
