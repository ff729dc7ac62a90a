"""Stands before an API server and passes all on, until it is told to fall silent: connections stay, and nothing comes any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import yaml

PIECE = 1 << 16


class SilentOnDemand:
    """Listens on a loopback address.

    :ivar silent: whether what comes, in either direction, is swallowed from now on.
    """

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._serving: set[asyncio.Task[None]] = set()
        self.silent = False

    @classmethod
    @asynccontextmanager
    async def before(cls, kubeconfig: str) -> AsyncIterator[tuple[SilentOnDemand, str]]:
        """Runs before the API server of a kubeconfig, whose certificate must be good for 127.0.0.1; gives the kubeconfig of the
        way through it as well."""
        content = yaml.safe_load(kubeconfig)
        cluster = content["clusters"][0]["cluster"]
        url = urlsplit(cluster["server"])
        found = cls(url.hostname or "", url.port or 443)
        server = await asyncio.start_server(found._accept, "127.0.0.1", 0)
        cluster["server"] = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield found, yaml.safe_dump(content)
        finally:
            server.close()
            for task in found._serving:
                task.cancel()
            await asyncio.gather(*found._serving, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # Whoever breaks off, the other hears of it.
            with suppress(OSError):
                from_server, to_server = await asyncio.open_connection(*self._address)
                try:
                    await asyncio.gather(self._pass_on(reader, to_server), self._pass_on(from_server, writer))
                finally:
                    to_server.close()
        finally:
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(PIECE):
            if self.silent:
                await asyncio.Event().wait()
            writer.write(piece)
            await writer.drain()
        writer.close()
