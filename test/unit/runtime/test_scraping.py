"""Who may have the metrics, and what a scrape is served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from dpf.runtime.http import Servers
from dpf.runtime.metrics import Metrics
from dpf.runtime.scraping import ACCESS_REVIEWS, TOKEN_REVIEWS, ScrapeGuard
from test.unit.runtime.scripted import ScriptedServer, answer, serving, status


def reviews(*, authenticated: bool = True, allowed: bool = True) -> list[Any]:
    user = {"username": "prometheus", "groups": ["scrapers"]}
    who = {"status": {"authenticated": authenticated, "user": user}}
    may = {"status": {"allowed": allowed}}
    return [answer(lambda: web.json_response(who)), answer(lambda: web.json_response(may))]


@pytest.mark.parametrize(
    ("header", "answers", "verdict"),
    [
        ("", {}, 401),
        ("Basic abc", {}, 401),
        ("Bearer \udcff", {}, 401),
        ("Bearer t", {"authenticated": False}, 401),
        ("Bearer t", {"allowed": False}, 403),
        ("Bearer t", {}, 200),
    ],
)
async def test_the_cluster_decides_who_may(header: str, answers: dict[str, bool], verdict: int) -> None:
    async with serving(ScriptedServer(*reviews(**answers))) as client:
        assert await ScrapeGuard(client).verdict(header, "/metrics") == verdict


async def test_it_is_asked_as_an_api_server_asks_and_the_verdict_holds_a_while() -> None:
    bodies: list[tuple[str, dict[str, Any]]] = []

    async def note(request: web.Request) -> web.StreamResponse:
        bodies.append((request.path, orjson.loads(await request.read())))
        user = {"username": "prometheus", "groups": ["scrapers"]}
        return web.json_response({"status": {"authenticated": True, "user": user, "allowed": True}})

    async with serving(ScriptedServer(note)) as client:
        guard = ScrapeGuard(client)
        assert [await guard.verdict("Bearer t", "/metrics") for _ in range(3)] == [200, 200, 200]
    (first, token), (second, access) = bodies
    assert (first, token["spec"]) == (TOKEN_REVIEWS, {"token": "t"})
    assert second == ACCESS_REVIEWS
    assert access["spec"]["nonResourceAttributes"] == {"path": "/metrics", "verb": "get"}
    assert (access["spec"]["user"], access["spec"]["groups"]) == ("prometheus", ["scrapers"])


@pytest.mark.parametrize(
    "refusal",
    [
        lambda: status(500, "InternalError"),
        lambda: web.Response(text="<html>a captive portal</html>"),
        lambda: web.json_response([]),
        lambda: web.json_response({"status": "Success"}),
    ],
)
async def test_while_nobody_can_tell_nobody_is_let_in_and_it_is_asked_again(
    refusal: Callable[[], web.Response],
) -> None:
    async with serving(ScriptedServer(answer(refusal), *reviews())) as client:
        guard = ScrapeGuard(client)
        assert await guard.verdict("Bearer t", "/metrics") == 503
        assert await guard.verdict("Bearer t", "/metrics") == 200


async def test_guarded_metrics_are_https_and_say_why_they_are_kept() -> None:
    class Guard:
        async def verdict(self, authorization: str, path: str) -> int:
            return 200 if authorization == "Bearer t" else 403

    servers = Servers(health="0", metrics="127.0.0.1:0", source=Metrics(), guard=Guard())
    async with servers, aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as http:
        host, port = servers.bound["metrics"]
        url = f"https://{host}:{port}/metrics"
        async with http.get(url) as response:
            assert (response.status, "may not get" in await response.text()) == (403, True)
        async with http.get(url, headers={"Authorization": "Bearer t"}) as response:
            assert response.status == 200
            assert "dpf_event_loop_lag_seconds" in await response.text()


async def test_text_of_the_application_comes_behind_the_rest_and_others_get_their_turn() -> None:
    metrics, turns = Metrics(), 0

    async def collect() -> AsyncIterator[str]:
        for number in range(3):
            yield f"mine {number}\n"
            await asyncio.sleep(0)

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    metrics.add_text(collect)
    task = asyncio.create_task(count())
    text = b"".join([piece async for piece in metrics.scrape()])
    task.cancel()
    assert text.endswith(b"mine 0\nmine 1\nmine 2\n")
    assert turns >= 3


async def test_what_leader_election_and_webhooks_count_is_shown() -> None:
    metrics = Metrics()
    metrics.leading["m"] = True
    metrics.slow_renewals["m"] += 2
    metrics.webhooks_in_flight["/v"] += 1
    metrics.webhook_panics["/v"] += 1
    text = metrics.render().decode().splitlines()
    assert 'leader_election_slowpath_total{name="m"} 2.0' in text
    assert 'controller_runtime_webhook_requests_in_flight{webhook="/v"} 1.0' in text
    assert 'controller_runtime_webhook_panics_total{webhook="/v"} 1.0' in text
