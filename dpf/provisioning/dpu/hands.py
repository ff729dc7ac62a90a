"""What actions of a DPU's phases work with: the API, the DPU clusters, the allocator, certificates, the card through DMS, and
those who are told of it: events and counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dpf.provisioning.dpu.certificates import Certificates
from dpf.provisioning.metrics import Counts
from dpf.provisioning.settings import Settings
from dpf.runtime.client import Client
from dpf.runtime.events import EventRecorder
from dpf.runtime.jobs import Job, Jobs
from dpf.runtime.remote import RemoteClusters
from dpf_api.dpu import DPU, Firmware
from dpf_api.dpucluster import DPUCluster

if TYPE_CHECKING:
    from dpf.provisioning.dpu.install import Card


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
class Outcome:
    """How an installation that was begun stands: running, done, or failed with an error."""

    done: bool = False
    error: Exception | None = None
    progress: str = ""
    percent: int = 0
    firmware: Firmware | None = None
    """Versions that the card told when it was done."""

    @classmethod
    def of(cls, job: Job[Firmware | None] | None) -> Outcome | None:
        """Of a job, if there is one."""
        if job is None:
            return None
        text, percent = job.progress or ("", 0)
        if not job.done:
            return cls(progress=text, percent=percent)
        try:
            firmware = job.result()
        except Exception as error:  # noqa: BLE001  (what a job raised is what the phase decides on)
            return cls(done=True, error=error, progress=text, percent=percent)
        return cls(done=True, percent=100, firmware=firmware)


@dataclass(frozen=True)
class Hands:
    """Handed to every action.

    :param jobs: installations of cards.
    :param reboots: eyes kept on reboots of hosts.
    """

    client: Client
    remotes: RemoteClusters
    allocator: Allocator
    certificates: Certificates
    card: Card
    jobs: Jobs[Firmware | None]
    reboots: Jobs[None]
    settings: Settings
    events: EventRecorder
    counts: Counts
