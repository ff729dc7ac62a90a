"""Addresses of a server, looked up in a thread of its own.

The event loop has few threads for look-ups, which all servers share: some names in a zone whose name server is silent hold them
for many seconds each, and no connection to anybody else that has a name could be made meanwhile.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any

Addresses = list[tuple[Any, ...]]
"""As :func:`socket.getaddrinfo` gives them."""


class Resolver:
    """Of one server. There is one look-up at a time, which all who ask meanwhile share; its thread is a daemon, so one that is
    never answered does not keep the process from ending."""

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
            self._looking = self._begin()
        return await asyncio.shield(self._looking)

    def _begin(self) -> asyncio.Future[Addresses]:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Addresses] = loop.create_future()
        # Whoever asked may be gone by then.
        found.add_done_callback(lambda done: done.cancelled() or done.exception())

        def tell(addresses: Addresses | None, error: OSError | None) -> None:
            if error is not None:
                found.set_exception(error)
            else:
                found.set_result(addresses or [])

        def work() -> None:
            addresses, error = None, None
            try:
                addresses = self._look(0)
            except OSError as raised:
                error = raised
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(tell, addresses, error)

        threading.Thread(target=work, name=f"resolve {self._host}", daemon=True).start()
        return found

    def _look(self, flags: int) -> Addresses:
        return list(socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=flags))
