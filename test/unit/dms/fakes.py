"""A card that does what a test says and counts what was done to it, and a server over it with real certificates."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from dpf.dms.card import CardError, CardStatus, Power, State
from dpf.dms.metrics import DmsMetrics
from dpf.dms.server import Server, ServerConfig
from dpf.provisioning.dpu.dms import DmsClient, dial
from dpf.runtime.certs import KeyPair, SmallCA
from dpf.sandbox.controlplane.planes import free_ports

CA = SmallCA.make("test")
CLIENT = CA.issue("client", purposes=["client"])


class CountingCard:
    """Installs when :attr:`go` is set; fails with :attr:`failure` if there is one."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.pushes: list[tuple[str, bytes]] = []
        self.resets: list[tuple[str, str]] = []
        self.failure: CardError | None = None
        self.comes_up_with = ""
        self.state = CardStatus(State.EMPTY)
        self.card_mode = "NIC"
        self.versions = {"nic": "32.43.1014", "bmc": ""}
        self.host_boot_id = "boot-1"

    async def mode(self) -> str:
        return self.card_mode

    async def set_mode(self, mode: str) -> None:
        self.card_mode = mode

    async def firmware(self) -> Mapping[str, str]:
        if self.failure is not None:
            raise self.failure
        return self.versions

    async def boot(self, image: Path, version: str, config: bytes, request: str) -> None:
        self.pushes.append((version, config))
        self.state = CardStatus(State.INSTALLING, 40, version, "writing", request)

    async def status(self) -> CardStatus:
        return self.state

    async def follow(self) -> AsyncIterator[CardStatus]:
        yield self.state
        if self.state.settled:
            return
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        self.state = CardStatus(State.UP, 100, self.comes_up_with or self.state.version, "up", self.state.id)
        yield self.state

    async def boot_id(self) -> str:
        return self.host_boot_id

    async def boot_time(self) -> int:
        return 42

    async def reset(self, power: Power, request: str) -> None:
        self.resets.append(("WARM", power))

    async def power_cycle(self, power: Power, request: str) -> None:
        self.resets.append(("COLD", power))


def free_port() -> int:
    return free_ports([0])[0]


def config(folder: Path, *, port: int = 0, authority: SmallCA = CA, timeout: float = 900.0) -> ServerConfig:
    """A server's settings with fresh certificates on disk."""
    write_pair(folder, authority.issue("server", purposes=["server"], names=["127.0.0.1"]))
    images = folder / "images"
    images.mkdir(exist_ok=True)
    return ServerConfig(
        address=f"127.0.0.1:{port or free_port()}",
        ca=folder / "ca.crt",
        cert=folder / "tls.crt",
        key=folder / "tls.key",
        image_folder=images,
        state_file=folder / "state" / "card.json",
        exec_timeout=timeout,
    )


def write_pair(folder: Path, pair: KeyPair) -> None:
    for name, data in (("ca.crt", pair.ca), ("tls.crt", pair.cert), ("tls.key", pair.key)):
        (folder / name).write_bytes(data)


@asynccontextmanager
async def served(
    config: ServerConfig, card: CountingCard, pair: KeyPair = CLIENT, metrics: DmsMetrics | None = None
) -> AsyncIterator[DmsClient]:
    """A server over the card, and a client of it."""
    async with Server(config, card, metrics), dial(config.address, pair) as client:
        yield client


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
