"""The ``dms`` server inside the fleet's process: the same server, TLS and wire protocol, without a process per card.

A Python process with gRPC costs 50 MiB and a second of CPU; a thousand of them are no sandbox. This is the one place where
the fleet knows ``dpf.dms``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path

from dpf.dms.card import CardStatus, Power, State
from dpf.dms.server import Server, ServerConfig
from dpf.runtime.log import get_logger
from dpf.runtime.options import duration
from dpf.sandbox.fleet.cards import Card
from dpf.sandbox.fleet.cardstate import firmware
from dpf.sandbox.fleet.containers import Container, Run, state_folder
from dpf.sandbox.fleet.hosts import Host

log = get_logger(__name__)


class LocalCard:
    """A card of this very process as ``dms`` drives one; what :mod:`dpf.dms.simulated` does by HTTP."""

    def __init__(self, card: Card, host: Host) -> None:
        self._card = card
        self._host = host

    async def mode(self) -> str:
        return self._card.record.mode

    async def set_mode(self, mode: str) -> None:
        self._card.set_mode(mode)

    async def firmware(self) -> Mapping[str, str]:
        return firmware(self._card.record)

    async def boot(self, image: Path, version: str, config: bytes, request: str) -> None:
        self._card.boot_image(version, config.decode(), request)

    async def status(self) -> CardStatus:
        record = self._card.record
        return CardStatus(State(record.state), self._card.percent, record.version, record.message, record.id)

    async def follow(self) -> AsyncIterator[CardStatus]:
        status = await self.status()
        yield status
        while not status.settled:
            await self._card.wait_while(partial(_still, status.state))
            status = await self.status()
            yield status

    async def boot_id(self) -> str:
        return self._host.boot_id

    async def boot_time(self) -> int:
        return time.time_ns() - time.monotonic_ns()

    async def reset(self, power: Power, request: str) -> None:
        self._host.reboot(self._card, "slr", request)

    async def power_cycle(self, power: Power, request: str) -> None:
        self._host.reboot(self._card, "power", request)


def _still(state: State, card: Card) -> bool:
    return card.record.state.value == state.value


async def run_dms_in_process(container: Container, run: Run) -> int:
    """An entry point: serves the container's card until cancelled.

    :raises ConfigError: if the certificates cannot be read or the address is taken; the container counts as failed then.
    """
    if container.card is None:
        log.warning("pod_without_card", pod=container.pod["metadata"]["name"])
        return 1
    flags = container.arguments()
    given = dict(zip(flags[::2], flags[1::2], strict=False))
    config = ServerConfig(
        address=given["--bind-address"],
        ca=Path(given["--ca"]),
        cert=Path(given["--tls-cert-file"]),
        key=Path(given["--tls-key-file"]),
        image_folder=Path(given["--image-folder"]),
        state_file=state_folder(container) / f"{container.card.name}.json",
        exec_timeout=duration(given.get("--exec-timeout", "0")),
        owner=given.get("--owner", ""),
    )
    async with Server(config, LocalCard(container.card, container.host)):
        run.ready()
        await asyncio.Event().wait()
    return 0
