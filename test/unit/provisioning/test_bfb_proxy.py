"""Downloads as an installation's network has them: through its proxy, from servers that its own authority vouches for.

A process reads its authorities when it starts, so those downloads are made by one of their own.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dpf.provisioning.bfb.download import Place, download
from dpf.provisioning.bfb.source import DownloadFailed, Source
from dpf.provisioning.volume import Volume
from dpf.runtime.certs import SmallCA
from test.unit.provisioning.imageserver import ImageServer

BODY = os.urandom(1 << 20)
NOBODY = "http://127.0.0.1:1"
"""A proxy that does not answer."""
VARIABLES = [each for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for each in (name, name.upper())]
CHILD = """
import asyncio, sys
from pathlib import Path
from dpf.provisioning.bfb.download import Place, download
from dpf.provisioning.bfb.source import DownloadFailed, Source
from dpf.provisioning.volume import Volume

folder = Path(sys.argv[2])
place = Place(Volume(folder), folder / "part", folder / "image.bfb")
try:
    asyncio.run(download(Source(sys.argv[1]), place, lambda have, total: None))
except DownloadFailed as error:
    print(error.reason)
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any of the machine's proxies."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@dataclass
class Proxy:
    """Leads everybody to one server, whatever name he asks for."""

    server: ImageServer
    port: int = 0
    asked: list[str] = field(default_factory=list)
    """The first lines of what it was asked."""

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head.splitlines()[0])
        there, to = await asyncio.open_connection("127.0.0.1", self.server.port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_pass(reader, to), _pass(there, writer))

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Proxy]:
        async with await asyncio.start_server(self.serve, "127.0.0.1", 0) as listening:
            self.port = listening.sockets[0].getsockname()[1]
            yield self


async def _pass(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while piece := await source.read(1 << 16):
        target.write(piece)
        await target.drain()
    target.close()


def authority(folder: Path, name: str) -> tuple[ssl.SSLContext, Path]:
    """What a server of that name needs that an authority of its own vouches for, and the authority's file."""
    ca = SmallCA.make("ours")
    pair = ca.issue(name, purposes=["server"], names=[name])
    keys, file = folder / "pair.pem", folder / "ca.crt"
    keys.write_bytes(pair.cert + pair.key)
    file.write_bytes(ca.bundle)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(keys)
    return tls, file


async def by_a_process(url: str, folder: Path, **environment: str) -> str:
    """Downloads to ``image.bfb`` in a process with that environment; why it failed, or empty."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, url, str(folder), env=os.environ | environment, stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    assert process.returncode == 0
    return told.decode().strip()


async def here(url: str, folder: Path) -> bytes:
    """The image, downloaded by this process."""
    target = folder / "image.bfb"
    await download(Source(url), Place(Volume(folder), folder / "part", target), lambda have, total: None)
    return target.read_bytes()


async def test_a_server_that_a_private_authority_vouches_for_is_believed(tmp_path: Path) -> None:
    tls, ca = authority(tmp_path, "localhost")
    async with ImageServer(BODY).listening(tls) as server:
        assert await by_a_process(server.url, tmp_path) == "TLSFailed"
        assert await by_a_process(server.url, tmp_path, SSL_CERT_FILE=str(ca)) == ""
    assert (tmp_path / "image.bfb").read_bytes() == BODY


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY"])
async def test_https_goes_through_the_proxy_and_is_the_servers(tmp_path: Path, variable: str) -> None:
    """The proxy only connects: it is the server whose certificate counts."""
    tls, ca = authority(tmp_path, "images.invalid")
    async with ImageServer(BODY).listening(tls) as server, Proxy(server).listening() as proxy:
        url, proxied = "https://images.invalid/bf.bfb", {variable: proxy.url}
        assert await by_a_process(url, tmp_path, **proxied) == "TLSFailed"
        assert await by_a_process(url, tmp_path, SSL_CERT_FILE=str(ca), **proxied) == ""
    assert (tmp_path / "image.bfb").read_bytes() == BODY
    assert proxy.asked == ["CONNECT images.invalid:443 HTTP/1.1"] * 2


async def test_http_goes_through_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ImageServer(BODY).listening() as server:
        monkeypatch.setenv("http_proxy", server.url.removesuffix("/bf.bfb"))
        assert await here("http://images.invalid/bf.bfb", tmp_path) == BODY


async def test_a_proxy_that_is_away_is_unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", NOBODY)
    async with ImageServer(BODY).listening() as server:
        with pytest.raises(DownloadFailed) as raised:
            await here(server.url, tmp_path)
    assert raised.value.reason == "Unreachable"


@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY"])
@pytest.mark.parametrize("host", ["localhost", "images.example, localhost", "*"])
async def test_what_needs_no_proxy_is_asked_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, host: str
) -> None:
    monkeypatch.setenv("http_proxy", NOBODY)
    monkeypatch.setenv(variable, host)
    async with ImageServer(BODY).listening() as server:
        assert await here(server.url, tmp_path) == BODY
