"""Reboots the host for a card, once per request.

A request is on disk before anything is done. After a restart, one that was not finished is taken up again unless the host has
another boot id by now: then it was what ended this process. One that failed waits until it is asked for again: a host must not
go down hours later only because this process was restarted. Nor for a DPU that is gone: the record is the card's, and the card's
next DPU finds it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import cast

from dpf.dms.card import Card, CardError, Power
from dpf.dms.metrics import DmsMetrics
from dpf.dms.state import HostReboot, Store
from dpf.runtime.log import get_logger

log = get_logger(__name__)

WARM, COLD = "WARM", "COLD"
POWERS = ("cycle", "reset")


class HostReboots:
    """The reboots of one card's host.

    :param owner: uid of the DPU that is served. Its requests begin with it; one of another is not taken up. Empty: all are.
    """

    def __init__(self, card: Card, store: Store, metrics: DmsMetrics, owner: str = "") -> None:
        self._card = card
        self._store = store
        self._metrics = metrics
        self._owner = owner
        self._task: asyncio.Task[None] | None = None

    @property
    def failure(self) -> str:
        """Why the latest request could not be carried out; one of another DPU is nothing to this one."""
        asked = self._store.record.reboot
        return asked.failure if asked is not None and self._mine(asked) else ""

    @property
    def active(self) -> bool:
        """Whether a request is being carried out."""
        return self._task is not None and not self._task.done()

    async def resume(self) -> None:
        """Takes up what was not finished when the process ended."""
        asked = self._store.record.reboot
        if asked is None or asked.over:
            return
        if asked.boot_id and asked.boot_id != await self._card.boot_id():
            self._store.settle(reboot=replace(asked, done=True))
            return
        if not self._mine(asked):
            self._failed(asked, "the DPU for which it was asked is gone")
            return
        log.info("host_reboot_resumed", method=asked.method)
        self._start(asked)

    async def ask(self, request: str, method: str, power: str) -> None:
        """Begins a reboot: ``WARM`` resets card and host together, ``COLD`` works on the host's power alone.

        :param request: identifies it; asked again with the latest, nothing is done, unless it failed.
        :raises ValueError: for a method or power that there is not.
        :raises CardError: while another request is carried out.
        """
        if method not in {WARM, COLD} or power not in POWERS:
            raise ValueError(
                f"method {method} with power {power!r}: WARM or COLD with one of {', '.join(POWERS)} is known"
            )
        # Here and not below: nothing may come between the checks and the start, or two callers would both pass them.
        boot_id = await self._card.boot_id()
        known = self._store.record.reboot
        if known is not None and known.request == request and request and not known.failure:
            log.info("host_reboot_known", method=method)
            return
        if self.active:
            raise CardError("another reboot of the host is under way", passing=True)
        asked = HostReboot(request, method, power, boot_id)
        self._store.save(reboot=asked)
        self._start(asked)

    async def close(self) -> None:
        """Stops what this process does about it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _mine(self, asked: HostReboot) -> bool:
        return not self._owner or asked.request.startswith(f"{self._owner}/")

    def _start(self, asked: HostReboot) -> None:
        self._task = asyncio.create_task(self._run(asked), name="host reboot")

    async def _run(self, asked: HostReboot) -> None:
        power = cast("Power", asked.power)
        log.info("host_reboot", method=asked.method, power=power)
        self._metrics.rebooted(asked.method)
        try:
            if asked.method == WARM:
                await self._card.reset(power, asked.request)
            else:
                await self._card.power_cycle(power, asked.request)
        except CardError as error:
            self._failed(asked, str(error))
        except Exception as error:
            log.exception("host_reboot_broken")
            self._failed(asked, f"{type(error).__name__}: {error}")
        else:
            self._store.settle(reboot=replace(asked, done=True))

    def _failed(self, asked: HostReboot, why: str) -> None:
        self._store.settle(reboot=replace(asked, failure=why))
        log.error("host_reboot_failed", error=why)
