"""BFBs on a real API server, downloaded from a real web server."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dpf.provisioning import volume as volume_module
from dpf.provisioning.bfb import controller as module
from dpf.provisioning.bfb import download as download_module
from dpf.provisioning.bfb import files as files_module
from dpf.provisioning.bfb import progress as progress_module
from dpf.provisioning.bfb import storage
from dpf.provisioning.bfb.controller import bfb_controller
from dpf.provisioning.bfb.files import Files
from dpf.provisioning.bfb.source import Image
from dpf.provisioning.bfb.storage import Stamp, part_of
from dpf.provisioning.metrics import Counts
from dpf.provisioning.volume import Volume
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
from dpf_api.names import ANNOTATION_CHECKSUM, ANNOTATION_RETRY, FINALIZER_BFB
from test.integration.conftest import Planes
from test.spec import spec
from test.unit.provisioning.imageserver import ImageServer

BODY = random.Random(4).randbytes(512 << 10)
SHA = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
GREAT_SIZE = 4 << 20


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


@pytest.fixture
async def idle(
    host_client: Client, namespace: str, control_planes: Planes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Bfbs:
    """Nobody at work yet; times are short."""
    monkeypatch.setattr(module, "LOOK", 0.1)
    monkeypatch.setattr(module, "PROGRESS_EVERY", 0.1)
    monkeypatch.setattr(module, "RETRY", (0.3, 1.0))
    looked, same = asyncio.Event(), Files.same

    def noting(files: Files, bfb: BFB, found: Stamp) -> bool:
        looked.set()
        return same(files, bfb, found)

    monkeypatch.setattr(Files, "same", noting)
    return Bfbs(host_client, namespace, tmp_path, control_planes, looked)


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
    bfb = await bfbs.went(bfb, Phase.DOWNLOADING, Phase.ERROR)
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
    asked = await bfbs.client.merge_patch(bfb, {"metadata": {"annotations": {ANNOTATION_RETRY: "now"}}})
    version = asked.metadata.resource_version
    watch = bfbs.client.watch(BFB, bfbs.namespace, name="image", resource_version=version)
    async with asyncio.timeout(30), aclosing(watch) as changes:
        async for _, bfb in changes:
            waits = bfb.status.phase is Phase.ERROR
            assert not waits or ANNOTATION_RETRY in bfb.annotations, "who waits sees at any time that it was asked for"
            if bfb.status.phase is Phase.READY:
                break
    assert ANNOTATION_RETRY not in bfb.annotations
    told = await bfbs.events(bfb, 4)
    assert sorted(told) == ["FailedDownload", "Retrying", "StartedDownload", "SuccessfulDownload"]


@spec("provisioning:76")
async def test_a_file_that_is_there_already_is_taken(bfbs: Bfbs) -> None:
    (bfbs.folder / "mine.bfb").write_bytes(b"placed")
    bfb = await bfbs.create("image", "http://user:hunter2@127.0.0.1:1/x.bfb", fileName="mine.bfb")
    bfb = await bfbs.until("image", Phase.READY)
    assert bfb.status.file_size == 6
    assert (bfbs.folder / "mine.bfb").read_bytes() == b"placed"
    assert sorted(await bfbs.events(bfb, 2)) == ["ImageNotCompared", "SuccessfulDownload"]
    assert "hunter2" not in bfb.status.model_dump_json()


@spec("provisioning:76")
async def test_a_file_that_is_there_already_is_compared_with_the_size_that_the_server_tells(
    bfbs: Bfbs, server: ImageServer
) -> None:
    (bfbs.folder / "mine.bfb").write_bytes(BODY)
    bfb = await bfbs.create("image", server.url, fileName="mine.bfb")
    await bfbs.until("image", Phase.READY)
    assert [request.method for request in server.asked] == ["HEAD"]
    assert await bfbs.events(bfb, 1) == ["SuccessfulDownload"]


@pytest.mark.parametrize("sidecar", [None, f"{SHA[7:]}  bf.bfb".encode()])
async def test_a_file_that_looks_like_another_image_is_left_alone_and_not_trusted(
    bfbs: Bfbs, server: ImageServer, sidecar: bytes | None
) -> None:
    server.sidecar = sidecar
    (bfbs.folder / "mine.bfb").write_bytes(b"placed")
    await bfbs.create("image", server.url, fileName="mine.bfb")
    bfb = await bfbs.until("image", Phase.ERROR)
    assert bfb.status.reason == "FileDiffers"
    assert "remove the file" in bfb.status.message
    placed = f"sha256:{hashlib.sha256(b'placed').hexdigest()}"
    assert f"{ANNOTATION_CHECKSUM}={placed}" in bfb.status.message
    assert (bfbs.folder / "mine.bfb").read_bytes() == b"placed"
    await bfbs.client.merge_patch(bfb, {"metadata": {"annotations": {ANNOTATION_CHECKSUM: placed}}})
    await bfbs.until("image", Phase.READY)
    assert (bfbs.folder / "mine.bfb").read_bytes() == b"placed"


async def test_a_file_that_looked_like_another_image_is_downloaded_once_it_is_removed(
    bfbs: Bfbs, server: ImageServer
) -> None:
    (bfbs.folder / "mine.bfb").write_bytes(b"placed")
    await bfbs.create("image", server.url, fileName="mine.bfb")
    await bfbs.until("image", Phase.ERROR)
    (bfbs.folder / "mine.bfb").unlink()
    await bfbs.until("image", Phase.READY)
    assert (bfbs.folder / "mine.bfb").read_bytes() == BODY


async def test_a_file_that_is_there_but_wrong_is_replaced(bfbs: Bfbs, server: ImageServer) -> None:
    (bfbs.folder / "mine.bfb").write_bytes(b"placed")
    await bfbs.create("image", server.url, fileName="mine.bfb", checksum=SHA)
    await bfbs.until("image", Phase.READY)
    assert (bfbs.folder / "mine.bfb").read_bytes() == BODY


WRONG = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("annotated", "spec_says", "sidecar", "reason"),
    [
        (SHA, "", None, ""),
        (SHA, SHA, None, ""),
        (SHA, "", f"{'0' * 64}  bf.bfb".encode(), ""),
        (None, "", f"{SHA[7:]}  bf.bfb".encode(), ""),
        (WRONG, "", None, "ChecksumMismatch"),
        (None, "", f"{'0' * 64}  bf.bfb".encode(), "ChecksumMismatch"),
        (WRONG, SHA, None, "InvalidChecksum"),
        ("md5:1", "", None, "InvalidChecksum"),
        (None, "", f"{'0' * 64}  a.bfb\n{'0' * 64}  b.bfb".encode(), "InvalidChecksum"),
        (None, "", b"the same page for everything", ""),
    ],
)
async def test_a_checksum_may_be_annotated_or_lie_beside_the_image(
    bfbs: Bfbs, server: ImageServer, annotated: str | None, spec_says: str, sidecar: bytes | None, reason: str
) -> None:
    server.sidecar = sidecar
    annotations = {} if annotated is None else {ANNOTATION_CHECKSUM: annotated}
    named = {"checksum": spec_says} if spec_says else {}
    await bfbs.create("image", server.url, annotations, fileName="mine.bfb", **named)
    bfb = await bfbs.until("image", Phase.ERROR if reason else Phase.READY)
    assert bfb.status.reason == reason
    assert (bfbs.folder / "mine.bfb").exists() is not bool(reason)
    assert (annotated is None) is bool(server.asked_beside), "who names a checksum asks for none"


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
    ready = await bfbs.until("image", Phase.READY)
    change(bfbs.folder / "mine.bfb")
    await bfbs.went(ready, Phase.DOWNLOADING, Phase.READY)
    assert (bfbs.folder / "mine.bfb").read_bytes() == BODY


async def test_a_file_that_changes_and_keeps_its_size_is_downloaded_again(bfbs: Bfbs, server: ImageServer) -> None:
    await bfbs.create("image", server.url, fileName="mine.bfb")
    ready = await bfbs.until("image", Phase.READY)
    file = bfbs.folder / "mine.bfb"
    await bfbs.looked.wait()
    file.write_bytes(BODY[::-1])
    bfb = await bfbs.went(ready, Phase.DOWNLOADING, Phase.READY)
    assert file.read_bytes() == BODY
    told = await bfbs.events(bfb, 5)
    assert told.count("ImageChanged") == 1
    assert len(server.asked) == 2


async def test_a_file_that_is_touched_is_compared_and_kept(bfbs: Bfbs, server: ImageServer) -> None:
    await bfbs.create("image", server.url, fileName="mine.bfb")
    ready = await bfbs.until("image", Phase.READY)
    await bfbs.looked.wait()
    os.utime(bfbs.folder / "mine.bfb", (1, 1))
    bfb = await bfbs.went(ready, Phase.DOWNLOADING, Phase.READY)
    assert bfb.status.checksum == SHA
    assert [request.method for request in server.asked] == ["GET"]


async def test_a_file_that_is_swapped_while_no_manager_runs_is_downloaded_again(
    idle: Bfbs, server: ImageServer
) -> None:
    """For one of the same size: its stamp tells."""
    file = idle.folder / "mine.bfb"
    async with idle.running():
        await idle.create("image", server.url, fileName="mine.bfb")
        ready = await idle.until("image", Phase.READY)
    other = idle.folder / "other"
    other.write_bytes(BODY[::-1])
    other.replace(file)
    async with idle.running():
        bfb = await idle.went(ready, Phase.DOWNLOADING, Phase.READY)
        told = await idle.events(bfb, 5)
    assert file.read_bytes() == BODY
    assert told.count("ImageChanged") == 1
    assert [request.method for request in server.asked] == ["GET", "GET"]
    assert bfb.status.file_stamp not in {"", ready.status.file_stamp}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read to the end, by name."""
    found: list[str] = []

    async def noting(volume: Volume, path: Path) -> Image:
        found.append(path.name)
        return await storage.digest(volume, path)

    monkeypatch.setattr(files_module, "digest", noting)
    return found


async def test_a_file_that_is_as_it_was_is_not_read_again_by_the_next_manager(
    idle: Bfbs, server: ImageServer, read: list[str]
) -> None:
    async with idle.running():
        await idle.create("image", server.url, fileName="mine.bfb")
        ready = await idle.until("image", Phase.READY)
    stat = (idle.folder / "mine.bfb").stat()
    assert ready.status.file_stamp == f"{len(BODY)}-{stat.st_mtime_ns}"
    # What a remount does to the inodes of some volumes.
    (idle.folder / "copy").write_bytes(BODY)
    os.utime(idle.folder / "copy", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (idle.folder / "copy").replace(idle.folder / "mine.bfb")
    idle.looked.clear()
    async with idle.running():
        await idle.looked.wait()
        idle.looked.clear()
        await idle.looked.wait()
        bfb = await idle.client.get(BFB, "image", idle.namespace)
    assert bfb.metadata.resource_version == ready.metadata.resource_version
    assert (read, len(server.asked)) == ([], 1)


async def test_a_file_that_was_ready_before_there_were_stamps_is_read_once(
    idle: Bfbs, server: ImageServer, read: list[str]
) -> None:
    async with idle.running():
        await idle.create("image", server.url, fileName="mine.bfb")
        before = await idle.until("image", Phase.READY)
    older = await idle.client.status(before).set(before.status.model_copy(update={"file_stamp": ""}))
    async with idle.running():
        begun = await idle.went(older, Phase.DOWNLOADING)
        bfb = await idle.went(begun, Phase.READY)
    assert SHA in begun.status.message
    assert bfb.status.file_stamp == before.status.file_stamp
    assert (read, len(server.asked)) == (["mine.bfb"], 1)


async def test_a_file_that_was_there_when_the_volume_fell_silent_is_not_read_again_by_the_next_manager(
    idle: Bfbs, server: ImageServer, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    awake = threading.Event()
    async with idle.running():
        await idle.create("image", server.url, fileName="mine.bfb")
        ready = await idle.until("image", Phase.READY)
        with monkeypatch.context() as patch:
            patch.setattr(volume_module, "SILENT", 0.2)
            patch.setattr(files_module, "stamp", lambda _: awake.wait())
            await idle.until("image", Phase.ERROR)
    awake.set()
    async with idle.running():
        bfb = await idle.until("image", Phase.READY)
    assert bfb.status.file_stamp == ready.status.file_stamp
    assert (read, len(server.asked)) == ([], 1)


async def test_a_silent_volume_is_told_and_holds_up_nothing_else(
    bfbs: Bfbs, server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bfbs.create("image", server.url, fileName="mine.bfb")
    ready = await bfbs.until("image", Phase.READY)
    await bfbs.looked.wait()
    awake = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(volume_module, "SILENT", 0.2)
        patch.setattr(files_module, "stamp", lambda _: awake.wait())
        bfb = await bfbs.until("image", Phase.ERROR)
        assert bfb.status.reason == "VolumeSilent"
        assert "--bfb-dir" in bfb.status.message
        assert bfb.status.checksum == ready.status.checksum
        other = await bfbs.create("other", server.url)
        assert (await bfbs.until("other", Phase.ERROR)).status.reason == "VolumeSilent"
    awake.set()
    await bfbs.until("image", Phase.READY)
    await bfbs.until("other", Phase.READY)
    await bfbs.delete(other)
    assert [request.method for request in server.asked] == ["GET", "GET"], "what was there is not downloaded again"


async def test_deleting_while_the_volume_is_silent_waits_and_says_so(
    bfbs: Bfbs, server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The download hangs in a write: it is given up, and its file goes when the volume is there again."""
    monkeypatch.setattr(module, "ENDING", 0.2)
    monkeypatch.setattr(volume_module, "SILENT", 0.2)
    monkeypatch.setattr(volume_module, "LET_GO", 0.1)
    awake = threading.Event()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(download_module, "open_part", lambda part, *, resume: awake.wait() and part.open("wb"))
            created = await bfbs.create("image", server.url)
            stuck = await bfbs.eventually("image", lambda bfb: bfb.status.reason == "VolumeSilent")
            assert stuck.status.phase is Phase.DOWNLOADING
            await bfbs.client.delete(created)
            gone = await bfbs.eventually("image", lambda bfb: bfb.status.reason == "DownloadEnding")
            assert gone.status.phase is Phase.DELETING
    finally:
        awake.set()
    await eventually_gone(bfbs.client, BFB, "image", bfbs.namespace)
    assert list(bfbs.folder.iterdir()) == []


async def test_a_slow_download_makes_room_for_those_that_wait(
    idle: Bfbs, server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DOWNLOADS", 1)
    monkeypatch.setattr(progress_module, "PATIENCE", 0.5)
    monkeypatch.setattr(progress_module, "SLOWEST", GREAT_SIZE)
    monkeypatch.setattr(module, "RETRY", (3600.0, 3600.0))
    body = os.urandom(GREAT_SIZE)
    async with ImageServer(body, silent_after=1 << 20).listening() as trickling, idle.running():
        await idle.create("slow", trickling.url)
        alone = await idle.eventually("slow", lambda bfb: bfb.status.downloaded_bytes > 0)
        assert alone.status.phase is Phase.DOWNLOADING, "nobody waits, so it may be as slow as it likes"
        await idle.create("quick", server.url)
        queued = await idle.eventually("quick", lambda bfb: bfb.status.reason == "Queued")
        assert queued.status.phase is Phase.DOWNLOADING
        slow = await idle.until("slow", Phase.ERROR)
        assert slow.status.reason == "TooSlow"
        await idle.until("quick", Phase.READY)
        trickling.silent_after = None
        await idle.client.merge_patch(slow, {"metadata": {"annotations": {ANNOTATION_RETRY: "now"}}})
        await idle.until("slow", Phase.READY)
        assert trickling.ranges()[1].startswith("bytes="), "it goes on where it was"


async def test_the_status_tells_how_fast_a_download_is_and_how_long_it_takes(idle: Bfbs) -> None:
    body = os.urandom(GREAT_SIZE)
    async with ImageServer(body, silent_after=2 << 20, pause_after=1 << 20).listening() as server, idle.running():
        await idle.create("image", server.url)
        await idle.eventually("image", lambda bfb: bfb.status.downloaded_bytes > 0)
        server.taken.set()
        told = await idle.eventually("image", lambda bfb: bfb.status.bytes_per_second > 0)
        assert told.status.seconds_left is not None
        assert f"{told.status.bytes_per_second} bytes/s" in told.status.message
        assert f"{told.status.seconds_left} s left" in told.status.message


@spec("provisioning:79")
async def test_a_file_that_vanishes_while_its_server_is_gone_is_an_error(bfbs: Bfbs) -> None:
    server = ImageServer(BODY)
    async with server.listening():
        await bfbs.create("image", server.url, fileName="mine.bfb")
        ready = await bfbs.until("image", Phase.READY)
    (bfbs.folder / "mine.bfb").unlink()
    bfb = await bfbs.went(ready, Phase.DOWNLOADING, Phase.ERROR)
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
