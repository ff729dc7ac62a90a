"""What the server of an image tells beside it, and how its address is spoken of."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from dpf.provisioning.bfb import web
from dpf.provisioning.bfb.source import DownloadFailed, shown, without_secrets
from dpf.provisioning.bfb.web import length, sidecar
from test.unit.provisioning.imageserver import ImageServer

HEX = "0123456789abcdef" * 4
OTHER = "f" * 64


@pytest.fixture
async def server() -> AsyncIterator[ImageServer]:
    async with ImageServer(b"image").listening() as server:
        yield server


@pytest.mark.parametrize(
    "text",
    [
        f"{HEX}  bf.bfb\n",
        f"{HEX} *bf.bfb\r\n",
        f"{HEX}\n",
        HEX.upper(),
        f"{HEX}  built/as/another.bfb",
        f"{OTHER}  other.bfb\n{HEX}  ./bf.bfb\n",
        f"\\{HEX}  b\\\\f.bfb",
    ],
)
async def test_a_sidecar_is_read_as_sha256sum_writes_it(server: ImageServer, text: str) -> None:
    server.sidecar = text.encode()
    assert await sidecar(server.url) == f"sha256:{HEX}"
    assert [request.path for request in server.asked_beside] == ["/bf.bfb.sha256"]


@pytest.mark.parametrize("status", [400, 403, 404, 405, 410])
async def test_a_server_may_have_no_sidecar(server: ImageServer, status: int) -> None:
    server.sidecar, server.sidecar_status = HEX.encode(), status
    assert await sidecar(server.url) == ""


@pytest.mark.parametrize("text", [b"", b"<html>not found</html>", b'{"error": "no route"}', b"\xff\xfe", b"x" * 5000])
async def test_what_nobody_wrote_as_a_checksum_is_no_sidecar(server: ImageServer, text: bytes) -> None:
    """A server may have one answer for everything, the image for one; an image that needs no sidecar must not wait for one."""
    server.sidecar = text
    assert await sidecar(server.url) == ""


async def test_a_sidecar_without_the_image_is_told_with_what_to_do(server: ImageServer) -> None:
    server.sidecar = f"{OTHER}  a.bfb\n{OTHER}  b.bfb".encode()
    with pytest.raises(DownloadFailed, match="annotation") as raised:
        await sidecar(server.url)
    assert raised.value.reason == "InvalidChecksum"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://h/a/b.bfb", "http://h/a/b.bfb.sha256"),
        ("http://h/b.bfb?sig=x.bfb", "http://h/b.bfb.sha256?sig=x.bfb"),
        ("http://h/b.bfb#x?y.bfb", "http://h/b.bfb.sha256#x?y.bfb"),
    ],
)
def test_a_query_is_not_part_of_the_name(url: str, address: str) -> None:
    assert web.beside(url) == address


async def test_a_server_that_does_not_say_whether_there_is_a_sidecar_is_asked_again(
    server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.sidecar, server.sidecar_status = b"", 429
    with pytest.raises(DownloadFailed, match="429"):
        await sidecar(server.url)
    server.sidecar_status = 503
    with pytest.raises(DownloadFailed, match="503") as raised:
        await sidecar(server.url)
    assert raised.value.reason == "HTTPStatus"
    with pytest.raises(DownloadFailed) as raised:
        await sidecar("http://127.0.0.1:1/x.bfb")
    assert raised.value.reason == "Unreachable"
    monkeypatch.setattr(web, "SMALL", 0.0001)
    with pytest.raises(DownloadFailed) as raised:
        await sidecar(server.url)
    assert raised.value.reason == "ServerSilent"


async def test_the_size_of_an_image_is_asked_for_without_the_image(server: ImageServer) -> None:
    assert await length(server.url) == 5
    assert await length(server.url.replace("bf.bfb", "elsewhere.bfb")) == 5
    assert {request.method for request in server.asked} == {"HEAD"}


async def test_a_size_that_is_not_told_is_none(server: ImageServer) -> None:
    server.status = 405
    assert await length(server.url) is None
    assert await length("http://127.0.0.1:1/x.bfb") is None
    assert await length("http://[::1/x.bfb") is None
    server.status, server.body = 200, b""
    assert await length(server.url) is None


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("https://h.example:8443/a/b.bfb", "https://h.example:8443/a/b.bfb"),
        ("https://user:secret@h/a@b.bfb", "https://h/a@b.bfb"),
        ("https://us@er:secret@h/b.bfb", "https://h/b.bfb"),
        ("http://h/b.bfb?sig=secret&x=.bfb", "http://h/b.bfb"),
        ("http://h/b.bfb#secret.bfb", "http://h/b.bfb"),
        ("http://u:secret@[::1]:80/b.bfb", "http://[::1]:80/b.bfb"),
        ("http://[::1]/b.bfb", "http://[::1]/b.bfb"),
        ("http://user:sec/ret@h/b.bfb", "http://..."),
        ("ftp://user:secret@h/b.bfb", "..."),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, seen: str) -> None:
    assert shown(url) == seen


def test_addresses_in_a_text_are_shown_so_too() -> None:
    assert without_secrets("302, url='http://u:p@h/x?sig=secret'") == "302, url='http://h/x'"
