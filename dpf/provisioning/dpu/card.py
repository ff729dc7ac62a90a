"""The way to a DPU's card: makes its configuration, flashes it and reboots its host, all through DMS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime

from dpf.provisioning.dpu import bfcfgfile, dmspod, rebootpolicy
from dpf.provisioning.dpu.certificates import Certificates
from dpf.provisioning.dpu.install import Dms, Order, Refused, Unreachable, follow_reboot, perform
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.rebootpolicy import Policy
from dpf.provisioning.volume import Volume, VolumeFile
from dpf.runtime.certs import KeyPair
from dpf.runtime.cluster import Cluster
from dpf.runtime.errors import Waiting
from dpf.runtime.jobs import Job, Jobs
from dpf.runtime.k8s import Node, Pod
from dpf.runtime.log import get_logger
from dpf.runtime.places import elsewhere
from dpf_api import names
from dpf_api.bfb import file_of
from dpf_api.dpu import DPU, Firmware

log = get_logger(__name__)

Dial = Callable[[str, KeyPair], AbstractAsyncContextManager[Dms]]
"""Opens a connection to the DMS at ``HOST:PORT``, showing a key pair and trusting its CA."""

Configure = Callable[[Seen, int], Awaitable[bytes]]
"""Makes the bf.cfg of a DPU for one attempt; the same bytes however often it is asked."""


class DmsCard:
    """Cards of DPUs, reached through their DMS pods wherever those are at the moment."""

    def __init__(
        self,
        cluster: Cluster,
        certificates: Certificates,
        jobs: Jobs[Firmware | None],
        reboots: Jobs[None],
        volume: Volume,
        configure: Configure,
        dial: Dial,
    ) -> None:
        self._pods = cluster.cache[Pod]
        self._nodes = cluster.cache[Node]
        self._certificates = certificates
        self._jobs = jobs
        self._reboots = reboots
        self._volume = volume
        self._configure = configure
        self._dial = dial

    async def prepare(self, seen: Seen, attempt: int) -> Order:
        """The order for the DPU's image.

        :raises Waiting: if the image is not known, or something that the configuration needs is missing.
        """
        if seen.bfb is None:
            raise Waiting("BFBNotReady", f"BFB {seen.dpu.spec.bfb!r} is gone; create it again")
        version = file_of(seen.bfb)
        image = VolumeFile(self._volume, self._volume.folder / version)
        return Order(seen.dpu.name, version, image, await self._configure(seen, attempt))

    def start(self, dpu: DPU, order: Order, activated: datetime | None) -> None:
        """Begins to flash the card, or goes on with it."""

        async def work(job: Job[Firmware | None]) -> Firmware | None:
            try:
                firmware = await perform(job, order, lambda: self._connect(dpu), activated)
            except Refused:
                await self._forget(order)
                raise
            await self._forget(order)
            return firmware

        self._jobs.start(dpu.key, dpu.uid, work)

    async def reboot(self, seen: Seen, policy: Policy) -> None:
        """Asks for the reboot that is on record.

        :raises DpfError: if DMS does not take it.
        """
        async with elsewhere(), self._connect(seen.dpu) as dms:
            await dms.reboot(policy, rebootpolicy.request_id(seen.dpu))

    def follow_reboot(self, dpu: DPU, seconds: float) -> None:
        """Begins to ask whether the reboot failed."""
        self._reboots.start(dpu.key, dpu.uid, lambda _: follow_reboot(lambda: self._connect(dpu), seconds=seconds))

    async def _forget(self, order: Order) -> None:
        try:
            await bfcfgfile.remove(self._volume, order.dpu)
        except OSError as error:
            # It is removed again when the DPU is deleted.
            log.warning("bfcfg_not_removed", path=error.filename, error=error.strerror)

    @asynccontextmanager
    async def _connect(self, dpu: DPU) -> AsyncIterator[Dms]:
        name = names.dms_pod(dpu.name)
        pod = self._pods.get(name, dpu.namespace)
        node = self._nodes.get(dpu.spec.node_name)
        address = dmspod.address_of(pod, node) if pod is not None and pod.owned_by(dpu) else ""
        if not address:
            raise Unreachable(f"pod {name} is not ready")
        pair = await self._certificates.client_pair(dpu.namespace)
        async with self._dial(address, pair) as dms:
            yield dms
