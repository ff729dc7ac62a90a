"""Downloads from a real server that breaks in every way a server can."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import ssl
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

import pytest

from dpf.provisioning.bfb import download as module
from dpf.provisioning.bfb.download import DownloadFailed, Image, Source, download, part_of, tag_of
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
        self.told: list[tuple[int, int]] = []
        self.taken = asyncio.Event()
        """Set once a first piece is on the volume."""

    async def __call__(self, url: str, checksum: str = "") -> Image:
        return await download(Source(url, checksum), self.part, self.target, self._tell)

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


async def test_a_proxy_of_the_environment_is_used(
    get: Download, server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://localhost:{server.port}")
    await get("http://images.invalid/bf.bfb")
    assert get.target.read_bytes() == BODY


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
    monkeypatch.setattr(module, "SILENCE", 0.2)
    server.silent_after = module.PIECE
    await get.fails("ServerSilent", server.url)
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


async def test_a_full_volume_is_told_and_the_rest_comes_when_there_is_room(
    get: Download, server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        opened = module.open_part
        patch.setattr(module, "open_part", lambda part, *, resume: Full(opened(part, resume=resume), 2 * module.PIECE))
        assert "No space left" in await get.fails("DiskFull", server.url)
    await get(server.url, SHA)
    assert server.ranges()[1].startswith("bytes=")


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


async def test_cancelling_waits_for_what_runs_in_a_thread() -> None:
    entered, leave, left = asyncio.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(entered.set)
        leave.wait()
        left.set()

    task = asyncio.create_task(module.in_thread(work))
    await entered.wait()
    task.cancel()
    loop.call_soon(leave.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left.is_set()


@pytest.mark.parametrize("url", ["http://[::1/x.bfb", "http://xn--a.localhost:1/x.bfb", "http://127.0.0.1:99999/x.bfb"])
async def test_what_fits_the_pattern_and_is_no_url_is_said_to_be_none(tmp_path: Path, url: str) -> None:
    """Found by fuzzing: the host's name of one of them is an error of its own kind."""
    with pytest.raises(DownloadFailed) as raised:
        await download(Source(url), part_of(tmp_path, "uid"), tmp_path / "x.bfb", lambda *_: None)
    assert raised.value.reason == "InvalidURL"
    assert url in raised.value.message
