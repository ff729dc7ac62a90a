"""Images that are on the volume already, change there or can't be read there: on a real API server."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from dpf.provisioning import volume as volume_module
from dpf.provisioning.bfb import controller as module
from dpf.provisioning.bfb import download as download_module
from dpf.provisioning.bfb import files as files_module
from dpf.provisioning.bfb import storage
from dpf.provisioning.bfb.source import Image
from dpf.provisioning.volume import Volume
from dpf.runtime.testing import eventually_gone
from dpf_api.bfb import BFB, Phase
from dpf_api.names import ANNOTATION_CHECKSUM
from test.integration.provisioning.bfbs import BODY, SHA, Bfbs
from test.spec import spec
from test.unit.provisioning.imageserver import ImageServer


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
    bfbs: Bfbs, server: ImageServer, sidecar: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY", (3600.0, 3600.0))
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


async def test_a_bfb_whose_file_can_not_be_there_says_so_and_can_be_deleted(bfbs: Bfbs, server: ImageServer) -> None:
    """No webhook is there to refuse it, as of one that was stored before."""
    await bfbs.create("b" * 250, server.url)
    bfb = await bfbs.until("b" * 250, Phase.ERROR)
    assert bfb.status.reason == "FileNameTooLong"
    length = len(f"{bfbs.namespace}-.bfb") + 250
    assert f"no file name of {length} characters" in bfb.status.message
    assert "make another BFB with a shorter one" in bfb.status.message
    assert server.asked == [], "nothing is downloaded in vain"
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
    # What is told again of the same thing is one Event.
    told = await bfbs.events(bfb, 3)
    assert sorted(told) == ["ImageChanged", "StartedDownload", "SuccessfulDownload"]
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
            # In a slow moment a look at the volume may be called silent too; that is phase Error, and tried again.
            await bfbs.eventually(
                "image",
                lambda bfb: (bfb.status.phase, bfb.status.reason) == (Phase.DOWNLOADING, "VolumeSilent"),
            )
            await bfbs.client.delete(created)
            gone = await bfbs.eventually("image", lambda bfb: bfb.status.reason == "DownloadEnding")
            assert gone.status.phase is Phase.DELETING
    finally:
        awake.set()
    await eventually_gone(bfbs.client, BFB, "image", bfbs.namespace)
    assert list(bfbs.folder.iterdir()) == []


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
