"""The watches and credentials of remote clusters over real connections."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from dpf.runtime import reflector, remote, transport
from dpf.runtime.errors import ClusterUnavailable, Unavailable
from dpf.runtime.k8s import Node
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.log import RECONCILE
from dpf.runtime.meta import Key, ObjectMeta
from dpf.runtime.metrics import Metrics
from dpf.runtime.places import PLACES, Places
from dpf.runtime.remote import RemoteClusters
from dpf.runtime.testing import RETRY
from test.unit.runtime.remotes import ONE, TWO, keeping
from test.unit.runtime.scripted import ScriptedServer, bookmark, event, gone, serving, status
from test.unit.runtime.widgets import Widget, widget


class RemoteServer(ScriptedServer):
    """An API server with one widget. It lets in whoever shows :attr:`token`, and shows further lines of its watch when told."""

    def __init__(self, token: str = "t") -> None:
        super().__init__(self._answer)
        self.token = token
        self.holds = "a"
        """The widget's name."""
        self.cut = False
        """Every connection is reset."""
        self.silent = False
        """Nothing is answered, until :meth:`speak`."""
        self.busy = False
        """Lists and watches are refused."""
        self.compacted = False
        """A watch that would go on is opened, and told that its version is gone when the server is asked for its own next."""
        self.relisted = asyncio.Event()
        """After that, the server has been asked for a list; its version it tells no sooner."""
        self.relisted.set()
        self.version: Callable[[], web.Response] = lambda: web.json_response({"gitVersion": "v1"})
        self.lines: list[bytes] = []
        self.watching = 0
        self._changed = asyncio.Condition()

    async def say(self, line: bytes) -> None:
        """The watches that run, and those to come, show one line more."""
        self.lines.append(line)
        async with self._changed:
            self._changed.notify_all()

    async def speak(self) -> None:
        """Is silent no more."""
        self.silent = False
        async with self._changed:
            self._changed.notify_all()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns when it holds; looked at whenever a watch began or ended, or a request came."""
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(holds)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        async with self._changed:
            self._changed.notify_all()
        if self.silent:
            async with self._changed:
                await self._changed.wait_for(lambda: not self.silent)
        if self.cut:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return status(401, "Unauthorized", "who are you?")
        if request.path == "/version":
            await self.relisted.wait()
            return self.version()
        if request.method != "GET":
            return web.json_response(widget("made", 90))
        if self.busy:
            return status(503, "ServiceUnavailable", "come back later")
        return await self._watch(request)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if self.compacted and "sendInitialEvents" not in request.query:
            self.relisted.clear()
            await response.write(b"\n")
            asked = len(self.seen)
            await self.until(lambda: any(each.path == "/version" for each in self.seen[asked:]))
            await response.write(gone())
            return response
        self.relisted.set()
        if "sendInitialEvents" in request.query:
            kind = "Node" if request.path.endswith("nodes") else "Widget"
            for line in (event("ADDED", widget(self.holds, 5, kind=kind)), bookmark(5, ends_list=True)):
                await response.write(line)
        await self._count(1)
        sent = 0
        try:
            while True:
                for line in self.lines[sent:]:
                    await response.write(line)
                sent = len(self.lines)
                async with self._changed:
                    while len(self.lines) == sent:
                        await self._changed.wait()
        finally:
            await asyncio.shield(self._count(-1))

    async def _count(self, change: int) -> None:
        self.watching += change
        async with self._changed:
            self._changed.notify_all()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "BACKOFF_FIRST", 0.01)
    monkeypatch.setattr(remote, "PROBE_RETRY", (0.01, 0.05))
    monkeypatch.setattr(transport, "MAX_TRIES", 1)


class Watching:
    """A registry with one cluster, what it said of health and what its watch told."""

    def __init__(self, remotes: RemoteClusters, server: RemoteServer, kubeconfig: Kubeconfig) -> None:
        self.remotes, self.server, self.kubeconfig = remotes, server, kubeconfig
        self.told: list[tuple[str, str]] = []
        self.healthy = asyncio.Event()
        self.ill = asyncio.Event()
        self.changed = asyncio.Event()
        remotes.on_health(self._health)
        remotes.add_handler(Widget, lambda _: lambda change: self._tell(change.type, change.key.name))

    def _health(self, _: Key, ok: bool) -> None:
        now, before = (self.healthy, self.ill) if ok else (self.ill, self.healthy)
        now.set()
        before.clear()

    def _tell(self, kind: str, name: str) -> None:
        self.told.append((kind, name))
        self.changed.set()

    async def tells(self, kind: str, name: str) -> None:
        async with asyncio.timeout(20):
            while (kind, name) not in self.told:
                self.changed.clear()
                await self.changed.wait()

    async def connect(self, token: str, **more: Any) -> None:
        await self.remotes.connect(ONE, "uid", Kubeconfig(self.kubeconfig.server, token=token, **more))


async def becomes(state: asyncio.Event) -> None:
    await asyncio.wait_for(state.wait(), 20)


async def refusal(w: Watching) -> str:
    """Why the circuit is open, once it is."""
    await becomes(w.ill)
    with pytest.raises(ClusterUnavailable) as caught:
        w.remotes.get(ONE)
    return str(caught.value)


@asynccontextmanager
async def watching(metrics: Metrics | None = None) -> AsyncIterator[Watching]:
    server = RemoteServer()
    async with serving(server) as client, keeping(metrics) as remotes:
        yield Watching(remotes, server, client.transport.kubeconfig)


async def test_a_request_without_an_answer_has_the_cluster_probed_at_once() -> None:
    async with watching() as w:
        await w.connect("t")
        await becomes(w.healthy)
        cluster = w.remotes.get(ONE)
        w.server.cut = True
        with pytest.raises(Unavailable):
            await cluster.client.create(Widget(metadata=ObjectMeta(name="made", namespace="n")))
        await becomes(w.ill)
        asked = len(w.server.seen)
        with pytest.raises(ClusterUnavailable):
            w.remotes.get(ONE)
        assert len(w.server.seen) == asked, "whoever is refused by the circuit asks nothing"
        w.server.cut = False
        await becomes(w.healthy)


async def test_a_cluster_that_falls_silent_under_a_reconcile_is_probed_at_once_and_holds_no_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert remote.SILENCE == 2.0
    monkeypatch.setattr(remote, "SILENCE", 0.05)
    monkeypatch.setattr(remote, "PROBE_TIMEOUT", 0.2)
    async with watching() as w:
        await w.connect("t")
        await becomes(w.healthy)
        w.server.silent = True
        lent = asyncio.Event()
        # As in a worker; nobody else waits for a cluster in a controller's name.
        PLACES.set(Places(lent.set))
        asking = asyncio.create_task(w.remotes.get(ONE).client.get(Widget, "a", "n"))
        PLACES.set(None)
        await becomes(lent)
        await becomes(w.ill)
        assert not asking.done()
        asking.cancel()


async def test_caches_are_filled_before_a_circuit_closes() -> None:
    async with watching() as w:
        w.remotes.on_health(lambda _, ok: w.told.append(("HEALTH", str(ok))))
        await w.connect("t")
        await becomes(w.healthy)
        assert w.told == [("ADDED", "a"), ("HEALTH", "True")]
        assert [each.name for each in w.remotes.get(ONE).cache[Widget].list()] == ["a"]


async def test_new_credentials_are_used_by_the_running_watches_which_resume_where_they_were() -> None:
    async with watching() as w:
        await w.connect("t")
        await becomes(w.healthy)
        cache = w.remotes.get(ONE).cache
        w.server.token = "rotated"
        await w.connect("rotated")
        await w.server.until(lambda: len(w.server.seen) > 2 and w.server.watching == 1)
        await w.server.say(event("MODIFIED", widget("a", 6, size=6)))
        await w.tells("MODIFIED", "a")
        assert w.told == [("ADDED", "a"), ("MODIFIED", "a")]
        assert w.remotes.get(ONE).cache is cache
        assert cache.reflectors[Widget].stats.lists == 1
        last = [each for each in w.server.seen if "watch" in each.query][-1]
        assert last.query["resourceVersion"] == "5"
        assert last.headers["Authorization"] == "Bearer rotated"


async def test_another_server_is_listed_anew_and_the_differences_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "BACKOFF_FIRST", 3600.0)
    async with watching() as w, serving(other := RemoteServer()) as client:
        other.holds = "b"
        await w.connect("t")
        await becomes(w.healthy)
        await w.remotes.connect(ONE, "uid", client.transport.kubeconfig)
        with pytest.raises(ClusterUnavailable, match="no answer yet"):
            w.remotes.get(ONE)  # its client is of the one, its cache of the other
        assert not w.remotes.health(ONE).heard
        assert w.ill.is_set()
        await becomes(w.healthy)
        assert w.remotes.health(ONE).heard
        assert w.told == [("ADDED", "a"), ("DELETED", "a"), ("ADDED", "b")]
        cluster = w.remotes.get(ONE)
        assert [each.name for each in cluster.cache[Widget].list()] == ["b"]
        assert cluster.client.transport.kubeconfig == client.transport.kubeconfig


async def cut_off(w: Watching) -> None:
    """The cluster's server is away, and both its circuit and its watch know; that waits out a back-off."""
    w.server.cut = True
    with pytest.raises(Unavailable):
        await w.remotes.get(ONE).client.create(Widget(metadata=ObjectMeta(name="made", namespace="n")))
    await becomes(w.ill)
    await w.server.until(lambda: w.server.watching == 0)


async def test_a_circuit_closes_when_the_watches_have_brought_what_they_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "BACKOFF_FIRST", 3600.0)
    async with watching() as w:
        await w.connect("t")
        await becomes(w.healthy)
        await cut_off(w)
        await w.server.say(event("MODIFIED", widget("a", 6, size=6)))
        w.server.cut = False
        await becomes(w.healthy)
        assert w.told == [("ADDED", "a"), ("MODIFIED", "a")]
        assert w.remotes.get(ONE).cache.reflectors[Widget].stats.lists == 1


async def test_so_when_they_have_to_be_listed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "BACKOFF_FIRST", 3600.0)
    async with watching() as w:
        await w.connect("t")
        await becomes(w.healthy)
        await cut_off(w)
        w.server.compacted, w.server.holds = True, "b"
        w.server.cut = False
        await becomes(w.healthy)
        assert w.told == [("ADDED", "a"), ("DELETED", "a"), ("ADDED", "b")]


async def test_a_cluster_whose_watch_fails_for_long_is_away_though_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PROBE_INTERVAL", 0.05)
    async with watching() as w:
        await w.connect("t")
        await becomes(w.healthy)
        monkeypatch.setattr(remote, "PROBE_TIMEOUT", 0.2)
        w.server.busy = True
        w.remotes.get(ONE).client.transport.end_streams()
        await becomes(w.ill)
        # A probe that had no time for its own question says that first; nothing tells of the next one's words.
        words = r"no whole list and watch of widgets.* within 0.2 s: .*come back later"
        async with asyncio.timeout(20):
            while not re.search(words, await refusal(w)):
                await asyncio.sleep(RETRY)
        w.server.busy = False
        await becomes(w.healthy)


async def test_a_cluster_that_gives_no_answer_has_its_watches_opened_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would wait for what a network that is back sends again after as long as it was away."""
    monkeypatch.setattr(remote, "PROBE_INTERVAL", 0.05)
    async with watching() as w:
        await w.connect("t")
        await becomes(w.healthy)
        await w.server.until(lambda: w.server.watching == 1)
        monkeypatch.setattr(remote, "PROBE_TIMEOUT", 0.2)
        w.server.silent = True
        await becomes(w.ill)
        await w.server.until(lambda: w.server.watching == 0)
        monkeypatch.setattr(remote, "PROBE_TIMEOUT", 5.0)
        await w.server.speak()
        await becomes(w.healthy)
        assert w.remotes.get(ONE).cache.reflectors[Widget].stats.lists == 1


async def test_an_address_that_no_cluster_has_any_more_is_no_longer_counted() -> None:
    metrics = Metrics()
    async with watching(metrics) as w, serving(other := RemoteServer()) as client:
        await w.connect("t")
        await becomes(w.healthy)
        old = w.kubeconfig.server.removeprefix("http://")
        w.healthy.clear()
        await w.remotes.connect(TWO, "uid", Kubeconfig(w.kubeconfig.server, token="t"))
        await becomes(w.healthy)
        await w.remotes.disconnect(TWO)
        assert f'host="{old}"'.encode() in metrics.render(), "one still has it"
        await w.remotes.connect(ONE, "uid", client.transport.kubeconfig)
        await other.until(lambda: other.watching == 1)
        assert f'host="{old}"'.encode() not in metrics.render()


async def test_refused_credentials_open_the_circuit_and_better_ones_close_it_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote, "PROBE_RETRY", (3600.0, 3600.0))
    monkeypatch.setattr(reflector, "BACKOFF_FIRST", 0.01)
    async with watching() as w:
        w.server.token = "right"
        await w.connect("wrong")
        await w.server.until(lambda: any(each.path == "/version" for each in w.server.seen))
        await w.server.until(lambda: "does not let us in" in w.remotes.health(ONE).message)
        await w.connect("right")
        await becomes(w.healthy)
        assert w.remotes.get(ONE).cache[Widget].get("a", "n") is not None


async def test_credentials_may_change_while_a_request_is_being_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_TRIES", 5)
    async with watching() as w:
        told: list[str] = []
        w.remotes.on_health(lambda key, _: told.append(w.remotes.health(key).message))
        w.server.cut = True
        await w.connect("t")
        await w.server.requests(2)
        # Probe and list wait for their second try, on the connection that goes now.
        await w.connect("t", tls_server_name="other")
        w.server.cut = False
        await becomes(w.healthy)
        assert told == [""], "that the old ones were given up says nothing of the new ones"


@pytest.mark.parametrize(
    "version",
    [
        lambda: web.Response(text="<html>a captive portal</html>"),
        lambda: web.json_response(["no", "version"]),
        lambda: status(500, "InternalError"),
    ],
)
async def test_a_cluster_that_answers_rubbish_is_away_and_ends_nobody(version: Callable[[], web.Response]) -> None:
    async with watching() as w:
        w.server.version = version
        await w.connect("t")
        await w.server.until(lambda: sum(each.path == "/version" for each in w.server.seen) > 2)
        with pytest.raises(ClusterUnavailable):
            w.remotes.get(ONE)
        w.server.version = lambda: web.json_response({"gitVersion": "v1"})
        await becomes(w.healthy)


async def test_disconnecting_stops_its_watches_and_forgets_it() -> None:
    metrics = Metrics()
    async with watching(metrics) as w, serving(other := RemoteServer()) as client:
        await w.connect("t")
        await becomes(w.healthy)
        w.healthy.clear()
        await w.remotes.connect(TWO, "uid", client.transport.kubeconfig)
        await becomes(w.healthy)
        await other.until(lambda: other.watching == 1)
        assert w.server.watching == 1
        held = w.remotes.get(ONE)
        await w.remotes.disconnect(ONE)
        await w.server.until(lambda: w.server.watching == 0)
        with pytest.raises(ClusterUnavailable, match="not connected"):
            w.remotes.get(ONE)
        await becomes(w.ill)
        assert b"n/one" not in metrics.render()
        with pytest.raises(Unavailable):
            await held.client.get(Widget, "a", "n")
        assert f'host="{held.client.transport.address}"'.encode() not in metrics.render()
        assert f'host="{client.transport.address}"'.encode() in metrics.render()
        assert ONE not in w.remotes
        assert other.watching == 1, "nobody else is disturbed"
        await w.remotes.disconnect(ONE)


async def test_a_cluster_is_kept_in_nobodys_name() -> None:
    """A reconcile connects it, and ends: lines and spans of its watches and probes are none of that reconcile's."""
    async with watching() as w:
        heard: list[object] = []
        w.remotes.on_health(lambda *_: heard.append(RECONCILE.get()))
        w.remotes.add_handler(Widget, lambda _: lambda _: heard.append(RECONCILE.get()))
        token = RECONCILE.set(("dpucluster", ONE, "id"))
        await w.connect("t")
        RECONCILE.reset(token)
        await becomes(w.healthy)
        token = RECONCILE.set(("dpucluster", ONE, "id"))
        nodes = w.remotes.get(ONE).cache[Node]
        RECONCILE.reset(token)
        nodes.add_handler(lambda _: heard.append(RECONCILE.get()))
        await asyncio.wait_for(nodes.synced.wait(), 20)
        assert heard == [None, None, None]


async def test_what_is_added_later_is_told_of_clusters_that_are_there() -> None:
    async with watching() as w:
        await w.connect("t")
        await becomes(w.healthy)
        late: list[tuple[Key, str]] = []
        w.remotes.add_handler(Widget, lambda key: lambda change: late.append((key, change.key.name)))
        assert late == [(ONE, "a")]
