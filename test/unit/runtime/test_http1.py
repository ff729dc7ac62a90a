"""HTTP connections against servers that say exactly what the test wants, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpf.runtime.client import Client
from dpf.runtime.errors import ConfigError, NotFound
from dpf.runtime.http1 import BUFFERED, ConnectionLost, HttpConnections
from dpf.runtime.kubeconfig import Kubeconfig
from test.unit.runtime.widgets import Widget

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def asked(reader: asyncio.StreamReader) -> bool:
    """Reads one request; False when the client is gone."""
    try:
        await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return False
    return True


@asynccontextmanager
async def server(serve: Serve, *, limit: int = 4) -> AsyncIterator[HttpConnections]:
    """Connections to a server that treats each of them so."""

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except ConnectionError:
            return
        finally:
            writer.close()

    listening = await asyncio.start_server(guarded, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    connections = HttpConnections(f"http://127.0.0.1:{port}", tls=None, limit=limit)
    try:
        yield connections
    finally:
        connections.close()
        listening.close()


class Says:
    """Answers every request of every connection with the same bytes, and counts both."""

    def __init__(self, answer: bytes, *, close: bool = False) -> None:
        self.answer = answer
        self.close = close
        self.connections = self.requests = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while await asked(reader):
            self.requests += 1
            writer.write(self.answer)
            await writer.drain()
            if self.close:
                return


async def test_a_connection_is_used_again() -> None:
    says = Says(OK)
    async with server(says) as connections:
        for _ in range(3):
            response = await connections.request(HEAD, b"", 5)
            assert (response.status, response.body) == (200, b"ok")
        assert (says.connections, says.requests) == (1, 3)
        at_once = await asyncio.gather(*(connections.request(HEAD, b"", 5) for _ in range(3)))
        assert [response.body for response in at_once] == [b"ok"] * 3
        assert (says.connections, says.requests) == (3, 6), "who is waited for serves nobody else"


async def test_a_connection_that_the_server_ends_is_not_used_again() -> None:
    says = Says(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
    async with server(says) as connections:
        for _ in range(2):
            await connections.request(HEAD, b"", 5)
    assert says.connections == 2


async def test_a_connection_that_was_lost_while_idle_is_not_used_again() -> None:
    says = Says(OK, close=True)
    async with server(says) as connections:
        await connections.request(HEAD, b"", 5)
        while any(connection.reusable for connection in connections._kept):
            await asyncio.sleep(0)
        await connections.request(HEAD, b"", 5)
    assert says.connections == 2


async def test_a_cancelled_request_takes_its_connection_with_it() -> None:
    first = asyncio.Event()

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = 0
        while await asked(reader):
            number += 1
            if not first.is_set():
                first.set()
                await reader.read()  # until the client is gone
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)

    async with server(late) as connections:
        cancelled = asyncio.ensure_future(connections.request(HEAD, b"", 5))
        await first.wait()
        cancelled.cancel()
        await asyncio.wait([cancelled])
        response = await connections.request(HEAD, b"", 5)
        # The first one of a new connection, not the answer to the cancelled one.
        assert response.body == b"1"
        assert len(connections._open) == 1


async def test_a_request_has_a_deadline_that_includes_waiting_for_a_connection() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with server(silent, limit=1) as connections:
        first = asyncio.ensure_future(connections.request(HEAD, b"", 20))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await connections.request(HEAD, b"", 0.05)
        assert not first.done()
        first.cancel()
        await asyncio.wait([first])


async def test_more_than_the_limit_wait_for_a_free_connection() -> None:
    says = Says(OK)
    async with server(says, limit=2) as connections, asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(connections.request(HEAD, b"", 5))
    assert (says.connections <= 2, says.requests) == (True, 20)


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.9\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort"])
async def test_what_is_no_whole_answer_is_a_lost_connection(answer: bytes) -> None:
    async with server(Says(answer, close=True)) as connections:
        with pytest.raises(ConnectionLost):
            await connections.request(HEAD, b"", 5)


async def test_an_answer_that_nobody_asked_for_is_not_taken_for_anothers() -> None:
    says = Says(OK + OK)
    async with server(says) as connections:
        await connections.request(HEAD, b"", 5)
        await connections.request(HEAD, b"", 5)
    assert says.connections == 2


async def test_nor_is_one_that_had_only_begun() -> None:
    """Its end comes when something else has been asked, and must not be taken for the answer to that."""

    class Twice(Says):
        async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            while await asked(reader):
                self.requests += 1
                first = self.requests == 1
                writer.write(OK + OK[:-2] if first else b"no")
                if not first:
                    return

    says = Twice(OK)
    async with server(says) as connections:
        await connections.request(HEAD, b"", 5)
        with pytest.raises(ConnectionLost):
            await connections.request(HEAD, b"", 5)
    assert says.connections == 2


async def test_a_connection_that_is_lost_as_soon_as_it_is_made_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    loop = asyncio.get_running_loop()
    connect = loop.create_connection

    async def slow(*args: Any, **more: Any) -> Any:
        made = await connect(*args, **more)
        while made[1].reusable:
            await asyncio.sleep(0)
        return made

    monkeypatch.setattr(loop, "create_connection", slow)
    async with server(hangs_up) as connections:
        for _ in range(3):
            with pytest.raises(ConnectionLost, match="as soon as it was made"):
                await connections.request(HEAD, b"", 5)
        assert not connections._open


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n", b"HTTP/1.0 502 Bad\r\n\r\n"]
)
async def test_an_answer_without_a_length_ends_with_its_connection(head: bytes) -> None:
    says = Says(head + b"the server is away", close=True)
    async with server(says) as connections:
        for _ in range(2):
            response = await connections.request(HEAD, b"", 5)
            assert (response.status, response.body) == (502, b"the server is away")
        async with connections.stream(HEAD, silence=5) as (begun, pieces):
            assert (begun.status, b"".join([piece async for piece in pieces])) == (502, b"the server is away")
    assert says.connections == 3


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_a_request_that_is_never_answered_is_not_given_the_answer_before_it(status: str) -> None:
    """A write that was never done would be taken for done."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(f"HTTP/1.1 {status}\r\n\r\n".encode())
        await asked(reader)

    async with server(once) as connections:
        assert (await connections.request(HEAD, b"", 5)).status == int(status.split()[0])
        assert len(connections._kept) == 1
        with pytest.raises(ConnectionLost):
            await connections.request(HEAD, b"", 5)


async def test_one_whose_head_is_cut_or_that_is_given_up_does_not() -> None:
    async with server(Says(b"HTTP/1.1 502 Bad Gateway\r\nConnection: cl", close=True)) as connections:
        with pytest.raises(ConnectionLost):
            await connections.request(HEAD, b"", 5)
    async with (
        server(Says(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok")) as connections,
        connections.stream(HEAD, silence=5) as (_, pieces),
    ):
        assert await anext(pieces) == b"ok"
        reading = asyncio.ensure_future(anext(pieces))
        await asyncio.sleep(0)
        connections.close()
        with pytest.raises(ConnectionLost):
            await reading


async def test_an_address_that_is_silent_does_not_keep_from_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        # Its queue is full: what comes further is dropped, as by a host that is away.
        stack.enter_context(socket.create_connection(silent.getsockname()))
        resolve = socket.getaddrinfo

        def both(_: str, port: int, **more: Any) -> Any:
            return [*resolve(*silent.getsockname(), **more), *resolve("127.0.0.1", port, **more)]

        monkeypatch.setattr(socket, "getaddrinfo", both)
        async with server(Says(OK)) as one:
            connections = HttpConnections(f"http://server.test:{one._port}", tls=None, limit=1)
            assert (await connections.request(HEAD, b"", 5)).body == b"ok"
            connections.close()


async def test_nobody_listening_is_an_os_error() -> None:
    connections = HttpConnections("http://127.0.0.1:1", tls=None, limit=1)
    with pytest.raises(ConnectionRefusedError):
        await connections.request(HEAD, b"", 5)


@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 400), max_size=6), chunked=st.booleans())
async def test_an_answer_comes_out_whole_however_it_is_cut(data: bytes, cuts: list[int], chunked: bool) -> None:
    parts = [data[a:b] for a, b in itertools.pairwise(sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)}))]
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (*parts, b"")) if chunked and data else data
    length = b"Transfer-Encoding: chunked" if chunked and data else b"Content-Length: %d" % len(data)
    answer = b"HTTP/1.1 200 OK\r\n" + length + b"\r\n\r\n" + body
    edges = sorted({0, len(answer), *(min(cut, len(answer)) for cut in cuts)})

    async def in_pieces(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await asked(reader):
            for start, end in itertools.pairwise(edges):
                writer.write(answer[start:end])
                await writer.drain()

    async with server(in_pieces) as connections:
        for _ in range(2):
            assert (await connections.request(HEAD, b"", 5)).body == data


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_a_stream_gives_what_comes_until_the_server_ends_it() -> None:
    says = Says(CHUNKED + b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
    async with server(says) as connections, connections.stream(HEAD, silence=5) as (head, pieces):
        assert (head.status, b"".join([piece async for piece in pieces])) == (200, b"onetwo")


async def test_a_stream_that_is_cut_is_a_lost_connection() -> None:
    says = Says(CHUNKED + b"3\r\none\r\n", close=True)
    async with server(says) as connections, connections.stream(HEAD, silence=5) as (_, pieces):
        assert await anext(pieces) == b"one"
        with pytest.raises(ConnectionLost):
            await anext(pieces)


async def test_a_silent_stream_is_given_up() -> None:
    async with server(Says(CHUNKED)) as connections, connections.stream(HEAD, silence=0.05) as (_, pieces):
        with pytest.raises(TimeoutError):
            await anext(pieces)


async def test_closing_ends_streams_that_somebody_reads() -> None:
    async with server(Says(CHUNKED)) as connections:
        async with connections.stream(HEAD, silence=5) as (_, pieces):
            reading = asyncio.ensure_future(anext(pieces))
            await asyncio.sleep(0)
            connections.close()
            with pytest.raises(ConnectionLost):
                await reading
        with pytest.raises(ConnectionLost):
            await connections.request(HEAD, b"", 5)


async def test_a_slow_reader_makes_the_server_wait_and_misses_nothing() -> None:
    piece, number = b"x" * 65536, 512

    async def much(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(CHUNKED)
        for _ in range(number):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await reader.read()

    async with server(much) as connections, connections.stream(HEAD, silence=5) as (_, pieces):
        (connection,) = connections._open
        size, most = 0, 0
        async for part in pieces:
            for _ in range(10):
                await asyncio.sleep(0)
            most = max(most, connection._buffered)
            size += len(part)
    assert size == len(piece) * number
    # What one read of a socket brings comes on top.
    assert most < BUFFERED + (1 << 19)


def test_a_name_from_a_user_stays_a_name() -> None:
    path = Widget.RESOURCE.path("n", "a/../b?c d\r\nX-Injected: 1")
    assert path.endswith("/namespaces/n/widgets/a%2F..%2Fb%3Fc%20d%0D%0AX-Injected%3A%201")
    assert Widget.RESOURCE.path("n/x", "a/b").endswith("/namespaces/n%2Fx/widgets/a%2Fb")
    for step in (".", ".."):
        for namespace, name in (("n", step), (step, "a")):
            with pytest.raises(NotFound, match="is no name"):
                Widget.RESOURCE.path(namespace, name)


async def test_a_path_that_would_end_its_line_is_refused() -> None:
    async with Client(Kubeconfig(server="http://127.0.0.1:1"), field_owner="test") as client:
        with pytest.raises(ValueError, match="no path"):
            await client.request("GET", "/api/v1/nodes HTTP/1.1\r\nX-Injected: 1")


async def test_a_token_that_would_end_its_line_is_refused() -> None:
    async with Client(
        Kubeconfig(server="http://127.0.0.1:1", token="a\r\nX-Injected: 1"), field_owner="test"
    ) as client:
        with pytest.raises(ConfigError, match="token"):
            await client.get(Widget, "a", "n")
