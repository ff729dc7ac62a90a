"""BFBs on a real API server, downloaded from a real web server."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from dpf.provisioning.bfb import controller as module
from dpf.provisioning.bfb import progress as progress_module
from dpf.provisioning.bfb.storage import part_of
from dpf.runtime.conditions import find
from dpf.runtime.informer import Informer
from dpf.runtime.testing import eventually_gone
from dpf_api.bfb import BFB, Phase
from dpf_api.dpu import DPU
from dpf_api.names import ANNOTATION_CHECKSUM, ANNOTATION_RETRY, FINALIZER_BFB
from test.integration.provisioning.bfbs import BODY, SHA, Bfbs
from test.spec import spec
from test.unit.provisioning.imageserver import ImageServer

GREAT_SIZE = 4 << 20


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


async def test_a_retry_that_a_ready_image_is_asked_for_is_forgotten(bfbs: Bfbs, server: ImageServer) -> None:
    await bfbs.create("image", server.url)
    bfb = await bfbs.until("image", Phase.READY)
    await bfbs.client.merge_patch(bfb, {"metadata": {"annotations": {ANNOTATION_RETRY: "now"}}})
    bfb = await bfbs.eventually("image", lambda found: ANNOTATION_RETRY not in found.annotations)
    assert bfb.status.phase is Phase.READY
    assert sorted(await bfbs.events(bfb, 2)) == ["StartedDownload", "SuccessfulDownload"]


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


async def test_a_slow_download_makes_room_for_those_that_wait(
    idle: Bfbs, server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DOWNLOADS", 1)
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
        # Only now, or the slow one may be ended before the other has said that it waits.
        monkeypatch.setattr(progress_module, "PATIENCE", 0.5)
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


@pytest.mark.parametrize("again", [False, True], ids=["for good", "made again"])
async def test_a_download_whose_bfb_lost_its_finalizer_makes_room_and_leaves_no_part(
    idle: Bfbs, server: ImageServer, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    monkeypatch.setattr(module, "DOWNLOADS", 1)
    async with ImageServer(os.urandom(GREAT_SIZE), silent_after=1 << 20).listening() as trickling, idle.running():
        await idle.create("image", trickling.url, fileName="mine.bfb")
        bfb = await idle.eventually("image", lambda found: found.status.downloaded_bytes > 0)
        part = part_of(idle.folder, bfb.uid)
        assert part.exists()
        await idle.client.merge_patch(bfb, {"metadata": {"finalizers": None}})
        await idle.client.delete(bfb)
        await eventually_gone(idle.client, BFB, "image", idle.namespace)
        name = "image" if again else "another"
        await idle.create(name, server.url, fileName="mine.bfb")
        await idle.until(name, Phase.READY)
        assert (idle.folder / "mine.bfb").read_bytes() == BODY
        async with asyncio.timeout(20):
            while part.exists():
                await asyncio.sleep(0.01)
        assert [file.name for file in idle.folder.iterdir()] == ["mine.bfb"]


@spec("provisioning:80")
async def test_63_images_at_once(idle: Bfbs, server: ImageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    # Else a slow machine does nothing but look at the files that are there.
    monkeypatch.setattr(module, "LOOK", 5.0)
    names = [f"image-{number}" for number in range(63)]
    async with idle.running():
        await asyncio.gather(*(idle.create(name, server.url) for name in names))
        found = await asyncio.gather(*(idle.until(name, Phase.READY) for name in names))
        assert {file.stat().st_size for file in idle.folder.iterdir()} == {len(BODY)}
        assert len(list(idle.folder.iterdir())) == 63
        await asyncio.gather(*(idle.delete(bfb) for bfb in found))
        assert list(idle.folder.iterdir()) == []


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
    assert waiting.status.checksum == SHA, "a manager that takes over an installation with it knows it by that"
    assert (bfbs.folder / "mine.bfb").exists()
    await bfbs.client.merge_patch(dpu, {"spec": {"bfb": "another"}})
    await eventually_gone(bfbs.client, BFB, "image", bfbs.namespace)
    assert not (bfbs.folder / "mine.bfb").exists()


async def test_a_file_that_was_being_compared_when_its_bfb_was_deleted_counts_as_no_image(idle: Bfbs) -> None:
    bfb = await idle.create("image", "http://127.0.0.1:1/bf.bfb", fileName="mine.bfb")
    meta = {"name": "d1", "namespace": idle.namespace}
    await idle.client.create(DPU.model_validate({"metadata": meta, "spec": {"nodeName": "n", "bfb": "image"}}))
    bfb = await idle.client.merge_patch(bfb, {"metadata": {"finalizers": [FINALIZER_BFB]}})
    status = {"phase": "Downloading", "checksum": SHA}
    bfb = await idle.client.merge_patch(bfb, {"status": status}, subresource="status")
    await idle.client.delete(bfb)
    async with idle.running():
        waiting = await idle.eventually("image", lambda found: found.status.reason == "InUse")
    assert (waiting.status.phase, waiting.status.checksum) == (Phase.DELETING, "")


async def test_an_image_stays_while_a_dpu_uses_it_that_the_cache_never_knows(
    bfbs: Bfbs, server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bfbs.create("image", server.url, fileName="mine.bfb")
    bfb = await bfbs.until("image", Phase.READY)
    apply = Informer.apply

    def deaf(informer: Informer[Any], event_type: str, raw: bytes | msgspec.Raw) -> None:
        if informer.kind is not DPU:
            apply(informer, event_type, raw)

    monkeypatch.setattr(Informer, "apply", deaf)
    meta = {"name": "d1", "namespace": bfbs.namespace}
    dpu = await bfbs.client.create(DPU.model_validate({"metadata": meta, "spec": {"nodeName": "n", "bfb": "image"}}))
    await bfbs.client.delete(bfb)
    assert (await bfbs.until("image", Phase.DELETING)).status.reason == "InUse"
    assert (bfbs.folder / "mine.bfb").exists()
    await bfbs.client.delete(dpu)
    await eventually_gone(bfbs.client, BFB, "image", bfbs.namespace)


async def test_of_two_bfbs_with_the_same_file_the_younger_waits_until_the_older_is_gone(
    idle: Bfbs, server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY", (3600.0, 3600.0))
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
