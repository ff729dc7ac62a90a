"""A namespace with the BFB controller at work in it, for tests."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dpf.provisioning.bfb import controller as module
from dpf.provisioning.bfb.controller import bfb_controller
from dpf.provisioning.bfb.source import Image
from dpf.provisioning.metrics import Counts
from dpf.provisioning.volume import Volume
from dpf.runtime.client import Client
from dpf.runtime.cluster import Cluster
from dpf.runtime.events import EventRecorder
from dpf.runtime.jobs import Jobs
from dpf.runtime.k8s import Event
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.metrics import Metrics
from dpf.runtime.testing import eventually, eventually_gone
from dpf_api.bfb import BFB, Phase
from test.integration.conftest import Planes

BODY = random.Random(4).randbytes(512 << 10)
SHA = f"sha256:{hashlib.sha256(BODY).hexdigest()}"


@dataclass
class Bfbs:
    """A namespace with the BFB controller at work in it, and the volume."""

    client: Client
    namespace: str
    folder: Path
    planes: Planes
    looked: asyncio.Event
    """Set once the file of a Ready image has been looked at."""

    async def create(self, name: str, url: str, annotations: dict[str, str] | None = None, **more: Any) -> BFB:
        meta = {"name": name, "namespace": self.namespace, "annotations": annotations or {}}
        body = {"metadata": meta, "spec": {"url": url} | more}
        return await self.client.create(BFB.model_validate(body))

    async def until(self, name: str, phase: Phase) -> BFB:
        """The BFB once it is in the phase."""
        return await self.eventually(name, partial(_in_phase, phase))

    async def went(self, since: BFB, *phases: Phase) -> BFB:
        """The BFB once it has been in these phases, one after the other, however short each was."""
        version = since.metadata.resource_version
        watch = self.client.watch(BFB, self.namespace, name=since.name, resource_version=version)
        left = list(phases)
        async with asyncio.timeout(30), aclosing(watch) as changes:
            async for _, bfb in changes:
                if bfb.status.phase is left[0]:
                    left.pop(0)
                if not left:
                    return bfb
        raise AssertionError(f"the watch ended before {left}")

    async def eventually(self, name: str, until: Callable[[BFB], bool]) -> BFB:
        return await eventually(self.client, BFB, name, self.namespace, until=until)

    async def delete(self, bfb: BFB) -> None:
        await self.client.delete(bfb)
        await eventually_gone(self.client, BFB, bfb.name, bfb.namespace)

    async def events(self, bfb: BFB, count: int) -> list[str]:
        """The reasons of the first events that speak of it."""
        found: list[str] = []
        async with asyncio.timeout(30), aclosing(self.client.watch(Event, self.namespace)) as watch:
            async for _, event in watch:
                if event.regarding is not None and event.regarding.uid == bfb.uid:
                    found.append(event.reason)
                if len(found) == count:
                    break
        return found

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The controller is at work; then it is killed."""
        kubeconfig = Kubeconfig.load(self.planes.host)
        async with Client(kubeconfig, field_owner="provisioning-manager") as client:
            cluster = Cluster("host", client, namespace=self.namespace)
            events, jobs = EventRecorder(client, "test"), Jobs[Image](limit=module.DOWNLOADS)
            controller = bfb_controller(cluster, events, Counts(), jobs, Volume(self.folder), 4)
            controller.register(cluster, Metrics())
            parts = (events, cluster.cache, jobs, controller)
            tasks = [asyncio.create_task(part.run()) for part in parts]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                    assert isinstance(outcome, asyncio.CancelledError | None), outcome


def _in_phase(phase: Phase, bfb: BFB) -> bool:
    return bfb.status.phase is phase
