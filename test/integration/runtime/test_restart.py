"""An API server that is killed and comes back, under watches, leases and tokens; and credentials that change. Real ones, of this
module's own: nobody else's tests notice."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import orjson
import pytest

from dpf.runtime import credentials, reflector, remote, transport
from dpf.runtime.client import Client
from dpf.runtime.cluster import Cluster
from dpf.runtime.controller import Controller, For
from dpf.runtime.errors import ApiError, ClusterUnavailable, Unauthorized
from dpf.runtime.informer import Change
from dpf.runtime.k8s import ConfigMap, ServiceAccount
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.manager import Manager
from dpf.runtime.meta import Key, ObjectMeta
from dpf.runtime.metrics import Metrics
from dpf.runtime.options import ManagerOptions, Seconds
from dpf.runtime.remote import RemoteClusters
from dpf.runtime.testing import RETRY
from dpf.sandbox import processes
from dpf.sandbox.controlplane import binaries
from dpf.sandbox.controlplane.plane import ClusterPlane
from dpf.sandbox.controlplane.planes import ControlPlanes
from dpf.sandbox.controlplane.running import START_TIMEOUT, supervised
from dpf.sandbox.processes import Supervised

NAMESPACE = "default"
AWAY = remote.PROBE_TIMEOUT + 1.0
"""Seconds in which a probe fails, however slow the network is."""


class Server:
    """An API server on an etcd, and its administrator."""

    def __init__(self, plane: ClusterPlane, process: Supervised, client: Client) -> None:
        self.plane, self.client = plane, client
        self._process = process

    async def restart(self, away: float = processes.FIRST_BACKOFF) -> None:
        """Kills it as a power cut would, and returns when it serves again.

        :param away: seconds after which it is started again at the earliest.
        """
        self._process.restarts = 0
        pid = self._process.pid
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(processes, "FIRST_BACKOFF", away)
            assert self._process.kill()
            async with asyncio.timeout(START_TIMEOUT):
                while self._process.pid in {pid, None}:
                    await asyncio.sleep(RETRY)
        await self._process.wait_ready(START_TIMEOUT)

    async def token(self, account: str) -> str:
        """A new token of the ServiceAccount, which is made if need be and may do anything."""
        meta = ObjectMeta(name=account, namespace=NAMESPACE)
        obj = await self.client.create(ServiceAccount(metadata=meta))
        binding = {
            "metadata": {"name": account},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
        }
        await self.client.request("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", body=binding)
        path = obj.RESOURCE.path(obj.namespace, obj.name, "token")
        answer = await self.client.request("POST", path, body={"spec": {"expirationSeconds": 3600}})
        token: str = orjson.loads(answer)["status"]["token"]
        return token

    def with_token(self, file: Path) -> Kubeconfig:
        """Whoever shows the token in that file."""
        return Kubeconfig(self.plane.url, ca=self.plane.ca, token_file=file)


@asynccontextmanager
async def _running(*processes: Supervised) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(process.run()) for process in processes]
    try:
        await asyncio.gather(*(process.wait_ready(START_TIMEOUT) for process in processes))
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@asynccontextmanager
async def _running_after(*processes: Supervised) -> AsyncIterator[None]:
    """Each needs the one before it, and ends before it."""
    async with AsyncExitStack() as stack:
        for process in processes:
            await stack.enter_async_context(_running(process))
        yield


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """One etcd and one API server, nothing else."""
    planes = ControlPlanes(tmp_path_factory.mktemp("restart"), binaries.ensure())
    planes.prepare()
    [etcd], [host, _], _ = planes.stages()
    api = supervised(host)
    admin = Client(Kubeconfig.load(planes.host.admin_kubeconfig), field_owner="test")
    async with _running(supervised(etcd)), _running(api), admin as client:
        await eventually_there(client)
        yield Server(planes.host, api, client)


async def eventually_there(client: Client) -> None:
    """The namespace ``default`` is made by the API server itself, a moment after it says that it is ready."""
    async with asyncio.timeout(START_TIMEOUT):
        while True:
            try:
                await client.request("GET", f"/api/v1/namespaces/{NAMESPACE}")
            except ApiError:
                await asyncio.sleep(RETRY)
            else:
                return


def own(name: str) -> str:
    """A name that nobody has used yet: the server outlives a test that is run once more."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


def config_map(name: str, **data: str) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, namespace=NAMESPACE), data=data)


class Told:
    """What an informer's handlers were told from now on."""

    def __init__(self, cluster: Cluster) -> None:
        self.changes: list[tuple[str, str]] = []
        self._changed = asyncio.Event()
        cluster.cache[ConfigMap].add_handler(self._tell)
        self.changes.clear()

    def _tell(self, change: Change[ConfigMap]) -> None:
        if change.key.name != "kube-root-ca.crt":
            self.changes.append((change.type, change.key.name))
            self._changed.set()

    async def of(self, kind: str, name: str) -> None:
        """Returns once it was told of that."""
        async with asyncio.timeout(60):
            while (kind, name) not in self.changes:
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def caching(client: Client) -> AsyncIterator[Cluster]:
    """A cache of ConfigMaps, filled."""
    cluster = Cluster("host", client, namespace=NAMESPACE)
    cluster.cache[ConfigMap]
    task = asyncio.create_task(cluster.cache.run())
    try:
        await cluster.cache.synced(timeout=30)
        yield cluster
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_watch_outlives_a_restart_and_tells_nothing_but_what_changed(server: Server) -> None:
    before, after = own("before"), own("after")
    await server.client.create(config_map(before))
    async with (
        Client(server.client.transport.kubeconfig, field_owner="watcher") as watcher,
        caching(watcher) as cluster,
    ):
        told = Told(cluster)
        stats = cluster.cache.reflectors[ConfigMap].stats
        await server.restart()
        assert cluster.cache[ConfigMap].get(before, NAMESPACE) is not None, "what was known stays readable"
        await server.client.create(config_map(after))
        await told.of("ADDED", after)
        assert told.changes == [("ADDED", after)]
        assert stats.failures >= 1, "the metrics do notice"


@pytest.mark.timeout(300)  # three starts of a server
async def test_a_server_that_was_restored_from_a_backup_is_believed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its versions are older than those that the watch has seen. Asked to go on from there it says nothing, for hours."""
    monkeypatch.setattr(reflector, "SILENCE", 2.0)
    planes = ControlPlanes(tmp_path, binaries.ensure())
    planes.prepare()
    [etcd], [host, _], _ = planes.stages()

    def serving() -> AbstractAsyncContextManager[None]:
        return _running_after(supervised(etcd), supervised(host))

    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            Client(Kubeconfig.load(planes.host.admin_kubeconfig), field_owner="test")
        )
        async with serving():
            await eventually_there(client)
            kept = await client.create(config_map("kept", of="the backup"))
        shutil.copytree(tmp_path / "etcd", tmp_path / "backup")
        async with serving():
            watcher = Client(client.transport.kubeconfig, field_owner="watcher")
            cluster = await stack.enter_async_context(caching(await stack.enter_async_context(watcher)))
            told = Told(cluster)
            await client.merge_patch(kept, {"data": {"of": "later"}})
            for number in range(200):
                await client.create(config_map(f"lost-{number}"))
            await told.of("ADDED", "lost-199")
        shutil.rmtree(tmp_path / "etcd")
        (tmp_path / "backup").rename(tmp_path / "etcd")
        ahead = cluster.cache[ConfigMap].watched_version
        async with serving():
            told.changes.clear()
            await client.create(config_map("after"))
            await told.of("ADDED", "after")
            now = cluster.cache[ConfigMap]
            assert now.watched_version < ahead
            assert sorted(each.name for each in now.list()) == ["after", "kept"]
            assert now.get("kept", NAMESPACE).data == {"of": "the backup"}  # type: ignore[union-attr]
            assert ("DELETED", "lost-199") in told.changes


async def test_a_leading_manager_outlives_a_restart(server: Server) -> None:
    name, first, second = own("manager"), own("first"), own("second")
    done: dict[str, asyncio.Event] = {name: asyncio.Event() for name in (first, second)}

    class Reconciler:
        async def reconcile(self, obj: ConfigMap) -> None:
            if obj.name in done:
                await server.client.merge_patch(obj, {"data": {"done": "yes"}})
                done[obj.name].set()

    options = ManagerOptions(
        namespace=NAMESPACE,
        leader_elect=True,
        leader_elect_namespace=NAMESPACE,
        leader_elect_lease_duration=Seconds(40),
        leader_elect_renew_deadline=Seconds(30),
        leader_elect_retry_period=Seconds(0.2),  # renewals do meet the outage
        metrics_bind_address="0",
        health_probe_bind_address="0",
    )
    async with Client(server.client.transport.kubeconfig, field_owner="manager") as client:
        metrics = Metrics()
        manager = Manager(name, Cluster("host", client, namespace=NAMESPACE), options, metrics)
        manager.add(Controller("config-map", Reconciler(), watches=[For(ConfigMap)]))
        task = asyncio.create_task(manager.run())
        try:
            await server.client.create(config_map(first))
            await asyncio.wait_for(done[first].wait(), 30)
            await server.restart()
            await server.client.create(config_map(second))
            await asyncio.wait_for(done[second].wait(), 60)
            assert metrics.leading == {name: True}
            assert not task.done()
        finally:
            manager.stop()
            await task


async def test_a_token_that_was_rotated_is_read_again_by_a_watch_that_resumes(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "TOKEN_FILE_AGE", 3600.0)  # not because it is old, but because it was refused
    token, early, rotated = tmp_path / "token", own("early"), own("rotated")
    token.write_text(await server.token(early))
    async with (
        Client(server.with_token(token), field_owner="rotating") as client,
        caching(client) as cluster,
    ):
        told = Told(cluster)
        stale = token.read_text()
        token.write_text(await server.token(own("late")))
        await server.client.delete(ServiceAccount(metadata=ObjectMeta(name=early, namespace=NAMESPACE)))
        # A server keeps for seconds that a token was good; one that has just started does not.
        await server.restart()
        refused = Kubeconfig(server.plane.url, ca=server.plane.ca, token=stale)
        async with Client(refused, field_owner="stale") as old:
            with pytest.raises(Unauthorized):
                await old.get(ConfigMap, "x", NAMESPACE)
        await server.client.create(config_map(rotated))
        await told.of("ADDED", rotated)
        assert (await client.get(ConfigMap, rotated, NAMESPACE)).name == rotated


async def test_a_remote_cluster_that_restarts_opens_and_closes_its_circuit_and_its_watches_go_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_TRIES", 1)  # else an outage this short is bridged
    monkeypatch.setattr(remote, "PROBE_INTERVAL", 0.2)
    monkeypatch.setattr(remote, "PROBE_RETRY", (0.2, 0.5))
    key, states = Key(NAMESPACE, "cluster"), asyncio.Queue[bool]()
    async with keeping() as remotes:
        remotes.add_kind(ConfigMap)
        remotes.on_health(lambda _, ok: states.put_nowait(ok))
        await remotes.connect(key, "uid", server.client.transport.kubeconfig)
        assert await asyncio.wait_for(states.get(), 30)
        told = Told(remotes.get(key))
        await server.restart(away=AWAY)
        assert not await asyncio.wait_for(states.get(), 30)
        while not await asyncio.wait_for(states.get(), 60):
            """Refusals of a server that starts have other words: those are told too."""
        created = own("remote")
        await server.client.create(config_map(created))
        await told.of("ADDED", created)
        assert told.changes == [("ADDED", created)]


async def test_a_client_certificate_is_changed_under_the_watches_of_a_remote_cluster(server: Server) -> None:
    key, healthy = Key(NAMESPACE, "cluster"), asyncio.Event()
    groups = ("system:masters",)
    nobody = Kubeconfig.load(server.plane.user_kubeconfig("nobody"))
    first, second = (Kubeconfig.load(server.plane.user_kubeconfig(name, groups)) for name in ("first", "second"))
    async with keeping() as remotes:
        remotes.add_kind(ConfigMap)
        remotes.on_health(lambda _, ok: healthy.set() if ok else None)
        await remotes.connect(key, "uid", first)
        await asyncio.wait_for(healthy.wait(), 30)
        cluster = remotes.get(key)
        assert await whoami(cluster.client) == "first"
        told, stats = Told(cluster), cluster.cache.reflectors[ConfigMap].stats
        watches = stats.watches
        await remotes.connect(key, "uid", second)
        assert await whoami(remotes.get(key).client) == "second"
        changed = own("changed")
        await server.client.create(config_map(changed))
        await told.of("ADDED", changed)
        assert told.changes == [("ADDED", changed)]
        assert stats.watches > watches, "the watch of the old certificate has ended"
        assert stats.lists == 1, "the new one went on where it was"

        await remotes.disconnect(key)
        healthy.clear()
        await remotes.connect(key, "uid", nobody)
        with pytest.raises(ClusterUnavailable):
            remotes.get(key)
        await remotes.connect(key, "uid", second)
        await asyncio.wait_for(healthy.wait(), 30)


async def whoami(client: Client) -> str:
    """The user that the server takes the client for."""
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    name: str = orjson.loads(await client.request("POST", path, body={}))["status"]["userInfo"]["username"]
    return name


@asynccontextmanager
async def keeping() -> AsyncIterator[RemoteClusters]:
    """A registry of remote clusters that runs."""
    remotes = RemoteClusters(field_owner="test", metrics=Metrics())
    task = asyncio.create_task(remotes.run())
    await asyncio.sleep(0)
    try:
        yield remotes
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])
