"""Serves a made-up BFB over HTTP, with what a downloader needs: Content-Length, ETag, Range.

The bytes are noise from a fixed seed behind the magic of a boot stream, so that a checksum has something to catch.
"""

from __future__ import annotations

import random
from pathlib import Path

from aiohttp import web

NAME = "bf-bundle-2.9.1.bfb"
SIZE = 4 * 1024 * 1024
_MAGIC = b"Bf\x02\x13"


def make_image(folder: Path, *, size: int = SIZE) -> Path:
    """Writes the image unless it is there; the same bytes each time."""
    path = folder / NAME
    if not path.is_file() or path.stat().st_size != size:
        folder.mkdir(parents=True, exist_ok=True)
        content = _MAGIC + random.Random(7).randbytes(size - len(_MAGIC))  # noqa: S311  (noise, not a secret)
        path.write_bytes(content)
    return path


class ImageServer:
    """Serves one image on a loopback address.

    :ivar url: where it is, once it runs.
    """

    def __init__(self, image: Path) -> None:
        self._image = image
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self, address: str, port: int = 0) -> None:
        """Listens; port 0 picks a free one."""
        app = web.Application()
        app.router.add_get(f"/{self._image.name}", self._get)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, address, port).start()
        bound = self._runner.addresses[0][1]
        self.url = f"http://{address}:{bound}/{self._image.name}"

    async def stop(self) -> None:
        """Closes the server."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _get(self, _: web.Request) -> web.StreamResponse:
        return web.FileResponse(self._image)
