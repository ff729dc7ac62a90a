"""The health and metrics servers."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest

from dpf.runtime.errors import ConfigError
from dpf.runtime.http import Servers, spelt, split_address
from dpf.runtime.metrics import Metrics
from dpf.sandbox.controlplane.planes import free_ports


async def got(servers: Servers, path: str) -> tuple[int, str]:
    """Status and text of the one server that is up."""
    [(host, port)] = servers.bound.values()
    async with aiohttp.ClientSession() as http, http.get(f"http://{host}:{port}{path}") as response:
        return response.status, await response.text()


@pytest.mark.parametrize(
    ("address", "bound"),
    [
        (":8080", (None, 8080)),
        ("0.0.0.0:8080", ("0.0.0.0", 8080)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:443", ("::1", 443)),
        ("0", None),
        ("", None),
    ],
)
def test_addresses_are_written_as_in_go(address: str, bound: tuple[str, int] | None) -> None:
    assert split_address(address) == bound


@pytest.mark.parametrize("address", ["8080", "host", "host:", "host:http", ":65536", ":-1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="write HOST:PORT"):
        split_address(address)


async def test_a_process_is_ready_when_all_checks_hold_and_alive_before() -> None:
    servers = Servers(health="127.0.0.1:0", metrics="0", source=Metrics())
    holds = {"caches": False, "webhooks": False}
    for name in holds:
        servers.add_readiness(name, lambda name=name: holds[name])  # type: ignore[misc]
    async with servers:
        assert await got(servers, "/healthz") == (200, "ok")
        assert await got(servers, "/readyz") == (503, "not ready: caches, webhooks")
        holds["caches"] = True
        assert await got(servers, "/readyz") == (503, "not ready: webhooks")
        holds["webhooks"] = True
        assert await got(servers, "/readyz") == (200, "ok")
        assert (await got(servers, "/metrics"))[0] == 404, "metrics have a server of their own"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_a_port_alone_is_reached_by_both_families_of_addresses(host: str) -> None:
    async with Servers(health=f":{free_ports([0])[0]}", metrics="0", source=Metrics()) as servers:
        [(_, port)] = servers.bound.values()
        async with aiohttp.ClientSession() as http, http.get(f"http://{host}:{port}/healthz") as response:
            assert await response.text() == "ok"


@pytest.mark.parametrize(
    ("host", "text"),
    [(None, ":8080"), ("127.0.0.1", "127.0.0.1:8080"), ("::1", "[::1]:8080"), ("localhost", "localhost:8080")],
)
def test_an_address_is_told_as_it_is_given(host: str | None, text: str) -> None:
    assert spelt(host, 8080) == text


async def test_metrics_are_served_as_text() -> None:
    metrics = Metrics()
    metrics.events_dropped = 2
    async with Servers(health="0", metrics="127.0.0.1:0", source=metrics) as servers:
        code, text = await got(servers, "/metrics")
    assert code == 200
    assert "dpf_events_dropped_total 2.0" in text


@pytest.mark.parametrize("which", ["health", "metrics"])
async def test_an_address_in_use_names_the_flag(which: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        addresses = {"health": "0", "metrics": "0", which: f"127.0.0.1:{taken.getsockname()[1]}"}
        flag = {"health": "--health-probe-bind-address", "metrics": "--metrics-bind-address"}[which]
        servers = Servers(source=Metrics(), health=addresses["health"], metrics=addresses["metrics"])
        with pytest.raises(ConfigError, match=flag):
            async with servers:
                pass
        await servers.__aexit__(None, None, None)


class Long(Metrics):
    """Has more to tell than its reader has patience."""

    def __init__(self) -> None:
        super().__init__()
        self.told = 0

    async def scrape(self) -> AsyncIterator[bytes]:
        while True:
            self.told += 1
            yield b"x" * 65536
            await asyncio.sleep(0)


async def test_a_scraper_that_goes_away_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    source = Long()
    async with Servers(health="0", metrics="127.0.0.1:0", source=source) as servers:
        [(host, port)] = servers.bound.values()
        async with aiohttp.ClientSession() as http, http.get(f"http://{host}:{port}/metrics") as response:
            assert await response.content.read(1)
            response.close()
        async with asyncio.timeout(10):
            before = -1
            while source.told > before:
                before = source.told
                await asyncio.sleep(0.05)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
