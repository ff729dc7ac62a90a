"""What follows a collection for the stand-ins, against a server that misbehaves."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from dpf.sandbox import api as module
from dpf.sandbox.api import Api
from test.unit.runtime.scripted import ScriptedServer, answer, event, gone, listed, serving, status, stream
from test.unit.runtime.widgets import widget


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY", 0.01)


async def told(server: ScriptedServer, number: int) -> list[tuple[str, str]]:
    """The first events that a follower is told."""
    found: list[tuple[str, str]] = []
    async with (
        serving(server) as client,
        Api(client.transport.kubeconfig, user_agent="test") as api,
        asyncio.timeout(20),
        aclosing(api.follow("/widgets")) as events,
    ):
        async for kind, obj in events:
            found.append((kind, obj["metadata"]["name"]))
            if len(found) == number:
                break
    return found


async def test_a_stream_that_ends_is_resumed_where_it_ended() -> None:
    change = event("MODIFIED", widget("a", 6))
    server = ScriptedServer(stream(*listed("a", version=5), hold=False), stream(change))
    assert await told(server, 2) == [("ADDED", "a"), ("MODIFIED", "a")]
    assert server.seen[1].query["resourceVersion"] == "5"
    assert "sendInitialEvents" not in server.seen[1].query


async def test_a_version_that_was_compacted_away_is_listed_anew_and_what_vanished_is_told() -> None:
    first = stream(*listed("a", "b", version=5), gone(), hold=False)
    server = ScriptedServer(first, stream(*listed("b", version=20)))
    assert await told(server, 4) == [("ADDED", "a"), ("ADDED", "b"), ("ADDED", "b"), ("DELETED", "a")]
    assert "resourceVersion" not in server.seen[1].query


@pytest.mark.parametrize("code", [404, 500])
async def test_a_server_that_refuses_is_asked_again(code: int) -> None:
    refused = answer(lambda: status(code, "Refused"))
    server = ScriptedServer(refused, stream(*listed("a", version=5)))
    assert await told(server, 1) == [("ADDED", "a")]
