"""List and watch against a server that misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, cast

import pytest
from aiohttp import web

from dpf.runtime import reflector as module
from dpf.runtime.client import Client
from dpf.runtime.errors import ApiError, TooManyRequests, Unavailable
from dpf.runtime.informer import Change, Informer
from dpf.runtime.reflector import Reflector, Scope
from dpf.runtime.testing import run_virtual
from test.unit.runtime.scripted import (
    Answer,
    ScriptedServer,
    answer,
    bookmark,
    event,
    gone,
    listed,
    serving,
    status,
    stream,
)
from test.unit.runtime.widgets import Widget, too_deep, widget

FIRST = module.BACKOFF_FIRST


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_FIRST", 0.01)


class Reflecting:
    """A reflector at work, and waiting for what it makes of its informer."""

    def __init__(self, server: ScriptedServer, informer: Informer[Widget], reflector: Reflector[Widget]) -> None:
        self.server, self.informer, self.reflector = server, informer, reflector
        self.told: list[tuple[str, str]] = []
        self._changed = asyncio.Event()
        informer.add_handler(self._tell)

    def _tell(self, change: Change[Widget]) -> None:
        self.told.append((change.type, change.key.name))
        self._changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    def sizes(self) -> dict[str, int]:
        return {w.name: w.spec.size for w in self.informer.list()}


@asynccontextmanager
async def reflecting(*script: Answer) -> AsyncIterator[Reflecting]:
    server = ScriptedServer(*script)
    async with serving(server) as client:
        informer = Informer(Widget)
        reflector = Reflector(client, informer, Scope("n"))
        task = asyncio.create_task(reflector.run())
        try:
            yield Reflecting(server, informer, reflector)
        finally:
            task.cancel()
            await asyncio.wait([task])


async def test_the_first_list_is_a_stream_that_goes_on_as_the_watch() -> None:
    lines = [*listed("a", "b", version=5), event("MODIFIED", widget("a", 6, size=6))]
    async with reflecting(stream(*lines)) as r:
        await r.until(lambda: r.sizes() == {"a": 6, "b": 1})
        [request] = r.server.seen
        assert request.query["sendInitialEvents"] == "true"
        assert request.query["resourceVersionMatch"] == "NotOlderThan"
        assert request.query["allowWatchBookmarks"] == "true"
        assert 300 <= int(request.query["timeoutSeconds"]) <= 600
        assert len({r.reflector._watch_params()["timeoutSeconds"] for _ in range(20)}) > 1


async def test_nothing_is_in_the_cache_before_the_list_is_complete() -> None:
    cut = stream(event("ADDED", widget("a", 5)), hold=False)
    async with reflecting(cut, stream(*listed("b", version=6))) as r:
        await r.until(lambda: bool(r.sizes()))
        assert r.sizes() == {"b": 1}


async def test_a_bookmark_of_an_older_server_ends_the_list() -> None:
    """Before 1.34 a bookmark was an empty object with all that a Go struct has, nulls included."""
    meta = {"resourceVersion": "5", "creationTimestamp": None, "annotations": {"k8s.io/initial-events-end": "true"}}
    end = event("BOOKMARK", {"kind": "Widget", "metadata": meta, "spec": None, "status": {}})
    async with reflecting(stream(event("ADDED", widget("a", 5)), end)) as r:
        await r.until(lambda: r.sizes() == {"a": 1})


@pytest.mark.parametrize(("code", "reason"), [(422, "Invalid"), (400, "BadRequest")])
async def test_a_server_that_refuses_streamed_lists_is_listed_in_pages_and_watched(code: int, reason: str) -> None:
    first = {"metadata": {"resourceVersion": "5", "continue": "token"}, "items": [widget("a", 4)]}
    second = {"metadata": {"resourceVersion": "5"}, "items": [widget("b", 3)]}
    refuse = answer(lambda: status(code, reason, "resourceVersionMatch is forbidden for watch"))
    pages = [answer(lambda: web.json_response(first)), answer(lambda: web.json_response(second))]
    async with reflecting(refuse, *pages, stream(event("MODIFIED", widget("a", 7, size=7)))) as r:
        await r.until(lambda: r.sizes() == {"a": 7, "b": 1})
        assert [each.query.get("limit") for each in r.server.seen] == [None, "500", "500", None]
        assert [each.query.get("continue") for each in r.server.seen] == [None, None, "token", None]
        assert r.server.seen[3].query["resourceVersion"] == "5"


async def test_a_watch_that_ends_is_resumed_from_the_last_version_bookmarks_included() -> None:
    first = stream(*listed("a", version=5), event("MODIFIED", widget("a", 6)), bookmark(9), hold=False)
    async with reflecting(first, stream(event("MODIFIED", widget("a", 10, size=10)))) as r:
        await r.until(lambda: r.sizes() == {"a": 10})
        assert r.server.seen[1].query["resourceVersion"] == "9"
        assert "sendInitialEvents" not in r.server.seen[1].query
        assert r.informer.watched_version == 10


def ahead() -> bytes:
    """The ERROR event of a version that the server has not reached: it was restored from a backup."""
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    details = {"causes": causes, "retryAfterSeconds": 1}
    return event("ERROR", {"kind": "Status", "code": 504, "reason": "Timeout", "details": details})


@pytest.mark.parametrize("line", [gone(), ahead()])
async def test_410_relists_at_once_and_tells_what_vanished(line: bytes) -> None:
    second = stream(*listed("b", version=20))
    async with reflecting(stream(*listed("a", "b", version=5), line, hold=False), second) as r:
        await r.until(lambda: r.sizes() == {"b": 1} and len(r.server.seen) == 2)
        assert "sendInitialEvents" in r.server.seen[1].query
        assert "resourceVersion" not in r.server.seen[1].query
        assert ("DELETED", "a") in r.told
        assert r.reflector.stats.expired == 1
        assert r.reflector.stats.failures == 0


@pytest.mark.parametrize("line", [gone(), ahead()])
async def test_a_server_that_lists_what_it_then_knows_no_more_is_waited_for(line: bytes) -> None:
    async with reflecting(stream(*listed("a", version=5), line, hold=False)) as r:
        await r.server.requests(4)
        assert (r.reflector.stats.expired, r.reflector.stats.failures) == (3, 2)


@pytest.mark.parametrize("heard", [event("MODIFIED", widget("a", 6)), bookmark(6)])
async def test_a_410_after_something_was_heard_is_none_in_a_row(heard: bytes) -> None:
    fine = stream(*listed("a", version=5), heard, gone(), hold=False)
    async with reflecting(fine, fine, stream(*listed("b", version=20))) as r:
        await r.until(lambda: r.sizes() == {"b": 1})
        assert (r.reflector.stats.expired, r.reflector.stats.failures) == (2, 0)


@pytest.mark.parametrize("code", [429, 500, 503])
async def test_a_refused_watch_is_resumed_without_a_relist(code: int) -> None:
    first = stream(*listed("a", version=5), hold=False)
    refuse = answer(lambda: status(code, "NotNow", **{"Retry-After": "0"}))
    async with reflecting(first, refuse, refuse, stream(event("MODIFIED", widget("a", 6, size=6)))) as r:
        await r.until(lambda: r.sizes() == {"a": 6})
        assert r.server.seen[-1].query["resourceVersion"] == "5"
        assert (r.reflector.stats.lists, r.reflector.stats.failures) == (1, 2)


@pytest.mark.parametrize("what", [{"kind": "Status", "code": 500, "reason": "InternalError"}, "no Status", None])
async def test_an_error_within_a_watch_is_resumed_without_a_relist(what: Any) -> None:
    error = event("ERROR", what)
    first = stream(*listed("a", version=5), error)
    async with reflecting(first, stream(event("MODIFIED", widget("a", 6, size=6)))) as r:
        await r.until(lambda: r.sizes() == {"a": 6})
        assert r.server.seen[1].query["resourceVersion"] == "5"
        assert r.reflector.stats.lists == 1


@pytest.mark.parametrize("paged", [False, True])
async def test_managed_fields_are_never_kept(paged: bool) -> None:
    fat = [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}]
    page = {"metadata": {"resourceVersion": "5"}, "items": [widget("a", 4, managedFields=fat)]}
    later = event("ADDED", widget("b", 6, managedFields=fat))
    refuse, listing = answer(lambda: status(422, "Invalid")), answer(lambda: web.json_response(page))
    first = [event("ADDED", widget("a", 4, managedFields=fat)), bookmark(5, ends_list=True), later]
    script = [refuse, listing, stream(later)] if paged else [stream(*first)]
    async with reflecting(*script) as r:
        await r.until(lambda: len(r.sizes()) == 2)
        assert not [record for record in r.informer._records.values() if b"managedFields" in record.raw]


class Failing:
    """A client whose watches fail at once, but for those that last as long as :attr:`peace` says and are cut then."""

    def __init__(self, error: ApiError | None = None) -> None:
        self.error = error or Unavailable(0, "NoAnswer", "connection refused")
        self.transport = self
        self.tries: list[float] = []
        self.peace = 0.0

    @asynccontextmanager
    async def stream(self, *_: object, **__: object) -> AsyncIterator[AsyncIterator[bytes]]:
        self.tries.append(asyncio.get_running_loop().time())
        if self.peace:
            peace, self.peace = self.peace, 0.0
            yield self._watched(peace)
        raise self.error

    async def _watched(self, seconds: float) -> AsyncIterator[bytes]:
        yield bookmark(1, ends_list=True)
        await asyncio.sleep(seconds)
        raise self.error


def test_failures_double_the_wait_from_0_8_to_30_seconds_with_as_much_again_at_random_until_there_is_peace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body() -> None:
        monkeypatch.setattr(module, "BACKOFF_FIRST", FIRST)
        monkeypatch.setattr(module, "monotonic", asyncio.get_running_loop().time)
        client = Failing()
        reflector = Reflector(cast("Client", client), Informer(Widget), Scope())
        await asyncio.sleep(1000)
        task = asyncio.create_task(reflector.run())
        await asyncio.sleep(400)
        waits = [b - a for a, b in pairwise(client.tries)]
        for wait, least in zip(waits, [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30], strict=False):
            assert least <= wait <= 2 * least
        assert len(waits) >= 8
        assert len({round(wait, 3) for wait in waits[6:]}) > 1
        client.peace = 60.0
        await asyncio.sleep(180)
        assert max(b - a for a, b in pairwise(client.tries)) >= 90.0, "a minute of peace is not enough"
        client.peace = 300.0
        await asyncio.sleep(420)
        longest = max(b - a for a, b in pairwise(client.tries))
        assert 300.8 <= longest <= 301.6, "after two minutes of peace the first wait is the shortest again"
        task.cancel()
        await asyncio.wait([task])

    run_virtual(body)


def test_no_server_sends_a_watch_away_for_longer_than_five_minutes() -> None:
    async def body() -> None:
        error = TooManyRequests(429, "TooManyRequests", "come back next year")
        error.retry_after = 86400.0 * 365
        client = Failing(error)
        task = asyncio.create_task(Reflector(cast("Client", client), Informer(Widget), Scope()).run())
        await asyncio.sleep(1000)
        assert [b - a for a, b in pairwise(client.tries)] == [300.0] * 3
        task.cancel()
        await asyncio.wait([task])

    run_virtual(body)


def test_a_back_off_ends_when_the_server_is_known_to_answer_unless_it_asked_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BACKOFF_FIRST", 3600.0)
    monkeypatch.setattr(module, "BACKOFF_MAX", 3600.0)

    async def body() -> None:
        client = Failing()
        reflector = Reflector(cast("Client", client), Informer(Widget), Scope())
        task = asyncio.create_task(reflector.run())
        await asyncio.sleep(1)
        reflector.resume()
        await asyncio.sleep(1)
        assert client.tries == [0.0, 1.0]

        client.error = TooManyRequests(429, "TooManyRequests", "come back later")
        client.error.retry_after = 100.0
        reflector.resume()
        await asyncio.sleep(1)
        reflector.resume()
        await asyncio.sleep(1)
        assert client.tries == [0.0, 1.0, 2.0]
        reflector.relist()
        await asyncio.sleep(1)
        assert client.tries == [0.0, 1.0, 2.0, 4.0], "another server has not asked for it"
        task.cancel()
        await asyncio.wait([task])

    run_virtual(body)


async def test_a_server_that_has_nothing_to_say_twice_is_listed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was restored from a backup says nothing, not even a bookmark, to who asks for a version it has not reached."""
    monkeypatch.setattr(module, "SILENCE", 0.5)
    restored = stream(*listed("b", version=3), hold=False)
    async with reflecting(stream(*listed("a", version=500), hold=False), stream(), stream(), restored) as r:
        await r.until(lambda: r.sizes() == {"b": 1})
        assert [each.query.get("resourceVersion") for each in r.server.seen[:4]] == [None, "500", "500", None]
        assert r.informer.watched_version == 3
        assert (await r.server.requests(5))[4].query["resourceVersion"] == "3"


async def test_a_server_that_cannot_be_reached_is_not_listed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE", 0.5)

    async def no_answer(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    first = stream(*listed("a", version=5), hold=False)
    again = stream(event("MODIFIED", widget("a", 6, size=6)))
    async with reflecting(first, no_answer, no_answer, no_answer, again) as r:
        await r.until(lambda: r.sizes() == {"a": 6})
        assert r.reflector.stats.lists == 1


async def test_a_silent_stream_is_cut_and_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE", 0.5)
    later = stream(event("MODIFIED", widget("a", 6, size=6)))
    async with reflecting(stream(*listed("a", version=5)), stream(), later) as r:
        await r.until(lambda: r.sizes() == {"a": 6})
        assert r.reflector.stats.silent >= 2, "the stream that was a list, and one that is a watch"
        assert [each.query.get("resourceVersion") for each in r.server.seen[:3]] == [None, "5", "5"]


async def test_a_watch_that_ends_at_once_without_an_event_backs_off() -> None:
    empty = stream(hold=False)
    first = stream(*listed("a", version=5), hold=False)
    async with reflecting(first, empty, stream(event("MODIFIED", widget("a", 6, size=6)))) as r:
        await r.until(lambda: r.sizes() == {"a": 6})
        assert r.reflector.stats.failures == 1


NO_WIDGETS: list[Any] = [
    {"kind": "Status", "metadata": {}},
    {"kind": "Table"},
    widget("x", 6, kind="PartialObjectMetadata"),
    {"kind": "Widget", "metadata": {"name": "x", "resourceVersion": "latest"}},
    {"kind": "Widget", "metadata": {"name": "x"}},
    {"kind": "Widget", "metadata": {"resourceVersion": "5"}},
    [],
]


@pytest.mark.parametrize("line", [*(event("ADDED", each) for each in NO_WIDGETS), bookmark(cast("int", "latest"))])
async def test_what_is_no_object_of_the_kind_is_dropped(line: bytes) -> None:
    lines = [*listed("a", version=5), line, event("MODIFIED", widget("a", 6, size=6))]
    async with reflecting(stream(*lines)) as r:
        await r.until(lambda: r.sizes() == {"a": 6})
        assert r.reflector.stats.dropped == 1


@pytest.mark.parametrize("line", [*(event("ADDED", each) for each in NO_WIDGETS), bookmark(4)])
async def test_what_is_no_object_of_the_kind_is_dropped_from_the_first_list_too(line: bytes) -> None:
    async with reflecting(stream(line, *listed("a", version=5))) as r:
        await r.until(lambda: bool(r.sizes()))
        assert [str(key) for key in r.informer.keys()] == ["n/a"]  # noqa: SIM118  (an informer is no mapping)
        assert r.reflector.stats.dropped == (b"BOOKMARK" not in line)


async def test_what_is_nested_too_deeply_is_dropped_and_the_stream_goes_on() -> None:
    deep = b'{"type": "ADDED", "object": %b}\n' % too_deep("deep", 4)
    lines = [deep, *listed("a", version=5), deep, event("MODIFIED", widget("a", 6, size=6))]
    async with reflecting(stream(*lines)) as r:
        await r.until(lambda: r.sizes() == {"a": 6})
        assert (r.reflector.stats.dropped, r.reflector.stats.failures) == (2, 0)


async def test_what_is_no_object_of_the_kind_is_dropped_from_a_page_too() -> None:
    page = {"kind": "WidgetList", "metadata": {"resourceVersion": "5"}, "items": [*NO_WIDGETS, widget("a", 4)]}
    refuse = answer(lambda: status(422, "Invalid"))
    async with reflecting(refuse, answer(lambda: web.json_response(page)), stream()) as r:
        await r.until(lambda: bool(r.sizes()))
        assert [str(key) for key in r.informer.keys()] == ["n/a"]  # noqa: SIM118  (an informer is no mapping)
        assert r.reflector.stats.dropped == len(NO_WIDGETS)


@pytest.mark.parametrize(
    "none",
    [
        "<html>proxy</html>",
        '{"kind": "Status", "metadata": {}, "status": "Success"}',
        '{"kind": "Status", "metadata": {"resourceVersion": "4"}, "status": "Success"}',
        '{"metadata": {}, "items": []}',
        '{"metadata": {"resourceVersion": "soon"}}',
    ],
)
async def test_a_list_that_is_none_is_asked_for_again(none: str) -> None:
    page = {"metadata": {"resourceVersion": "5"}, "items": [widget("a", 4)]}
    refuse = answer(lambda: status(422, "Invalid"))
    proxy = answer(lambda: web.Response(text=none))
    async with reflecting(refuse, proxy, answer(lambda: web.json_response(page)), stream()) as r:
        await r.until(lambda: r.sizes() == {"a": 1})
        assert r.reflector.stats.failures == 1


async def test_a_stream_that_is_no_watch_is_left_and_tried_again() -> None:
    html = stream(*listed("a", version=5), b"<html>proxy</html>\n")
    async with reflecting(html, stream(event("MODIFIED", widget("a", 6, size=6)))) as r:
        await r.until(lambda: r.sizes() == {"a": 6})
