"""A server of one image that can be told to misbehave."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class ImageServer:
    """What it serves, how, and what it was asked."""

    body: bytes
    etag: str = '"one"'
    modified: str = ""
    """Its Last-Modified."""
    status: int = 200
    cut_after: int | None = None
    """Bytes after which the connection is cut, once, when ``taken`` says that they have been."""
    silent_after: int | None = None
    """Bytes after which nothing more comes."""
    pause_after: int = 0
    """Bytes after which the rest of those waits until ``taken`` says that they have been."""
    wrong_part: bool = False
    """Sends another part than asked for."""
    no_length: bool = False
    """Does not say how long the image is."""
    sidecar: bytes | None = None
    """What lies beside the image as its checksum."""
    sidecar_status: int = 200
    port: int = 0
    scheme: str = "http"
    asked: list[web.BaseRequest] = field(default_factory=list)
    """For the image."""
    asked_beside: list[web.BaseRequest] = field(default_factory=list)
    """For its checksum."""
    taken: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.port}/bf.bfb"

    def ranges(self) -> list[str]:
        """What parts it was asked for; empty for the whole."""
        return [request.headers.get("Range", "") for request in self.asked]

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path.endswith(".sha256"):
            return self._beside(request)
        self.asked.append(request)
        if request.path == "/elsewhere.bfb":
            raise web.HTTPFound("/bf.bfb")
        if self.status != 200:
            return web.Response(status=self.status)
        wanted = request.headers.get("Range", "")
        start = int(wanted[6:-1]) if wanted and self._has(request.headers.get("If-Range", "")) else 0
        told = {"ETag": self.etag, "Last-Modified": self.modified}
        whole, headers = len(self.body), {name: value for name, value in told.items() if value}
        if start >= whole and start:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{whole}"})
        if start:
            first = start + 1 if self.wrong_part else start
            headers["Content-Range"] = f"bytes {first}-{whole - 1}/{whole}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        if not self.no_length:
            response.content_length = whole - start
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        if self.cut_after is not None:
            await response.write(self.body[start : start + self.cut_after])
            self.cut_after = None
            await self.taken.wait()
            assert request.transport is not None
            request.transport.close()
        elif self.silent_after is not None:
            if self.pause_after:
                await response.write(self.body[start : start + self.pause_after])
                await self.taken.wait()
            await response.write(self.body[start + self.pause_after : start + self.silent_after])
            await asyncio.Event().wait()
        else:
            await response.write(self.body[start:])
        return response

    def _has(self, version: str) -> bool:
        """As RFC 9110 has it for If-Range: a weak tag is no version's."""
        return version in {self.etag, self.modified} and version != "" and not version.startswith("W/")

    def _beside(self, request: web.BaseRequest) -> web.Response:
        self.asked_beside.append(request)
        if self.sidecar is None:
            return web.Response(status=404)
        return web.Response(status=self.sidecar_status, body=self.sidecar)

    @asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[ImageServer]:
        """Serves for as long as the block runs, on the port it had before if it had one."""
        runner = web.ServerRunner(web.Server(self.serve), shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=tls).start()
            self.port = runner.addresses[0][1]
            self.scheme = "https" if tls is not None else "http"
            yield self
        finally:
            await runner.cleanup()
