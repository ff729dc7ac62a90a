"""Downloads from a real server that breaks in every way a server can."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import ssl
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import BinaryIO

import pytest

from dpf.provisioning import volume as volume_module
from dpf.provisioning.bfb import download as module
from dpf.provisioning.bfb import storage, web
from dpf.provisioning.bfb.download import Place, download
from dpf.provisioning.bfb.source import DownloadFailed, Image, Source
from dpf.provisioning.bfb.storage import part_of, tag_of
from dpf.provisioning.volume import Volume, VolumeSilent
from dpf.runtime.certs import SmallCA
from test.unit.provisioning.imageserver import ImageServer

BODY = os.urandom(3 * module.PIECE + 17)
SHA = f"sha256:{hashlib.sha256(BODY).hexdigest()}"


@pytest.fixture
async def server() -> AsyncIterator[ImageServer]:
    async with ImageServer(BODY).listening() as server:
        yield server


class Download:
    """Where a test's image goes."""

    def __init__(self, folder: Path) -> None:
        self.part = part_of(folder, "uid")
        self.target = folder / "image.bfb"
        self.place = Place(Volume(folder), self.part, self.target)
        self.told: list[tuple[int, int]] = []
        self.taken = asyncio.Event()
        """Set once a first piece is on the volume."""

    async def __call__(self, url: str, checksum: str = "") -> Image:
        return await download(Source(url, checksum), self.place, self._tell)

    def _tell(self, have: int, total: int) -> None:
        self.told.append((have, total))
        if have >= module.PIECE:
            self.taken.set()

    async def fails(self, reason: str, url: str, checksum: str = "") -> str:
        with pytest.raises(DownloadFailed) as info:
            await self(url, checksum)
        assert info.value.reason == reason, info.value.message
        assert not self.target.exists()
        return info.value.message

    async def breaks_off(self, server: ImageServer) -> None:
        """A try that ends after one piece."""
        server.cut_after, server.taken = module.PIECE, self.taken
        await self.fails("Truncated", server.url)
        assert self.part.stat().st_size == module.PIECE


@pytest.fixture
def get(tmp_path: Path) -> Download:
    return Download(tmp_path)


async def test_an_image_comes_whole_and_readable_for_all(get: Download, server: ImageServer) -> None:
    image = await get(server.url, SHA)
    assert image == Image(len(BODY), SHA)
    assert get.target.read_bytes() == BODY
    assert get.target.stat().st_mode & 0o777 == 0o644
    assert sorted(get.target.parent.iterdir()) == [get.target]
    assert get.told[0] == (0, len(BODY))
    assert get.told[-1] == (len(BODY), len(BODY))
    assert [request.method for request in server.asked] == ["GET"]


async def test_redirects_are_followed(get: Download, server: ImageServer) -> None:
    assert (await get(server.url.replace("bf.bfb", "elsewhere.bfb"))).checksum == SHA


@pytest.mark.parametrize("status", [404, 403, 500, 503])
async def test_an_error_of_the_server_is_told(get: Download, server: ImageServer, status: int) -> None:
    server.status = status
    assert str(status) in await get.fails("HTTPStatus", server.url)


async def test_an_image_that_broke_off_goes_on_where_it_was(get: Download, server: ImageServer) -> None:
    await get.breaks_off(server)
    await get(server.url, SHA)
    assert get.target.read_bytes() == BODY
    assert server.ranges() == ["", f"bytes={module.PIECE}-"]
    assert get.told[-1] == (len(BODY), len(BODY))


async def test_an_image_that_changed_meanwhile_starts_anew(get: Download, server: ImageServer) -> None:
    await get.breaks_off(server)
    server.body, server.etag = BODY[::-1], '"two"'
    await get(server.url)
    assert get.target.read_bytes() == BODY[::-1]


async def test_without_a_version_nothing_is_added_to_what_is_there(get: Download, server: ImageServer) -> None:
    server.etag = ""
    await get.breaks_off(server)
    await get(server.url, SHA)
    assert server.ranges() == ["", ""]


def _modified(ago: float) -> str:
    """A Last-Modified of so many seconds ago."""
    return formatdate(time.time() - ago, usegmt=True)


async def test_a_weak_version_is_not_asked_for_where_there_is_another(get: Download, server: ImageServer) -> None:
    """A server that compresses what it can has weak ETags for all: If-Range never matches one."""
    server.etag, server.modified = 'W/"one"', _modified(3600)
    await get.breaks_off(server)
    assert tag_of(get.part).read_text() == server.modified
    await get(server.url, SHA)
    assert server.ranges() == ["", f"bytes={module.PIECE}-"]
    assert get.target.read_bytes() == BODY


async def test_a_strong_version_is_asked_for_before_a_date(get: Download, server: ImageServer) -> None:
    server.modified = _modified(3600)
    await get.breaks_off(server)
    assert tag_of(get.part).read_text() == server.etag


@pytest.mark.parametrize("modified", ["", "lately", "Thu, 99 Foo 9999999999 00:00:00 GMT", "in an hour"])
async def test_what_may_be_the_date_of_two_versions_is_none(get: Download, server: ImageServer, modified: str) -> None:
    server.etag, server.modified = 'W/"one"', _modified(-3600) if modified == "in an hour" else modified
    await get.breaks_off(server)
    assert tag_of(get.part).read_text() == ""
    await get(server.url, SHA)
    assert server.ranges() == ["", ""]


async def test_an_image_that_only_lacked_its_name_is_not_downloaded_again(get: Download, server: ImageServer) -> None:
    get.part.write_bytes(BODY)
    tag_of(get.part).write_text(server.etag)
    await get(server.url, SHA)
    assert get.target.read_bytes() == BODY
    assert server.ranges() == [f"bytes={len(BODY)}-"]


async def test_more_than_there_should_be_is_thrown_away(get: Download, server: ImageServer) -> None:
    get.part.write_bytes(BODY + b"more")
    tag_of(get.part).write_text(server.etag)
    await get.fails("HTTPStatus", server.url)
    await get(server.url, SHA)


async def test_another_part_than_asked_for_is_not_taken(get: Download, server: ImageServer) -> None:
    server.wrong_part = True
    await get.breaks_off(server)
    await get.fails("HTTPStatus", server.url)
    await get(server.url, SHA)


async def test_a_wrong_checksum_throws_the_download_away(get: Download, server: ImageServer) -> None:
    wrong = "sha256:" + "0" * 64
    assert SHA in await get.fails("ChecksumMismatch", server.url, wrong)
    assert not get.part.exists()


async def test_a_silent_server_is_given_up(get: Download, server: ImageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "SILENCE", 0.2)
    server.silent_after = module.PIECE
    await get.fails("ServerSilent", server.url)
    monkeypatch.setattr(web, "SILENCE", 20.0)
    server.silent_after = None
    await get(server.url, SHA)
    assert server.ranges()[1].startswith("bytes=")


async def test_nobody_there_is_unreachable(get: Download) -> None:
    server = ImageServer(BODY)
    async with server.listening():
        url = server.url
    await get.fails("Unreachable", url)
    await get.fails("Unreachable", "http://images.invalid/bf.bfb")


async def test_a_certificate_that_nobody_vouches_for_is_a_failure_of_tls(get: Download, tmp_path: Path) -> None:
    pair = SmallCA.make("nobody").issue("localhost", purposes=["server"], names=["localhost"])
    file = tmp_path / "pair.pem"
    file.write_bytes(pair.cert + pair.key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(file)
    async with ImageServer(BODY).listening(tls) as server:
        assert "certificate" in await get.fails("TLSFailed", server.url)


async def test_plain_http_where_tls_was_expected_is_a_failure_of_tls(get: Download, server: ImageServer) -> None:
    await get.fails("TLSFailed", server.url.replace("http:", "https:"))


class Full:
    """A file on a volume that has no room left after some writes."""

    def __init__(self, file: BinaryIO, room: int) -> None:
        self._file = file
        self._room = room

    def write(self, piece: bytes) -> int:
        self._room -= len(piece)
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(piece)

    def close(self) -> None:
        self._file.close()


async def test_a_volume_that_fills_up_is_left_with_the_room_it_had(
    get: Download, server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.no_length = True
    with monkeypatch.context() as patch:
        opened = module.open_part
        patch.setattr(module, "open_part", lambda part, *, resume: Full(opened(part, resume=resume), 2 * module.PIECE))
        message = await get.fails("DiskFull", server.url)
    assert "No space left" in message
    assert "delete BFBs" in message
    assert list(get.target.parent.iterdir()) == []
    await get(server.url, SHA)
    assert get.target.read_bytes() == BODY


async def test_what_is_written_goes_to_the_disk_while_the_rest_comes(
    get: Download, server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SYNC_EVERY", module.PIECE)
    sync, synced = os.fdatasync, asyncio.Event()
    loop = asyncio.get_running_loop()

    def told(descriptor: int) -> None:
        sync(descriptor)
        loop.call_soon_threadsafe(synced.set)

    monkeypatch.setattr(os, "fdatasync", told)
    await get(server.url, SHA)
    await synced.wait()


async def test_a_disk_that_fails_behind_a_write_fails_the_download(
    get: Download, server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SYNC_EVERY", module.PIECE)

    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        assert "Input/output error" in await get.fails("VolumeFailed", server.url)
    await get(server.url, SHA)


def _free(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """The volume has so much room for images."""
    usage = (1 << 40, 0, storage.RESERVE + room)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(*usage))


async def test_an_image_that_does_not_fit_is_not_begun(
    get: Download, server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _free(monkeypatch, len(BODY) - 10)
    message = await get.fails("DiskFull", server.url)
    assert "10 bytes more are needed" in message
    assert "delete BFBs" in message
    assert list(get.target.parent.iterdir()) == []
    _free(monkeypatch, len(BODY))
    await get(server.url, SHA)


async def test_what_other_downloads_are_going_to_fill_is_no_room(
    get: Download, server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _free(monkeypatch, len(BODY))
    get.place = replace(get.place, promised=lambda: 1)
    assert "1 bytes more" in await get.fails("DiskFull", server.url)


async def test_only_what_is_missing_needs_room(
    get: Download, server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await get.breaks_off(server)
    _free(monkeypatch, len(BODY) - module.PIECE)
    await get(server.url, SHA)


async def test_what_is_there_of_an_earlier_version_makes_room_for_the_new_one(
    get: Download, server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await get.breaks_off(server)
    server.body, server.etag = BODY[::-1], '"two"'
    _free(monkeypatch, len(BODY) - module.PIECE)
    await get(server.url)
    assert get.target.read_bytes() == BODY[::-1]


@pytest.mark.parametrize("tag", [b"\xff\xfe", b"", b"a\r\nRange: bytes=0-1", "é".encode(), b'W/"one"'])
async def test_a_tag_that_cannot_be_read_is_none(get: Download, server: ImageServer, tag: bytes) -> None:
    await get.breaks_off(server)
    tag_of(get.part).write_bytes(tag)
    await get(server.url, SHA)
    assert server.ranges() == ["", ""]
    assert get.target.read_bytes() == BODY


async def test_a_version_that_cannot_be_sent_back_is_none(get: Download) -> None:
    """Bytes in an ETag that are no text: the image comes all the same."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nETag: "\xff\xfe"\r\nContent-Length: 5\r\nConnection: close\r\n\r\nimage')
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as raw:
        image = await get(f"http://127.0.0.1:{raw.sockets[0].getsockname()[1]}/x.bfb")
    assert image.size == 5


async def test_a_volume_that_is_silent_is_told(
    get: Download, server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume_module, "SILENT", 0.05)
    awake = threading.Event()
    monkeypatch.setattr(module, "_there", lambda _: awake.wait())
    with pytest.raises(VolumeSilent, match="--bfb-dir"):
        await get(server.url)
    awake.set()


async def test_a_volume_that_is_not_there_is_told(tmp_path: Path, server: ImageServer) -> None:
    await Download(tmp_path / "nowhere").fails("VolumeFailed", server.url)


async def test_a_killed_download_never_mixes_two_versions(
    get: Download, server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two writes that begin a new version."""
    await get.breaks_off(server)
    server.body, server.etag = BODY[::-1], '"two"'

    def killed(*_: object) -> None:
        raise KeyError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", killed)
        with pytest.raises(KeyError):
            await get(server.url)
    await get(server.url)
    assert get.target.read_bytes() == BODY[::-1]


async def test_a_cancelled_download_has_let_go_of_the_volume(get: Download, server: ImageServer) -> None:
    server.silent_after = module.PIECE
    task = asyncio.create_task(get(server.url))
    await get.taken.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert get.part.stat().st_size == module.PIECE
    assert not get.target.exists()


@pytest.mark.parametrize("url", ["http://[::1/x.bfb", "http://xn--a.localhost:1/x.bfb", "http://127.0.0.1:99999/x.bfb"])
async def test_what_fits_the_pattern_and_is_no_url_is_said_to_be_none(tmp_path: Path, url: str) -> None:
    """Found by fuzzing: the host's name of one of them is an error of its own kind."""
    with pytest.raises(DownloadFailed) as raised:
        await Download(tmp_path)(url)
    assert raised.value.reason == "InvalidURL"
    assert url in raised.value.message


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@127.0.0.1:1/x.bfb",
        "http://127.0.0.1:1/x.bfb?sig=hunter2&of=y.bfb",
        "http://user:hunter2@[::1/x.bfb",
        "http://user:hunter2/more@127.0.0.1:1/x.bfb",
        "http://user:hunter2@127.0.0.1:99999/x.bfb",
    ],
)
async def test_no_message_has_what_is_secret_in_an_address(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadFailed) as raised:
        await Download(tmp_path)(url)
    assert "hunter2" not in raised.value.message
    assert "http://" in raised.value.message


async def test_where_a_server_sends_us_is_not_told_with_its_secrets(get: Download) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 302 Found\r\nLocation: /x.bfb?sig=hunter2\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as raw:
        message = await get.fails("Unreachable", f"http://127.0.0.1:{raw.sockets[0].getsockname()[1]}/x.bfb")
    assert "hunter2" not in message
