"""Addresses of a server, looked up in a thread of its own.

The event loop has few threads for look-ups, which all servers share: some names in a zone whose name server is silent hold them
for many seconds each, and no connection to anybody else that has a name could be made meanwhile.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any

from dpf.runtime import threads

Addresses = list[tuple[Any, ...]]
"""As :func:`socket.getaddrinfo` gives them."""


class Resolver:
    """Of one server. There is one look-up at a time, which all who ask meanwhile share, however long it takes."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._looking: asyncio.Future[Addresses] | None = None

    async def addresses(self) -> Addresses:
        """Where the server can be connected to.

        :raises OSError: if it has no address, or none can be found out.
        """
        with suppress(socket.gaierror):
            # An address needs no thread.
            return self._look(socket.AI_NUMERICHOST)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.wrap_future(threads.start(self._look, 0))
            # Whoever asked may be gone by then.
            self._looking.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(self._looking)

    def _look(self, flags: int) -> Addresses:
        return list(socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=flags))
