"""The image server has what a downloader needs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from dpf.sandbox.imageserver import ImageServer, make_image


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ImageServer]:
    """A running server of a small image."""
    server = ImageServer(make_image(tmp_path, size=100_000))
    await server.start("127.0.0.1")
    yield server
    await server.stop()


async def test_image_has_a_length_and_an_etag(server: ImageServer) -> None:
    async with aiohttp.ClientSession() as http, http.get(server.url) as response:
        assert response.headers["Content-Length"] == "100000"
        assert response.headers["ETag"]
        assert (await response.read()).startswith(b"Bf")


async def test_download_can_be_resumed(server: ImageServer) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.get(server.url) as response:
            whole = await response.read()
        async with http.get(server.url, headers={"Range": "bytes=99000-"}) as response:
            assert response.status == 206
            assert response.headers["Content-Range"] == "bytes 99000-99999/100000"
            assert await response.read() == whole[99000:]


async def test_other_paths_are_not_found(server: ImageServer) -> None:
    async with aiohttp.ClientSession() as http, http.get(server.url.replace("bundle", "x")) as response:
        assert response.status == 404


def test_image_is_the_same_each_time(tmp_path: Path) -> None:
    first = make_image(tmp_path / "a", size=1000).read_bytes()
    assert make_image(tmp_path / "b", size=1000).read_bytes() == first
