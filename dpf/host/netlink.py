"""The network of this process's namespace, by netlink."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from pyroute2 import AsyncIPRoute, NetlinkError

from dpf.host.network import Link, NetworkError

MAIN = 254
"""The main routing table."""
NO_DEVICE = 19
"""ENODEV, as netlink numbers its errors."""
IFF_UP = 1
_LINKS, _IPV4_ADDRESSES, _IPV4_ROUTES = 0x1, 0x10, 0x40
"""Bits of netlink's multicast groups (RTMGRP_*)."""


class NetlinkNetwork:
    """See :class:`dpf.host.network.Network`. Use as an async context manager; changes count from its entry on."""

    def __init__(self) -> None:
        self._route = AsyncIPRoute()
        self._told = _Told()

    async def __aenter__(self) -> NetlinkNetwork:
        self._told.open()
        await self._route.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._told.close()
        await self._route.__aexit__(kind, error, trace)

    async def link(self, name: str) -> Link | None:
        try:
            found = (await self._route.link("get", ifname=name))[0]
        except NetlinkError as error:
            if error.code == NO_DEVICE:
                return None
            raise NetworkError(f"network device {name} can't be read: {error}") from error
        return Link(
            index=found["index"],
            name=found.get("ifname"),
            kind=found.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "",
            master=found.get("master") or 0,
            mtu=found.get("mtu"),
            up=bool(found["flags"] & IFF_UP),
        )

    async def has_ipv4(self, index: int) -> bool:
        with _refusals(f"addresses of device {index} can't be read"):
            return bool([each async for each in await self._route.get_addr(family=socket.AF_INET, index=index)])

    async def default_metrics(self, index: int) -> tuple[int, ...]:
        with _refusals("routes can't be read"):
            routes = [each async for each in await self._route.get_routes(family=socket.AF_INET, table=MAIN)]
        return tuple(route.get("priority") or 0 for route in routes if _reaches(route, index))

    async def set_master(self, index: int, master: int) -> None:
        await self._set(index, master=master)

    async def set_mtu(self, index: int, mtu: int) -> None:
        await self._set(index, mtu=mtu)

    async def set_up(self, index: int) -> None:
        await self._set(index, state="up")

    async def changed(self) -> None:
        await self._told.wait()

    async def _set(self, index: int, **what: Any) -> None:
        words = ", ".join(f"{name} {value}" for name, value in what.items())
        with _refusals(f"device {index} does not take {words}"):
            await self._route.link("set", index=index, **what)


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise NetworkError(f"{what}: {error}") from error


def _reaches(route: Any, index: int) -> bool:
    """Whether a route leads to 0.0.0.0 over a device: the default route, or one of a half of all addresses."""
    if route.get("dst") not in {None, "0.0.0.0"} or route.get("table") != MAIN:
        return False
    hops = route.get("multipath") or ()
    return route.get("oif") == index or any(hop["oif"] == index for hop in hops)


class _Told:
    """Knows that something changed, not what: the messages are thrown away, and that some were lost is a change too."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._event = asyncio.Event()

    def open(self) -> None:
        told = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
        told.bind((0, _LINKS | _IPV4_ADDRESSES | _IPV4_ROUTES))
        asyncio.get_running_loop().add_reader(told, self._read)
        self._socket = told

    def close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()

    async def wait(self) -> None:
        await self._event.wait()
        self._event.clear()

    def _read(self) -> None:
        self._event.set()
        told = self._socket
        # An OSError is either that nothing is left or that the kernel dropped some (ENOBUFS).
        with suppress(OSError):
            while told is not None and told.recv(65536):
                pass
