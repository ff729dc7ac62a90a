"""Simulated host nodes: a Node and a Lease in the host cluster, reboots with a new boot id.

A host that is down runs no pods; who runs them waits for :attr:`Host.up`. That a host was rebooting is on its disk, so a
fleet that is killed meanwhile finishes the reboot when it comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from uuid import uuid4

import orjson

from dpf.runtime.errors import AlreadyExists, ApiError, NotFound
from dpf.runtime.log import get_logger
from dpf.sandbox.api import Api, Json
from dpf.sandbox.fleet.cards import Card
from dpf.sandbox.fleet.discovery import Changes, Discovery
from dpf.sandbox.fleet.disk import read_json, write_private
from dpf.sandbox.fleet.faults import Fault
from dpf.sandbox.fleet.kubelet import NODES, LeaseTimes
from dpf.sandbox.fleet.machine import Hardware, Machine, serial_number
from dpf.sandbox.fleet.nodes import lease, lease_path, node, node_ready, timestamp

log = get_logger(__name__)

SHUTDOWN = 0.2
"""Seconds between a request to reboot and the end of the host's pods: the asker's answer still gets out."""
VISIBLE = 1.0
"""Reboots of at least so many seconds are seen in the Node's Ready condition; shorter ones are over before it would be."""
RETRY = 1.0


class Host:
    """One server with its cards."""

    def __init__(self, name: str, address: str, cards: list[Card], folder: Path, reboot_time: float) -> None:
        self.name = name
        self.address = address
        self.cards = cards
        self.folder = folder
        self.machine = Machine(self.root, [_hardware(card) for card in cards])
        self.up = asyncio.Event()
        self.down = asyncio.Event()
        stored = read_json(self._file) or {"boot_id": str(uuid4()), "rebooting": False}
        self.boot_id: str = stored["boot_id"]
        self._rebooting: bool = stored["rebooting"]
        self._reboot_time = reboot_time
        self._asked = asyncio.Event()
        self._discovery = Discovery(self.machine)

    @property
    def root(self) -> Path:
        """The host's file system, as pods see it through hostPath volumes."""
        return self.folder / "root"

    def reboot(self, card: Card, kind: str, id_: str) -> None:
        """Reboots the host, as asked for through one of its cards; a request that was accepted before changes nothing.

        :param kind: ``slr`` resets the card too, ``power`` all cards of the host.
        """
        if not card.accept_host_reboot(id_):
            return
        log.info("host_reboot", host=self.name, card=card.name, kind=kind)
        self._go_down([card] if kind == "slr" else self.cards)

    def crash(self) -> None:
        """The host loses power and boots anew, without anybody having asked; its cards with it."""
        log.info("host_crash", host=self.name)
        self._go_down(self.cards)

    def _go_down(self, cards: list[Card]) -> None:
        for card in cards:
            card.reset()
        self._rebooting = True
        self._save()
        self._asked.set()

    async def run(self, api: Api, times: LeaseTimes, detector: float) -> None:
        """Registers the node, reboots when asked to, until cancelled.

        :param detector: seconds between looks of the host's detector.
        """
        self.machine.power_on()
        async with aclosing(self._discovery.follow(detector)) as features:
            await self._register(api, times, await anext(features))
            async with asyncio.TaskGroup() as group:
                group.create_task(self._renew(api, times))
                group.create_task(self._label(api, features))
                while True:
                    if self._rebooting:
                        await self._reboot(api)
                    self._set_up(up=True)
                    await self._asked.wait()
                    self._asked.clear()

    async def _register(self, api: Api, times: LeaseTimes, changes: Changes) -> None:
        try:
            stored = await self._create(api)
        except AlreadyExists:
            # Labels may have been changed by a user, so those of what is as it was are not set again.
            stored = await self._write_status(api, ready=True)
            if changes:
                await api.patch(f"{NODES}/{self.name}", {"metadata": {"labels": changes}})
        await self._make_lease(api, times, stored)
        self._save()

    async def _make_lease(self, api: Api, times: LeaseTimes, stored: Json) -> None:
        await api.ensure(lease_path(), lease(self.name, stored["metadata"]["uid"], times.duration))

    async def _create(self, api: Api) -> Json:
        body = node(self.name, self.address, boot_id=self.boot_id, labels=self._discovery.labels)
        return await api.create(NODES, body)

    async def _label(self, api: Api, features: AsyncGenerator[Changes, None]) -> None:
        """Changes the Node's labels as what the host has changes."""
        async for changes in features:
            while True:
                try:
                    await api.patch(f"{NODES}/{self.name}", {"metadata": {"labels": changes}})
                    break
                except NotFound:
                    break  # made anew with all of them
                except ApiError as error:
                    log.warning("host_not_labelled", host=self.name, error=str(error))
                    await asyncio.sleep(RETRY)
            log.info("host_labels", host=self.name, changes=changes)

    async def _reboot(self, api: Api) -> None:
        await asyncio.sleep(SHUTDOWN)
        self._set_up(up=False)
        stuck = any(map(_holds_down, self.cards))
        if stuck or self._reboot_time >= VISIBLE:
            await self._write_status(api, ready=False)
        await asyncio.sleep(self._reboot_time)
        for card in self.cards:
            await card.wait_while(_holds_down)
        await self.machine.reboot()
        self.boot_id, self._rebooting = str(uuid4()), False
        self._save()
        await self._write_status(api, ready=True)
        log.info("host_is_back", host=self.name)

    async def _write_status(self, api: Api, *, ready: bool) -> Json:
        patch = {"status": {"conditions": [node_ready(ready=ready)], "nodeInfo": {"bootID": self.boot_id}}}
        while True:
            try:
                return await api.patch(f"{NODES}/{self.name}/status", patch)
            except NotFound:
                return await self._create(api)
            except ApiError as error:
                log.warning("host_status_not_written", host=self.name, error=str(error))
                await asyncio.sleep(RETRY)

    async def _renew(self, api: Api, times: LeaseTimes) -> None:
        while True:
            await asyncio.sleep(times.pause())
            if not self.up.is_set():
                continue
            patch = {"spec": {"renewTime": timestamp().replace("Z", ".000000Z")}}
            try:
                try:
                    await api.patch(lease_path(self.name), patch)
                except NotFound:
                    # It was that of an earlier Node of this name, and has gone with that.
                    await self._make_lease(api, times, await api.get(f"{NODES}/{self.name}"))
            except ApiError as error:
                log.warning("host_lease_not_renewed", host=self.name, error=str(error))

    def _set_up(self, *, up: bool) -> None:
        for event, value in ((self.up, up), (self.down, not up)):
            if value:
                event.set()
            else:
                event.clear()

    def _save(self) -> None:
        write_private(self._file, orjson.dumps({"boot_id": self.boot_id, "rebooting": self._rebooting}))

    @property
    def _file(self) -> Path:
        return self.folder / "host.json"


def _hardware(card: Card) -> Hardware:
    """One port is enough to show everything, and half the files of two."""
    address = card.address
    return Hardware(address.slot, address.pf0, address.index, serial=serial_number(address.dpu), two_ports=False)


def _holds_down(card: Card) -> bool:
    """Whether a fault of the card keeps its host from booting."""
    return card.fault in (Fault.HOST_DOES_NOT_COME_BACK, Fault.HOST_DEAD)
