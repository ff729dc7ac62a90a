"""What actions of a DPU's phases work with: the API, the DPU clusters, the allocator, certificates, the card through DMS, and
those who are told of it: events and counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakValueDictionary

from dpf.provisioning.dpu.cardaccess import Card
from dpf.provisioning.dpu.certificates import Certificates
from dpf.provisioning.metrics import Counts
from dpf.provisioning.settings import Settings
from dpf.provisioning.volume import Volume
from dpf.runtime.client import Client
from dpf.runtime.events import EventRecorder
from dpf.runtime.jobs import Jobs
from dpf.runtime.places import elsewhere
from dpf.runtime.remote import RemoteClusters
from dpf_api.dpu import DPU, Firmware
from dpf_api.dpucluster import DPUCluster


class Allocator(Protocol):
    """Gives a DPU its cluster."""

    async def ready(self) -> None:
        """Returns when it knows what was given away already."""

    def choose(self, dpu: DPU) -> DPUCluster:
        """The cluster; its place is held, for an assignment that is locked on this version of the DPU.

        :raises Waiting: if none has room.
        """

    def release(self, dpu: DPU) -> None:
        """The assignment was refused."""


@dataclass(frozen=True)
class Hands:
    """Handed to every action.

    :param jobs: installations of cards.
    :param reboots: eyes kept on reboots of hosts.
    :param hosts: of each host, what is held by the DPU whose turn it is there.
    """

    client: Client
    remotes: RemoteClusters
    allocator: Allocator
    certificates: Certificates
    card: Card
    jobs: Jobs[Firmware | None]
    reboots: Jobs[None]
    settings: Settings
    volume: Volume
    events: EventRecorder
    counts: Counts
    hosts: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    @asynccontextmanager
    async def alone(self, host: str) -> AsyncIterator[None]:
        """While no other DPU of the host is in here."""
        turn = self.hosts.get(host) or self.hosts.setdefault(host, asyncio.Lock())
        async with elsewhere():  # another DPU may be asking a device
            await turn.acquire()
        try:
            yield
        finally:
            turn.release()
