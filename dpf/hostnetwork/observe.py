"""What is to be known of a card and the host's bridge before anything is decided."""

from __future__ import annotations

from dpf.host.network import Link, Network
from dpf.host.pci import Sysfs
from dpf.hostnetwork.decide import Physical, Problem, Seen, Wanted

DRIVER = "mlx5_core"
"""The host's network driver of a card's functions. Under any other, a function serves a virtual machine or a user-space program;
under this one it may do so too, as DPDK leaves the function to it, but its network device is up then."""


async def observe(wanted: Wanted, sysfs: Sysfs, network: Network) -> Seen:
    """Looks at the card and the bridge.

    :raises OSError: if sysfs can't be read.
    :raises ValueError: if it holds garbage.
    :raises NetworkError: if the kernel does not tell.
    """
    bridge = await network.link(wanted.bridge)
    address = bridge is not None and await network.has_ipv4(bridge.index)
    pf0, pf1 = f"{wanted.slot}.0", f"{wanted.slot}.1"
    if problem := _card_problem(sysfs, pf0):
        return Seen(problem)
    functions = [pf0, pf1] if sysfs.there(pf1) and sysfs.is_dpu(pf1) else [pf0]
    physical = [await _physical(wanted, sysfs, network, each, bridge) for each in functions]
    virtual = sysfs.virtual(pf0)
    netdev = sysfs.netdev(virtual[0]) if virtual else ""
    vf0 = await network.link(netdev) if netdev else None
    return Seen(None, tuple(physical), vf0, bridge, address)


def _card_problem(sysfs: Sysfs, pf0: str) -> Problem | None:
    if not sysfs.there(pf0):
        return Problem("CardMissing", f"there is no PCI function {pf0} on the host: see `lspci -D -d 15b3:`")
    if not sysfs.is_dpu(pf0):
        return Problem("NotADPU", f"PCI function {pf0} is none of a BlueField card: see `lspci -D -s {pf0} -nn`")
    return None


async def _physical(wanted: Wanted, sysfs: Sysfs, network: Network, address: str, bridge: Link | None) -> Physical:
    have = sysfs.count(address)
    if have is None:
        return Physical(address, None)
    offered = sysfs.offered(address)
    mismatch = 0 < have < wanted.functions
    return Physical(address, have, offered, await _in_use(sysfs, network, address, bridge) if mismatch else "")


async def _in_use(sysfs: Sysfs, network: Network, address: str, bridge: Link | None) -> str:
    """Which virtual function somebody uses, and how that is known; empty if nobody uses any. Ours in the bridge does not count.

    Who uses a device that the host has can't be told in full (IPv6, VLANs, DPDK), but nobody uses one that is down.
    """
    for function in sysfs.virtual(address):
        driver = sysfs.driver(function)
        if not driver:
            continue
        if driver != DRIVER:
            return f"{function} is held by driver {driver}"
        netdev = sysfs.netdev(function)
        link = await network.link(netdev) if netdev else None
        if link is None:
            return f"{function} has its network device in another network namespace, as a pod's has"
        ours = bridge is not None and link.master == bridge.index
        if link.master and not ours:
            return f"{netdev} ({function}) belongs to device {link.master}"
        if await network.has_ipv4(link.index):
            return f"{netdev} ({function}) has an IPv4 address"
        if link.up and not ours:
            return f"{netdev} ({function}) is up, as it is while somebody uses it"
    return ""
