"""A card at work: its state on disk, the task that moves it on, and those who wait for it.

The rules are in :mod:`cardstate`; here are the clock, the disk and the waiting. A card that was killed together with the
fleet goes on from its record.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter

from dpf.runtime.log import get_logger
from dpf.sandbox.fleet.cardstate import Durations, Record, State, advance, begin_install, firmware, percent, reset
from dpf.sandbox.fleet.disk import read_json, write_private
from dpf.sandbox.fleet.faults import Fault
from dpf.sandbox.layout import CardAddress

log = get_logger(__name__)

_RECORD = TypeAdapter(Record)

Kubelet = Callable[["Card"], Coroutine[Any, Any, None]]
"""What runs on a card from its second boot on; cancelled when the card is reset."""


class Card:
    """One simulated BlueField."""

    def __init__(self, address: CardAddress, folder: Path, durations: Durations, kubelet: Kubelet) -> None:
        self.address = address
        self.folder = folder
        """The card's disk."""
        self.link = asyncio.Event()
        """Set while the host's bridge gives the card's communication channel an address."""
        self._durations = durations
        self._kubelet = kubelet
        self._record: Record = _RECORD.validate_python(stored) if (stored := read_json(self._file)) else Record()
        stored_fault = read_json(self._fault_file)
        self._fault = Fault(stored_fault["fault"]) if stored_fault else None
        self._changed = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._running_boot = -1

    @property
    def name(self) -> str:
        return self.address.dpu

    @property
    def record(self) -> Record:
        return self._record

    @property
    def fault(self) -> Fault | None:
        return self._fault

    @property
    def percent(self) -> int:
        """How much of the install is done."""
        return percent(self._record, time.time(), self._durations, self._fault)

    def boot_image(self, version: str, config: str, id_: str) -> None:
        """Starts to install and boot an image, unless that very install is running or done."""
        before = self._record
        self._update(begin_install(before, version, config, id_, time.time()))
        if self._record is not before:
            self.forget_kubelet()
            log.info("card_install_started", card=self.name, version=version)

    def reset(self) -> None:
        """Resets the card, as a host's power cycle or a system-level reset does."""
        self._update(reset(self._record, time.time()))

    def set_mode(self, mode: str) -> None:
        self._update(replace(self._record, mode=mode))

    def set_fault(self, fault: Fault | None) -> None:
        """Sets or clears the card's fault; kept on disk, so that it outlives the fleet's process."""
        self._fault = fault
        write_private(self._fault_file, orjson.dumps({"fault": fault}) if fault else b"")
        self._notify()

    def accept_host_reboot(self, id_: str) -> bool:
        """Notes a request to reboot the host; False if it is the one that was accepted last."""
        if id_ and self._record.last_host_reboot == id_:
            return False
        counters = replace(self._record.counters, host_reboots=self._record.counters.host_reboots + 1)
        self._update(replace(self._record, last_host_reboot=id_, counters=counters))
        return True

    def count_join(self) -> None:
        counters = replace(self._record.counters, joins=self._record.counters.joins + 1)
        self._update(replace(self._record, counters=counters))

    def forget_kubelet(self) -> None:
        """Removes the kubelet's credentials: a freshly flashed card has none."""
        for file in self.folder.glob("kubelet.*"):
            file.unlink()

    async def wait_while(self, condition: Callable[[Card], bool]) -> None:
        """Returns as soon as the condition does not hold."""
        while condition(self):
            await self._changed.wait()

    async def run(self) -> None:
        """Moves the card on until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                changed = self._changed
                record, due = advance(self._record, time.time(), self._durations, self._fault)
                self._update(record)
                if changed.is_set():
                    continue
                self._run_kubelet(group)
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if due is None else max(0.0, due - time.time())):
                        await changed.wait()

    def _run_kubelet(self, group: asyncio.TaskGroup) -> None:
        boot = self._record.counters.boots
        if not self._record.runs_kubelet:
            self._stop_kubelet()
        elif self._running is None or self._running_boot != boot:
            self._stop_kubelet()
            self._running, self._running_boot = group.create_task(self._kubelet(self)), boot

    def _stop_kubelet(self) -> None:
        if self._running is not None:
            self._running.cancel()
            self._running = None

    def _update(self, record: Record) -> None:
        if record == self._record:
            return
        if record.state is not self._record.state:
            log.info("card_state", card=self.name, state=record.state, message=record.message)
        self._record = record
        write_private(self._file, orjson.dumps(asdict(record)))
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    @property
    def _file(self) -> Path:
        return self.folder / "card.json"

    @property
    def _fault_file(self) -> Path:
        return self.folder / "fault.json"


def view(card: Card) -> dict[str, Any]:
    """A card as ``dms`` reads it."""
    record = card.record
    return {
        "state": record.state,
        "percent": card.percent,
        "version": record.version if record.state is not State.EMPTY else "",
        "message": record.message,
        "id": record.id,
        "mode": record.mode,
        "firmware": firmware(record),
    }


def summary(card: Card) -> dict[str, Any]:
    """A card as ``dpfctl sandbox cards`` prints it."""
    counters = card.record.counters
    return {
        "dpu": card.name,
        "host": card.address.host,
        "pciAddress": card.address.pci,
        "state": card.record.state,
        "installs": counters.installs,
        "activates": counters.activates,
        "boots": counters.boots,
        "hostReboots": counters.host_reboots,
        "joins": counters.joins,
        "version": card.record.version,
        "fault": card.fault,
    }
