"""The circuits of remote clusters in virtual time."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from dpf.runtime import remote
from dpf.runtime.client import Client
from dpf.runtime.cluster import Cache
from dpf.runtime.complaints import complaint
from dpf.runtime.errors import ClusterUnavailable, ConfigError, Unauthorized, Unavailable
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import Key
from dpf.runtime.metrics import Metrics
from dpf.runtime.remote import RemoteClusters
from dpf.runtime.testing import run_virtual
from test.unit.runtime.remotes import ONE, TWO, keeping


class Servers:
    """API servers that only know their version. What is in :attr:`down` does not answer."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.broken: set[str] = set()
        """Asking these raises what nobody expects."""
        self.probes: list[tuple[str, float]] = []
        self.release = "v1"

    async def version(self, client: Client, *, timeout: float) -> dict[str, str]:
        server = client.transport.kubeconfig.server
        self.probes.append((server, now()))
        if server in self.broken:
            raise TypeError("expected string")
        if server in self.down:
            await asyncio.sleep(timeout)
            raise Unavailable(0, "NoAnswer", f"{server}: no answer in time")
        return {"gitVersion": f"{self.release} of {server}"}


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Servers:
    """What all probes of the test reach."""
    known = Servers()

    async def server_version(client: Client, *, timeout: float) -> dict[str, str]:
        return await known.version(client, timeout=timeout)

    monkeypatch.setattr(Client, "server_version", server_version)
    return known


def now() -> float:
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


def test_another_version_of_a_cluster_that_stays_healthy_is_told(servers: Servers) -> None:
    async def body() -> None:
        told: list[tuple[bool, str]] = []
        async with keeping() as remotes:
            remotes.on_health(lambda key, ok: told.append((ok, remotes.health(key).version)))
            await remotes.connect(ONE, "uid", Kubeconfig("http://one"))
            await asyncio.sleep(130)
            servers.release = "v2"
            await asyncio.sleep(130)
        assert told == [(True, "v1 of http://one"), (True, "v2 of http://one")], "each once"

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
            started = now()
            await remotes.connect(ONE, "uid", Kubeconfig("http://one"))
            await remotes.connect(TWO, "uid", Kubeconfig("http://two"))
            assert now() == started, "connecting waits for no answer"
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
