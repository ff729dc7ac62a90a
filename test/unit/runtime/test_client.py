"""The client on a bad day; what it does on good ones is tested on a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from dpf.runtime import finalizers
from dpf.runtime.client import Client, UnreadableObject, merge_diff
from dpf.runtime.errors import (
    AlreadyExists,
    ApiError,
    BadRequest,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from dpf.runtime.http1 import HttpConnections, Response
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import ObjectMeta
from dpf.runtime.testing import run_virtual
from test.unit.runtime.scripted import ScriptedServer, answer, serving, status, stream
from test.unit.runtime.widgets import Widget, WidgetStatus, widget


def ok(version: int = 1) -> web.Response:
    return web.json_response(widget("a", version))


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (400, "BadRequest", BadRequest),
        (401, "Unauthorized", Unauthorized),
        (403, "Forbidden", Forbidden),
        (404, "NotFound", NotFound),
        (409, "Conflict", Conflict),
        (409, "AlreadyExists", AlreadyExists),
        (410, "Gone", Gone),
        (422, "Invalid", Invalid),
        (429, "TooManyRequests", TooManyRequests),
        (500, "InternalError", Unavailable),
    ],
)
async def test_a_refusal_is_the_error_of_its_kind(code: int, reason: str, error: type[Exception]) -> None:
    refuse = answer(lambda: status(code, reason, "because", **{"Retry-After": "0"}))
    async with serving(ScriptedServer(refuse)) as client:
        with pytest.raises(error, match="because"):
            await client.create(Widget(metadata=ObjectMeta(name="a", namespace="n")))


async def test_429_is_waited_out_as_the_server_asks() -> None:
    busy = answer(lambda: status(429, "TooManyRequests", **{"Retry-After": "0"}))
    server = ScriptedServer(busy, busy, answer(ok))
    async with serving(server) as client:
        assert (await client.get(Widget, "a", "n")).name == "a"
    assert len(server.seen) == 3


class Busy:
    """Connections to a server that turns everything away."""

    def __init__(self, answer: Response) -> None:
        self.answer = answer
        self.tries: list[float] = []

    async def request(self, *_: object) -> Response:
        self.tries.append(asyncio.get_running_loop().time())
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [
        Response(429, {"retry-after": "7"}, b"{}"),
        Response(429, {}, b'{"kind": "Status", "details": {"retryAfterSeconds": 7}}'),
        Response(503, {"retry-after": "7"}, b"{}"),
    ],
)
def test_a_busy_server_is_left_alone_for_as_long_as_it_asks_and_after_five_tries(answer: Response) -> None:
    async def body() -> None:
        client, busy = Client(Kubeconfig("http://127.0.0.1:1"), field_owner="test"), Busy(answer)
        client.transport._connections = cast("HttpConnections", busy)
        with pytest.raises((TooManyRequests, Unavailable)):
            await client.create(Widget(metadata=ObjectMeta(name="a", namespace="n")))
        assert len(busy.tries) == 5
        assert all(7 <= later - earlier <= 8.4 for earlier, later in pairwise(busy.tries))

    run_virtual(body)


async def test_a_server_that_stays_busy_is_left_alone_after_five_tries() -> None:
    server = ScriptedServer(answer(lambda: status(429, "TooManyRequests", **{"Retry-After": "0"})))
    async with serving(server) as client:
        with pytest.raises(TooManyRequests):
            await client.get(Widget, "a", "n")
    assert len(server.seen) == 5


@pytest.mark.parametrize(
    ("code", "wait"), [(429, "31"), *((503, w) for w in ("31", "soon", "\u00b2", "9" * 400, "-1"))]
)
async def test_a_server_that_names_no_time_or_too_long_a_one_holds_nobody(code: int, wait: str) -> None:
    """Too long a wait is left to the caller, whose back-off knows what else there is to do."""

    async def busy(_: web.Request) -> web.StreamResponse:
        details = {"retryAfterSeconds": wait}
        return web.json_response({"kind": "Status", "code": code, "details": details}, status=code)

    server = ScriptedServer(busy, answer(ok))
    async with serving(server) as client:
        with pytest.raises((TooManyRequests, Unavailable)):
            await client.create(Widget(metadata=ObjectMeta(name="a", namespace="n")))
    assert len(server.seen) == 1


@pytest.mark.parametrize("body", ["<html>proxy</html>", "{}", '{"kind": "Status", "metadata": {}}', "[]", ""])
@pytest.mark.parametrize("what", ["get", "list", "create", "patch", "watch", "delete"])
async def test_what_is_no_answer_of_an_api_server_is_an_error_of_its_own(what: str, body: str) -> None:
    obj = Widget(metadata=ObjectMeta(name="a", namespace="n"))
    async with serving(ScriptedServer(answer(lambda: web.Response(text=body + "\n")))) as client:

        async def watch() -> None:
            async with aclosing(client.watch(Widget, "n")) as events:
                async for _ in events:
                    pass

        act: dict[str, Callable[[], Awaitable[object]]] = {
            "get": lambda: client.get(Widget, "a", "n"),
            "list": lambda: client.list(Widget, "n"),
            "create": lambda: client.create(obj),
            "patch": lambda: client.merge_patch(obj, {}),
            "watch": watch,
            "delete": lambda: client.delete(obj),
        }
        if (what == "delete" and "Status" in body) or (what == "watch" and not body):
            await act[what]()
        else:
            with pytest.raises(Unavailable, match="of an API server"):
                await act[what]()


async def test_a_watch_of_objects_that_do_not_change_is_kept_alive_by_bookmarks() -> None:
    bookmark = orjson.dumps({"type": "BOOKMARK", "object": widget("", 6)}) + b"\n"
    added = orjson.dumps({"type": "ADDED", "object": widget("a", 7)}) + b"\n"
    server = ScriptedServer(stream(bookmark, added))
    async with serving(server) as client, aclosing(client.watch(Widget, "n")) as events:
        assert (await anext(events))[0] == "ADDED"
    assert server.seen[0].query["allowWatchBookmarks"] == "true"


async def test_a_write_without_an_answer_is_not_sent_again() -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    server = ScriptedServer(cut)
    async with serving(server) as client:
        with pytest.raises(Unavailable):
            await client.create(Widget(metadata=ObjectMeta(name="a", namespace="n")))
    assert len(server.seen) == 1


async def test_a_read_is_sent_again_after_a_lost_connection_but_not_after_a_time_out() -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    server = ScriptedServer(cut, stream())
    async with serving(server) as client:
        with pytest.raises(Unavailable, match="no answer in time"):
            await client.server_version(timeout=2.0)
    assert len(server.seen) == 2


async def test_a_read_that_is_cut_by_the_end_of_its_client_fails_at_once_and_is_nobodys_fault() -> None:
    told: list[int] = []
    server = ScriptedServer(stream())
    async with serving(server) as client:
        client.transport.observer = lambda method, code, seconds: told.append(code)
        reading = asyncio.create_task(client.get(Widget, "a", "n"))
        await server.requests(1)
        await client.transport.__aexit__(None, None, None)
        with pytest.raises(Unavailable, match="given up") as caught:
            await reading
        assert caught.value.reason == "NoAnswer", "not what a second try is told"
        with pytest.raises(Unavailable, match="given up"):
            await client.get(Widget, "a", "n")
    assert told == []


@pytest.mark.parametrize("code", [302, 307])
async def test_a_watch_that_is_sent_elsewhere_is_refused_like_any_request(code: int) -> None:
    elsewhere = answer(lambda: web.Response(status=code, headers={"Location": "https://login.example"}))
    async with serving(ScriptedServer(elsewhere)) as client:
        for ask in (client.get(Widget, "a", "n"), anext(client.watch(Widget, "n"))):
            with pytest.raises(ApiError) as caught:
                await ask
            assert caught.value.status == code


async def test_nobody_listening_is_unavailable() -> None:
    async with Client(Kubeconfig(server="http://127.0.0.1:1"), field_owner="test") as client:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
            await client.create(Widget(metadata=ObjectMeta(name="a", namespace="n")))


async def test_a_rotated_token_is_read_again_after_a_401(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")

    async def check(request: web.Request) -> web.StreamResponse:
        if request.headers["Authorization"] == "Bearer new":
            return ok()
        token.write_text("new")
        return status(401, "Unauthorized")

    server = ScriptedServer(check)
    async with serving(server) as plain:
        config = Kubeconfig(server=plain.transport.kubeconfig.server, token_file=token)
        async with Client(config, field_owner="test") as client:
            assert (await client.get(Widget, "a", "n")).name == "a"


async def test_setting_the_status_that_is_there_sends_nothing() -> None:
    server = ScriptedServer(answer(ok))
    async with serving(server) as client:
        obj = Widget(metadata=ObjectMeta(name="a"), status=WidgetStatus(size=1))
        assert await client.status(obj).set(WidgetStatus(size=1)) is obj
        assert client.skipped_writes == 1
    assert server.seen == []


async def test_setting_a_status_sends_what_differs_locked_on_the_version_it_was_derived_from() -> None:
    server = ScriptedServer(answer(ok))
    async with serving(server) as client:
        obj = Widget(
            metadata=ObjectMeta(name="a", namespace="n", resource_version="7"),
            status=WidgetStatus(size=1, observed_generation=1),
        )
        await client.status(obj).set(WidgetStatus(size=2, observed_generation=1))
    [request] = server.seen
    assert request.path == "/apis/bench.dpf.dev/v1/namespaces/n/widgets/a/status"
    assert orjson.loads(await request.read()) == {"status": {"size": 2}, "metadata": {"resourceVersion": "7"}}


async def test_managed_fields_of_what_was_written_are_told_to_nobody() -> None:
    fat = widget("a", 1, managedFields=[{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}])
    told: list[bytes] = []
    async with serving(ScriptedServer(answer(lambda: web.json_response(fat)))) as client:
        client.written.append(lambda _, raw, *__: told.append(raw))
        await client.create(Widget(metadata=ObjectMeta(name="a", namespace="n")))
    assert [orjson.loads(each) for each in told] == [widget("a", 1)]


async def test_a_delete_of_what_is_gone_is_success_and_spares_a_namesake() -> None:
    server = ScriptedServer(answer(lambda: status(404, "NotFound")))
    async with serving(server) as client:
        await client.delete(Widget(metadata=ObjectMeta(name="a", namespace="n", uid="u")))
    assert orjson.loads(await server.seen[0].read())["preconditions"] == {"uid": "u"}


async def test_lists_are_read_in_pages() -> None:
    def page(names: str, more: str) -> web.Response:
        items = [widget(name, 1) for name in names]
        return web.json_response({"metadata": {"resourceVersion": "1", "continue": more}, "items": items})

    server = ScriptedServer(answer(lambda: page("ab", "token")), answer(lambda: page("c", "")))
    async with serving(server) as client:
        assert [w.name for w in await client.list(Widget, "n", labels="x=1")] == ["a", "b", "c"]
    assert [r.query.get("continue") for r in server.seen] == [None, "token"]
    assert server.seen[1].query["labelSelector"] == "x=1"


async def test_an_object_that_does_not_fit_its_model_says_where() -> None:
    async with serving(ScriptedServer(answer(lambda: web.json_response(widget("a", 1, size="big"))))) as client:
        with pytest.raises(UnreadableObject, match=r"Widget n/a cannot be read: spec\.size"):
            await client.get(Widget, "a", "n")


JSON = st.recursive(
    st.integers() | st.booleans() | st.text(max_size=3), lambda inner: st.dictionaries(st.sampled_from("abc"), inner)
)
OBJECTS = st.dictionaries(st.sampled_from("abcd"), JSON | st.lists(JSON, max_size=2))


@given(OBJECTS, OBJECTS)
def test_a_merge_patch_makes_the_old_into_the_new(old: dict[str, object], new: dict[str, object]) -> None:
    def apply(target: object, patch: object) -> object:  # RFC 7386, section 2
        if not isinstance(patch, dict):
            return patch
        result = dict(target) if isinstance(target, dict) else {}
        for key, value in patch.items():
            if value is None:
                result.pop(key, None)
            else:
                result[key] = apply(result.get(key), value)
        return result

    patch = merge_diff(old, new)
    assert apply(old, patch) == new
    assert (patch == {}) == (old == new)


@pytest.mark.parametrize(("details", "error"), [({}, Conflict), ({"causes": [{"field": "spec.size"}]}, Invalid)])
async def test_a_finalizer_that_somebody_else_moved_is_a_conflict_and_a_broken_rule_is_not(
    details: dict[str, Any], error: type[Exception]
) -> None:
    """As API servers answer: 422 for both, and only for the rule with details."""
    body = {"kind": "Status", "code": 422, "reason": "Invalid", "message": "rejected", "details": details}
    async with serving(ScriptedServer(answer(lambda: web.json_response(body, status=422)))) as client:
        with pytest.raises(error):
            await finalizers.remove(client, Widget.model_validate(widget("a", 1, finalizers=["x/y"])), "x/y")
