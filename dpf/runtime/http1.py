"""HTTP/1.1 to one server, over kept connections: no more than API servers need, and a third of the cost of a general client.

A manager's day is small requests and JSON answers. A general client spends 150 to 300 microseconds of processor time on each,
more than a whole reconcile does besides; this one spends about 50, and `httptools` (llhttp) does the parsing.

* A connection serves one request at a time; done with it goes back to the pool, newest first out.
* A request that is cancelled or overtaken by its deadline takes its connection with it: the answer may still come.
* A server of several addresses is reached by the first that answers; one that is away costs a quarter of a second.
* A stream has a connection of its own, which does not count to the limit; a slow reader makes the server wait, not us grow.
* Nothing is sent again here. Who knows whether a request may be repeated is :mod:`dpf.runtime.transport`.

Whatever goes wrong below HTTP is an :class:`OSError`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, cast
from urllib.parse import urlsplit

import aiohappyeyeballs
import httptools

from dpf.runtime.resolver import Resolver

CONNECT_TIMEOUT = 10.0
"""Seconds for a connection and its TLS handshake."""
NEXT_ADDRESS = 0.25
"""Seconds after which the next address of a server is tried beside those that have not answered (RFC 8305)."""
IDLE = 75.0
"""Seconds after which a kept connection is not used again; a Go server closes it after 90 (apiserver) or more."""
BUFFERED = 1 << 20
"""Bytes that a stream holds for its reader before the server is made to wait."""


_FRAMING = frozenset({"content-length", "transfer-encoding"})
"""Headers that tell where a body ends."""


class ConnectionLost(ConnectionError):
    """The server, or something between, ended the connection before its answer was whole."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: its status, its headers by lower-case name, and its body unless it is streamed."""

    status: int
    headers: dict[str, str]
    body: bytes


class HttpConnections:
    """The connections to one server.

    :param server: ``http://host:port`` or ``https://host:port``; a path after it is not part of it.
    :param tls: context for https.
    :param server_hostname: name to verify instead of the host's; empty for the host's.
    :param limit: requests in flight at most; more wait.
    """

    def __init__(self, server: str, *, tls: ssl.SSLContext | None, server_hostname: str = "", limit: int) -> None:
        url = urlsplit(server)
        self.authority = url.netloc
        self._host = url.hostname or ""
        self._port = url.port or (443 if tls is not None else 80)
        self._resolver = Resolver(self._host, self._port)
        self._tls = tls
        self._server_hostname = (server_hostname or self._host) if tls is not None else None
        self._slots = asyncio.Semaphore(limit)
        self._kept: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._closed = False

    async def request(self, head: bytes, body: bytes, timeout: float) -> Response:
        """Sends a request and returns the whole answer.

        :param head: request line and headers with the blank line after them.
        :param timeout: seconds from waiting for a free connection to the last byte of the answer.
        :raises TimeoutError: when they are over.
        :raises OSError: if there is no connection, or it is lost.
        """
        async with asyncio.timeout(timeout), self._slots:
            connection = self._take_kept() or await self._connect()
            try:
                response = await connection.exchange(head + body)
            except BaseException:
                connection.abort()
                raise
            if connection.reusable:
                self._kept.append(connection)
            else:
                connection.abort()
            return response

    @asynccontextmanager
    async def stream(self, head: bytes, *, silence: float) -> AsyncIterator[tuple[Response, AsyncIterator[bytes]]]:
        """Sends a request and gives the head of its answer and an iterator of the body's pieces, as they come.

        :param silence: seconds without a byte after which the iterator raises :class:`TimeoutError`.
        :raises OSError: if there is no connection, or it is lost; from the iterator too.
        """
        connection = await self._connect()
        try:
            response = await connection.begin(head, silence)
            yield response, connection.pieces()
        finally:
            connection.abort()

    def end_streams(self) -> None:
        """Ends all streams, which fail with :class:`ConnectionLost`."""
        for connection in [each for each in self._open if each.streamed]:
            connection.abort()

    def close(self) -> None:
        """Ends all connections; requests and streams that use them fail with :class:`ConnectionLost`."""
        self._closed = True
        for connection in list(self._open):
            connection.abort()
        self._kept.clear()

    def _take_kept(self) -> _Connection | None:
        oldest = monotonic() - IDLE
        while self._kept:
            connection = self._kept.pop()
            if connection.reusable and connection.used_at > oldest:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> _Connection:
        if self._closed:
            raise ConnectionLost("the connections to this server were given up")
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT):
            _, connection = await loop.create_connection(
                lambda: _Connection(self._open.discard),
                ssl=self._tls,
                server_hostname=self._server_hostname,
                **await self._reached(),
            )
        if self._closed or not connection.reusable:
            # Given up, or lost, while the handshake ran; what is lost already would never be taken out of the set again.
            connection.abort()
            raise ConnectionLost("the connection was lost as soon as it was made")
        self._open.add(connection)
        return connection

    async def _reached(self) -> dict[str, Any]:
        """What is to be connected to: the server's one address, or a socket that is connected to one of several."""
        addresses = await self._resolver.addresses()
        if len(addresses) == 1:
            return {"host": addresses[0][4][0], "port": self._port}
        try:
            return {"sock": await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS)}
        except RuntimeError as error:  # what uvloop has for some errors of sockets
            raise ConnectionLost(str(error)) from error


class _Connection(asyncio.Protocol):
    """One connection; parses what comes and wakes who waits for it."""

    def __init__(self, on_lost: Callable[[_Connection], None]) -> None:
        self.reusable = True
        self.used_at = monotonic()
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._socket: asyncio.Transport | None = None
        self._lost: ConnectionLost | None = None
        self._asked = self.streamed = self._headed = False
        self._answered: asyncio.Future[Response] = self._loop.create_future()
        self._headers: dict[str, str] = {}
        self._body: deque[bytes] = deque()
        self._buffered = 0
        self._arrived: asyncio.Future[None] | None = None
        self._silence = self._silent_at = 0.0
        """Of a stream: seconds without a byte that its reader waits, and when those are over."""
        self._timer: asyncio.TimerHandle | None = None

    # What the pool does with it

    def exchange(self, request: bytes) -> asyncio.Future[Response]:
        """Sends a request; the future is its answer, or its answer's head if it is streamed."""
        self._answered = self._loop.create_future()
        if self._socket is None or self._lost is not None:
            self._answered.set_exception(self._lost or ConnectionLost("the connection is closed"))
        else:
            # Of this answer nothing has come: should the connection end now, the last one's head is not its.
            self._asked, self._headed = True, False
            self._socket.write(request)
        return self._answered

    async def begin(self, request: bytes, silence: float) -> Response:
        """Sends a request whose answer is streamed; returns the answer's head.

        :param silence: seconds without a byte after which this, and then :meth:`pieces`, raises :class:`TimeoutError`.
        """
        self.streamed, self._silence = True, silence
        async with asyncio.timeout(silence):
            return await self.exchange(request)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body of a streamed answer."""
        # One timer for all waits: a busy watch waits thousands of times before it fires.
        self._silent_at = self._loop.time() + self._silence
        self._timer = self._loop.call_at(self._silent_at, self._look_at_silence)
        while True:
            while self._body:
                piece = self._body.popleft()
                self._release(len(piece))
                yield piece
            if not self._asked:
                return
            if self._lost is not None:
                raise self._lost
            self._arrived = self._loop.create_future()
            self._silent_at = self._loop.time() + self._silence
            await self._arrived

    def _look_at_silence(self) -> None:
        now = self._loop.time()
        if now < self._silent_at:
            self._timer = self._loop.call_at(self._silent_at, self._look_at_silence)
        elif self._arrived is not None and not self._arrived.done():
            self._arrived.set_exception(TimeoutError())
        else:
            # Its reader is busy: silence counts from when it waits.
            self._timer = self._loop.call_at(now + self._silence, self._look_at_silence)

    def abort(self, why: str = "the connection was given up") -> None:
        """Ends the connection at once."""
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            self._socket.abort()
        self._lose(ConnectionLost(why))

    # What the loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast("asyncio.Transport", transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.abort(f"what the server sent is not HTTP: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self._on_lost(self)
        if error is None and self._lost is None and self._headed and self._headers.keys().isdisjoint(_FRAMING):
            # A body of no stated length is whole when the connection ends (RFC 9112, 6.3): proxies' errors come so.
            self.on_message_complete()
        self._lose(ConnectionLost(str(error) if error else "the server closed the connection"))

    # What the parser tells

    def on_message_begin(self) -> None:
        self._headers, self._headed = {}, False
        if not self._asked:
            # An answer that nobody asked for, perhaps its first half only: its end would be taken for another's answer.
            self.abort("the server answered what was not asked")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._headed = True
        if self.streamed:
            self._answer(b"")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        if self.streamed:
            self._buffered += len(body)
            if self._buffered > BUFFERED and self._socket is not None:
                self._socket.pause_reading()
            self._wake()

    def on_message_complete(self) -> None:
        if not self._asked:
            return
        self._asked = False
        self.used_at = monotonic()
        self.reusable = self.reusable and not self.streamed and bool(self._parser.should_keep_alive())
        if self.streamed:
            self._wake()
            return
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._answer(body)

    # Waking

    def _answer(self, body: bytes) -> None:
        if not self._answered.done():
            self._answered.set_result(Response(self._parser.get_status_code(), self._headers, body))

    def _lose(self, error: ConnectionLost) -> None:
        self.reusable = False
        self._lost = self._lost or error
        if self._asked and not self._answered.done():
            self._answered.set_exception(self._lost)
        self._wake()

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def _release(self, size: int) -> None:
        before, self._buffered = self._buffered, self._buffered - size
        if before > BUFFERED >= self._buffered and self._socket is not None and self._lost is None:
            self._socket.resume_reading()
