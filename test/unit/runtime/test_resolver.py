"""Look-ups of servers' addresses."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dpf.runtime.resolver import Resolver

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 443))]


class Zone:
    """A name server that answers when the test lets it; how often it was asked."""

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.asked: list[str] = []

    def look(self, host: str, port: int, *, type: int, flags: int) -> Any:  # noqa: A002
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        self.asked.append(host)
        if host.endswith(".dead"):
            self.answer.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "no name server answers")
        return FOUND


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Zone]:
    made = Zone()
    monkeypatch.setattr(socket, "getaddrinfo", made.look)
    yield made
    made.answer.set()


async def test_names_that_nobody_answers_for_keep_no_other_server_waiting(zone: Zone) -> None:
    dead = [asyncio.create_task(Resolver(f"api{n}.dead", 443).addresses()) for n in range(20)]
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        assert await Resolver("api.example.com", 443).addresses() == FOUND
    assert not any(task.done() for task in dead)
    zone.answer.set()
    async with asyncio.timeout(20):
        ended = await asyncio.gather(*dead, return_exceptions=True)
    assert all(isinstance(error, OSError) for error in ended)


async def test_who_asks_during_a_look_up_shares_it_though_the_first_has_given_up(zone: Zone) -> None:
    resolver = Resolver("api.dead", 443)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await resolver.addresses()
    last = asyncio.create_task(resolver.addresses())
    await asyncio.sleep(0)
    zone.answer.set()
    async with asyncio.timeout(20):
        with pytest.raises(socket.gaierror):
            await last
    assert zone.asked == ["api.dead"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_an_address_is_no_name(host: str) -> None:
    before = threading.active_count()
    [(_, _, _, _, where), *_] = await Resolver(host, 443).addresses()
    assert where[:2] == (host, 443)
    assert threading.active_count() == before
