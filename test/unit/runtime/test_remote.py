"""The circuits of remote clusters in virtual time; their watches and credentials against servers that do as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web

from dpf.runtime import reflector, remote, transport
from dpf.runtime.client import Client
from dpf.runtime.cluster import Cache
from dpf.runtime.complaints import complaint
from dpf.runtime.errors import ClusterUnavailable, ConfigError, Unauthorized, Unavailable
from dpf.runtime.k8s import Node
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.log import RECONCILE
from dpf.runtime.meta import Key, ObjectMeta
from dpf.runtime.metrics import Metrics
from dpf.runtime.places import PLACES, Places
from dpf.runtime.remote import RemoteClusters
from dpf.runtime.testing import run_virtual
from test.unit.runtime.scripted import ScriptedServer, bookmark, event, serving, status
from test.unit.runtime.widgets import Widget, widget

ONE, TWO = Key("n", "one"), Key("n", "two")


@asynccontextmanager
async def keeping(metrics: Metrics | None = None) -> AsyncIterator[RemoteClusters]:
    """A registry that runs inside the block, and must not have ended by itself."""
    remotes = RemoteClusters(field_owner="test", metrics=metrics or Metrics())
    task = asyncio.create_task(remotes.run())
    await asyncio.sleep(0)
    try:
        yield remotes
        assert not task.done(), "no cluster may end the process"
    finally:
        task.cancel()
        await asyncio.wait([task])


# Circuits


class Servers:
    """API servers that only know their version. What is in :attr:`down` does not answer."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.broken: set[str] = set()
        """Asking these raises what nobody expects."""
        self.probes: list[tuple[str, float]] = []

    async def version(self, client: Client, *, timeout: float) -> dict[str, str]:
        server = client.transport.kubeconfig.server
        self.probes.append((server, _now()))
        if server in self.broken:
            raise TypeError("expected string")
        if server in self.down:
            await asyncio.sleep(timeout)
            raise Unavailable(0, "NoAnswer", f"{server}: no answer in time")
        return {"gitVersion": f"v1 of {server}"}


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Servers:
    """What all probes of the test reach."""
    known = Servers()

    async def server_version(client: Client, *, timeout: float) -> dict[str, str]:
        return await known.version(client, timeout=timeout)

    monkeypatch.setattr(Client, "server_version", server_version)
    return known


def _now() -> float:
    return round(asyncio.get_running_loop().time(), 3)


def test_a_circuit_opens_when_a_probe_fails_and_closes_when_one_succeeds(servers: Servers) -> None:
    async def body() -> None:
        told: list[tuple[Key, bool]] = []
        metrics = Metrics()
        async with keeping(metrics) as remotes:
            remotes.on_health(lambda key, ok: told.append((key, ok)))
            await remotes.connect(ONE, "uid", Kubeconfig("http://one"))
            with pytest.raises(ClusterUnavailable, match="no answer yet"):
                remotes.get(ONE)
            await asyncio.sleep(1)
            assert remotes.get(ONE).name == "n/one"
            assert remotes.health(ONE).version == "v1 of http://one"
            assert b'dpf_remote_cluster_up{cluster="n/one"} 1.0' in metrics.render()

            servers.down.add("http://one")
            await asyncio.sleep(70)
            with pytest.raises(ClusterUnavailable, match="no answer in time"):
                remotes.get(ONE)
            assert remotes.health(ONE).version == "v1 of http://one", "as last heard"
            assert b'dpf_remote_cluster_up{cluster="n/one"} 0.0' in metrics.render()

            servers.down.clear()
            await asyncio.sleep(40)
            assert remotes.get(ONE).name == "n/one"
        assert told == [(ONE, True), (ONE, False), (ONE, True)]

    run_virtual(body)


def test_an_open_circuit_is_probed_with_growing_waits_and_asked_by_nobody_else(servers: Servers) -> None:
    async def body() -> None:
        servers.down.add("http://one")
        async with keeping() as remotes:
            await remotes.connect(ONE, "uid", Kubeconfig("http://one"))
            await remotes.connect(ONE, "uid", Kubeconfig("http://one", token="other"))
            for _ in range(200):
                with pytest.raises(ClusterUnavailable):
                    remotes.get(ONE)
                remotes._members[ONE].observe("WATCH", 0, 0.1)  # its watches go on trying
                await asyncio.sleep(1)
        times = [moment for _, moment in servers.probes]
        waits = [round(b - a - remote.PROBE_TIMEOUT) for a, b in pairwise(times)]
        assert waits == [1, 2, 4, 8, 16, 30, 30, 30, 30][: len(waits)]
        assert len(waits) > 6

    run_virtual(body)


def test_a_closed_circuit_is_probed_once_a_minute(servers: Servers) -> None:
    async def body() -> None:
        async with keeping() as remotes:
            await remotes.connect(ONE, "uid", Kubeconfig("http://one"))
            await asyncio.sleep(30)
            remotes._members[ONE].observe("GET", 0, 0.1)
            await asyncio.sleep(571)
        assert [moment for _, moment in servers.probes] == [0, *range(30, 600, 60)], "and once after each lost answer"

    run_virtual(body)


def test_one_dead_cluster_delays_nobody_else(servers: Servers) -> None:
    async def body() -> None:
        servers.down.add("http://one")
        async with keeping() as remotes:
            started = _now()
            await remotes.connect(ONE, "uid", Kubeconfig("http://one"))
            await remotes.connect(TWO, "uid", Kubeconfig("http://two"))
            assert _now() == started, "connecting waits for no answer"
            await asyncio.sleep(0.01)
            assert remotes.get(TWO).name == "n/two"
            with pytest.raises(ClusterUnavailable):
                remotes.get(ONE)
            await asyncio.sleep(601)
        assert [moment for server, moment in servers.probes if server == "http://two"] == [60.0 * n for n in range(11)]

    run_virtual(body)


def test_the_same_again_changes_nothing_and_another_uid_is_another_cluster(servers: Servers) -> None:
    async def body() -> None:
        async with keeping() as remotes:
            await remotes.connect(ONE, "uid", Kubeconfig("http://one"))
            await asyncio.sleep(1)
            first = remotes.get(ONE)
            await remotes.connect(ONE, "uid", Kubeconfig("http://one"))
            await asyncio.sleep(1)
            assert remotes.get(ONE) is first
            assert len(servers.probes) == 1
            await remotes.connect(ONE, "another", Kubeconfig("http://one"))
            await asyncio.sleep(1)
            assert remotes.get(ONE) is not first

    run_virtual(body)


def test_credentials_that_cannot_be_used_leave_the_old_ones_in_place(servers: Servers) -> None:
    async def body() -> None:
        async with keeping() as remotes:
            await remotes.connect(ONE, "uid", Kubeconfig("https://one"))
            with pytest.raises(ConfigError):
                await remotes.connect(ONE, "uid", Kubeconfig("https://one", ca=b"no certificate"))
            with pytest.raises(ConfigError):
                await remotes.connect(TWO, "uid", Kubeconfig("https://two", ca=b"no certificate"))
            await asyncio.sleep(1)
            assert remotes.get(ONE).client.transport.kubeconfig.ca == b""
            assert remotes.keys() == [ONE]
        assert {server for server, _ in servers.probes} == {"https://one"}

    run_virtual(body)


def test_disconnecting_that_is_cut_short_forgets_it_all_the_same(servers: Servers) -> None:
    async def body() -> None:
        told: list[tuple[Key, bool]] = []
        metrics = Metrics()
        async with keeping(metrics) as remotes:
            remotes.on_health(lambda key, ok: told.append((key, ok)))
            await remotes.connect(ONE, "uid", Kubeconfig("http://one"))
            await asyncio.sleep(1)
            disconnecting = asyncio.create_task(remotes.disconnect(ONE))
            await asyncio.sleep(0)
            disconnecting.cancel()
            await asyncio.wait([disconnecting])
            assert disconnecting.cancelled()
            assert told == [(ONE, True), (ONE, False)]
            assert b"n/one" not in metrics.render()
            await asyncio.sleep(120)
        assert len(servers.probes) == 1

    run_virtual(body)


def test_a_certificate_that_cannot_be_read_does_not_keep_it_from_saying_what_is_wrong() -> None:
    refused = Unauthorized(401, "Unauthorized", "who are you?")
    why = complaint(refused, Kubeconfig("https://one", cert=b"no certificate"))
    assert why.startswith("https://one does not let us in")


def test_a_cluster_is_connected_by_a_registry_that_runs() -> None:
    async def body() -> None:
        with pytest.raises(RuntimeError, match="before their manager ran them"):
            await RemoteClusters(field_owner="test", metrics=Metrics()).connect(ONE, "uid", Kubeconfig("http://one"))

    run_virtual(body)


# Watches and credentials


class RemoteServer(ScriptedServer):
    """An API server with one widget. It lets in whoever shows :attr:`token`, and shows further lines of its watch when told."""

    def __init__(self, token: str = "t") -> None:
        super().__init__(self._answer)
        self.token = token
        self.cut = False
        """Every connection is reset."""
        self.silent = False
        """Nothing is answered."""
        self.version: Callable[[], web.Response] = lambda: web.json_response({"gitVersion": "v1"})
        self.lines: list[bytes] = []
        self.watching = 0
        self._changed = asyncio.Condition()

    async def say(self, line: bytes) -> None:
        """The watches that run, and those to come, show one line more."""
        self.lines.append(line)
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
            await asyncio.Event().wait()
        if self.cut:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return status(401, "Unauthorized", "who are you?")
        if request.path == "/version":
            return self.version()
        if request.method != "GET":
            return web.json_response(widget("made", 90))
        return await self._watch(request)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if "sendInitialEvents" in request.query:
            kind = "Node" if request.path.endswith("nodes") else "Widget"
            for line in (event("ADDED", widget("a", 5, kind=kind)), bookmark(5, ends_list=True)):
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
def _impatient(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "servers" not in request.fixturenames:
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
        assert not [each for each in told if "nobody expected" in each]


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
        assert f'host="{held.client.transport.host}"'.encode() not in metrics.render()
        assert f'host="{client.transport.host}"'.encode() in metrics.render()
        assert ONE not in w.remotes
        assert other.watching == 1, "nobody else is disturbed"
        await w.remotes.disconnect(ONE)


@pytest.mark.parametrize("where", ["probe", "watch", "listener"])
def test_an_error_that_nobody_expected_is_one_clusters_trouble_and_is_tried_again(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    broken = True

    async def fails(*_: object, **__: object) -> None:
        if broken:
            raise TypeError("expected string")
        await asyncio.Event().wait()

    async def body() -> None:
        nonlocal broken
        async with keeping() as remotes:
            if where == "listener":
                remotes.on_health(lambda key, _: [][0])
            await remotes.connect(TWO, "uid", Kubeconfig("http://two"))
            await asyncio.sleep(0.1)
            if where == "probe":
                servers.broken.add("http://one")
            elif where == "watch":
                monkeypatch.setattr(Cache, "run", fails)
            await remotes.connect(ONE, "uid", Kubeconfig("http://one"))
            await asyncio.sleep(100)
            assert remotes.get(TWO).name == "n/two"
            if where == "listener":
                assert remotes.health(ONE).ok
                return
            with pytest.raises(ClusterUnavailable, match="nobody expected, TypeError: the manager's log has it"):
                remotes.get(ONE)
            tries = len([server for server, _ in servers.probes if server == "http://one"])
            assert tries < 12, "with growing waits"
            broken = False
            servers.broken.clear()
            await asyncio.sleep(40)
            assert remotes.get(ONE).name == "n/one"

    run_virtual(body)


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
