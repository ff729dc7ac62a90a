"""BFBs on a real API server, downloaded from a real web server."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dpf.provisioning.bfb import controller as module
from dpf.provisioning.bfb.controller import bfb_controller
from dpf.provisioning.bfb.download import Image, part_of
from dpf.provisioning.metrics import Counts
from dpf.runtime.client import Client
from dpf.runtime.cluster import Cluster
from dpf.runtime.conditions import find
from dpf.runtime.events import EventRecorder
from dpf.runtime.jobs import Jobs
from dpf.runtime.k8s import Event
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.metrics import Metrics
from dpf.runtime.testing import eventually, eventually_gone
from dpf_api.bfb import BFB, Phase
from dpf_api.dpu import DPU
from dpf_api.names import ANNOTATION_RETRY, FINALIZER_BFB
from test.integration.conftest import Planes
from test.spec import spec
from test.unit.provisioning.imageserver import ImageServer

BODY = os.urandom(512 << 10)
SHA = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
GREAT_SIZE = 4 << 20


@dataclass
class Bfbs:
    """A namespace with the BFB controller at work in it, and the volume."""

    client: Client
    namespace: str
    folder: Path
    planes: Planes

    async def create(self, name: str, url: str, **more: Any) -> BFB:
        body = {"metadata": {"name": name, "namespace": self.namespace}, "spec": {"url": url} | more}
        return await self.client.create(BFB.model_validate(body))

    async def until(self, name: str, *phases: Phase) -> BFB:
        """The BFB once it has been in these phases, one after the other."""
        for phase in phases:
            bfb = await self.eventually(name, partial(_in_phase, phase))
        return bfb

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
            controller = bfb_controller(cluster, events, Counts(), jobs, self.folder, 4)
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


@pytest.fixture
async def idle(
    host_client: Client, namespace: str, control_planes: Planes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Bfbs:
    """Nobody at work yet; times are short."""
    monkeypatch.setattr(module, "LOOK", 0.1)
    monkeypatch.setattr(module, "PROGRESS_EVERY", 0.1)
    monkeypatch.setattr(module, "RETRY", (0.3, 1.0))
    return Bfbs(host_client, namespace, tmp_path, control_planes)


@pytest.fixture
async def bfbs(idle: Bfbs) -> AsyncIterator[Bfbs]:
    async with idle.running():
        yield idle


@pytest.fixture
async def server() -> AsyncIterator[ImageServer]:
    async with ImageServer(BODY).listening() as server:
        yield server


@spec("provisioning:72", "provisioning:73", "provisioning:75")
async def test_an_image_is_downloaded_and_told_of(bfbs: Bfbs, server: ImageServer) -> None:
    created = await bfbs.create("image", server.url, fileName="mine.bfb")
    assert created.status.phase is Phase.INITIALIZING
    phases = []
    watch = bfbs.client.watch(BFB, bfbs.namespace, name="image", resource_version=created.metadata.resource_version)
    async with asyncio.timeout(30), aclosing(watch) as changes:
        async for _, bfb in changes:
            phases.append(bfb.status.phase)
            if bfb.status.phase is Phase.READY:
                break
    assert list(dict.fromkeys(phases)) == [Phase.INITIALIZING, Phase.DOWNLOADING, Phase.READY]
    assert bfb.metadata.finalizers == [FINALIZER_BFB]
    assert bfb.spec.file_name == "mine.bfb"
    assert (bfb.status.file_size, bfb.status.downloaded_bytes, bfb.status.checksum) == (len(BODY), len(BODY), SHA)
    assert {each.type: each.status for each in bfb.status.conditions} == {"Downloaded": "True", "Ready": "True"}
    assert (bfbs.folder / "mine.bfb").stat().st_size == len(BODY)
    assert [request.method for request in server.asked] == ["GET"]
    assert sorted(await bfbs.events(bfb, 2)) == ["StartedDownload", "SuccessfulDownload"]


@spec("provisioning:74")
async def test_a_missing_image_is_an_error_that_is_tried_again(bfbs: Bfbs, server: ImageServer) -> None:
    server.status = 404
    bfb = await bfbs.create("image", server.url)
    bfb = await bfbs.until("image", Phase.DOWNLOADING, Phase.ERROR)
    assert bfb.status.reason == "HTTPStatus"
    assert "404" in bfb.status.message
    ready = find(bfb.status.conditions, "Ready")
    assert ready is not None
    assert (ready.status, ready.reason) == ("False", "HTTPStatus")
    assert await bfbs.events(bfb, 1) == ["FailedDownload"]
    server.status = 200
    await bfbs.until("image", Phase.READY)


async def test_an_annotation_has_a_failed_download_tried_again_at_once(
    bfbs: Bfbs, server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY", (3600.0, 3600.0))
    server.status = 404
    await bfbs.create("image", server.url)
    bfb = await bfbs.until("image", Phase.ERROR)
    server.status = 200
    await bfbs.client.merge_patch(bfb, {"metadata": {"annotations": {ANNOTATION_RETRY: "now"}}})
    bfb = await bfbs.until("image", Phase.READY)
    assert ANNOTATION_RETRY not in bfb.annotations
    told = await bfbs.events(bfb, 4)
    assert sorted(told) == ["FailedDownload", "Retrying", "StartedDownload", "SuccessfulDownload"]


@spec("provisioning:76")
async def test_a_file_that_is_there_already_is_taken(bfbs: Bfbs, server: ImageServer) -> None:
    (bfbs.folder / "mine.bfb").write_bytes(b"placed")
    await bfbs.create("image", server.url, fileName="mine.bfb")
    bfb = await bfbs.until("image", Phase.READY)
    assert bfb.status.file_size == 6
    assert (bfbs.folder / "mine.bfb").read_bytes() == b"placed"
    assert server.asked == []


async def test_a_file_that_is_there_but_wrong_is_replaced(bfbs: Bfbs, server: ImageServer) -> None:
    (bfbs.folder / "mine.bfb").write_bytes(b"placed")
    await bfbs.create("image", server.url, fileName="mine.bfb", checksum=SHA)
    await bfbs.until("image", Phase.READY)
    assert (bfbs.folder / "mine.bfb").read_bytes() == BODY


@spec("provisioning:77")
async def test_a_deleted_bfb_takes_its_file_along(bfbs: Bfbs, server: ImageServer) -> None:
    await bfbs.create("image", server.url)
    bfb = await bfbs.until("image", Phase.READY)
    assert (bfbs.folder / f"{bfbs.namespace}-image.bfb").exists()
    await bfbs.delete(bfb)
    assert list(bfbs.folder.iterdir()) == []


@spec("provisioning:78")
@pytest.mark.parametrize("change", [Path.unlink, lambda file: file.write_bytes(b"less")])
async def test_a_file_that_vanishes_or_changes_is_downloaded_again(
    bfbs: Bfbs, server: ImageServer, change: Any
) -> None:
    await bfbs.create("image", server.url, fileName="mine.bfb")
    await bfbs.until("image", Phase.READY)
    change(bfbs.folder / "mine.bfb")
    await bfbs.until("image", Phase.DOWNLOADING, Phase.READY)
    assert (bfbs.folder / "mine.bfb").read_bytes() == BODY


@spec("provisioning:79")
async def test_a_file_that_vanishes_while_its_server_is_gone_is_an_error(bfbs: Bfbs) -> None:
    server = ImageServer(BODY)
    async with server.listening():
        await bfbs.create("image", server.url, fileName="mine.bfb")
        await bfbs.until("image", Phase.READY)
    (bfbs.folder / "mine.bfb").unlink()
    bfb = await bfbs.until("image", Phase.DOWNLOADING, Phase.ERROR)
    assert bfb.status.reason == "Unreachable"
    async with server.listening():
        await bfbs.until("image", Phase.READY)


@spec("provisioning:80")
async def test_63_images_at_once(bfbs: Bfbs, server: ImageServer) -> None:
    names = [f"image-{number}" for number in range(63)]
    await asyncio.gather(*(bfbs.create(name, server.url) for name in names))
    found = await asyncio.gather(*(bfbs.until(name, Phase.READY) for name in names))
    assert {file.stat().st_size for file in bfbs.folder.iterdir()} == {len(BODY)}
    assert len(list(bfbs.folder.iterdir())) == 63
    await asyncio.gather(*(bfbs.delete(bfb) for bfb in found))
    assert list(bfbs.folder.iterdir()) == []


async def test_a_killed_download_goes_on_where_it_was(idle: Bfbs) -> None:
    body = os.urandom(GREAT_SIZE)
    async with ImageServer(body, silent_after=1 << 20).listening() as server:
        async with idle.running():
            created = await idle.create("image", server.url, fileName="mine.bfb")
            told = await idle.eventually("image", lambda bfb: bfb.status.downloaded_bytes > 0)
            assert told.status.file_size == GREAT_SIZE
        have = part_of(idle.folder, created.uid).stat().st_size
        assert have >= told.status.downloaded_bytes
        server.silent_after = None
        async with idle.running():
            await idle.until("image", Phase.READY)
        assert server.ranges() == ["", f"bytes={have}-"]
    assert (idle.folder / "mine.bfb").read_bytes() == body


async def test_deleting_ends_a_download_and_leaves_nothing(bfbs: Bfbs) -> None:
    async with ImageServer(os.urandom(GREAT_SIZE), silent_after=1 << 20).listening() as server:
        created = await bfbs.create("image", server.url)
        await bfbs.eventually("image", lambda bfb: bfb.status.downloaded_bytes > 0)
        await bfbs.delete(created)
        assert list(bfbs.folder.iterdir()) == []


async def test_an_image_stays_while_a_dpu_uses_it(bfbs: Bfbs, server: ImageServer) -> None:
    await bfbs.create("image", server.url, fileName="mine.bfb")
    bfb = await bfbs.until("image", Phase.READY)
    meta = {"name": "d1", "namespace": bfbs.namespace}
    dpu = await bfbs.client.create(DPU.model_validate({"metadata": meta, "spec": {"nodeName": "n", "bfb": "image"}}))
    await bfbs.client.delete(bfb)
    waiting = await bfbs.until("image", Phase.DELETING)
    assert waiting.status.reason == "InUse"
    ready = find(waiting.status.conditions, "Ready")
    assert ready is not None
    assert "d1" in ready.message
    assert (bfbs.folder / "mine.bfb").exists()
    await bfbs.client.merge_patch(dpu, {"spec": {"bfb": "another"}})
    await eventually_gone(bfbs.client, BFB, "image", bfbs.namespace)
    assert not (bfbs.folder / "mine.bfb").exists()


async def test_of_two_bfbs_with_the_same_file_the_younger_waits(idle: Bfbs, server: ImageServer) -> None:
    both = [await idle.create(name, server.url, fileName="mine.bfb") for name in ("one", "two")]
    older, younger = sorted(both, key=lambda bfb: (str(bfb.metadata.creation_timestamp), bfb.uid))
    async with idle.running():
        first = await idle.until(older.name, Phase.READY)
        second = await idle.until(younger.name, Phase.ERROR)
        assert second.status.reason == "FileNameTaken"
        assert str(older.key) in second.status.message
        await idle.delete(first)
        await idle.until(younger.name, Phase.READY)
    assert (idle.folder / "mine.bfb").read_bytes() == BODY
