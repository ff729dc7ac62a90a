"""Remote clusters: they come and go, and one that is away delays nobody else.

What it guarantees:

* A cluster is connected by key, uid and kubeconfig. The same again changes nothing; another kubeconfig changes the credentials
  under the running caches, which resume where they were. If it names another server or authority, that may be another cluster
  with its own objects: the circuit opens until everything is listed anew, and the differences are told. Another uid is another
  cluster.
* Every cluster has a circuit. It opens when a probe gets no answer; the probe runs once a minute, and at once when a request
  got none or a watch was refused. While it is open :meth:`RemoteClusters.get` refuses, so that no worker waits for a time-out;
  probing goes on with a back-off of 1 to 30 seconds. A probe that is answered has the watches resume at once, and it succeeds
  when all have: a circuit that is closed never shows what was before the outage. A watch that fails for long opens it too.
* A reconcile that waits for a cluster's answer takes no worker from others (:mod:`dpf.runtime.places`); waits it for longer than
  :data:`SILENCE`, the probe runs at once too.
* Whatever goes wrong with one cluster, and be it what nobody expected, is logged, shown as its health and tried again after a
  back-off: it ends neither the other clusters nor the process.
* Whoever registered by :meth:`RemoteClusters.on_health` is told of each opening and closing, and of whatever else changes in the
  health of a cluster: what is wrong with it, or the version of its server.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from contextlib import AsyncExitStack
from contextvars import Context
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dpf.runtime.client import Client
from dpf.runtime.cluster import Cluster
from dpf.runtime.complaints import complaint
from dpf.runtime.errors import ApiError, ClusterUnavailable, ConfigError
from dpf.runtime.holder import TaskHolder
from dpf.runtime.informer import Handler
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.log import get_logger, hidden
from dpf.runtime.meta import Key, Object, now
from dpf.runtime.metrics import Metrics
from dpf.runtime.places import PLACES, elsewhere
from dpf.runtime.reflector import until
from dpf.runtime.transport import RequestObserver, Transport

log = get_logger(__name__)

PROBE_INTERVAL = 60.0
PROBE_TIMEOUT = 5.0
SILENCE = 2.0
"""Seconds a request waits before it is found out whether the cluster is there: twice what API servers promise for 99 % of their
answers (Kubernetes' service level objectives)."""
PROBE_RETRY = (1.0, 30.0)
"""Seconds: first and longest wait between probes while the circuit is open."""
UNHEARD = "no answer yet"
"""The health of a cluster that has only just begun to be probed."""


@dataclass(frozen=True)
class Health:
    """What is known of a cluster. ``version`` is its server's, as last heard."""

    ok: bool
    message: str
    version: str = ""
    since: datetime | None = None

    @property
    def heard(self) -> bool:
        """Whether there was an answer yet, good or bad."""
        return self.message != UNHEARD


class _RemoteTransport(Transport):
    """Requests to a cluster that may fall silent while it is asked.

    :param suspect: set when a reconcile has waited for long.
    """

    def __init__(
        self, kubeconfig: Kubeconfig, *, user_agent: str, observer: RequestObserver, suspect: asyncio.Event
    ) -> None:
        super().__init__(kubeconfig, user_agent=user_agent, observer=observer)
        self._suspect = suspect

    async def request(self, *args: Any, **kwargs: Any) -> bytes:
        """See :meth:`Transport.request`."""
        send = super().request(*args, **kwargs)
        if PLACES.get() is None:
            return await send
        timer = asyncio.get_running_loop().call_later(SILENCE, self._suspect.set)
        try:
            async with elsewhere():
                return await send
        finally:
            timer.cancel()


class _Member:
    """One connected cluster."""

    def __init__(self, key: Key, uid: str, kubeconfig: Kubeconfig, field_owner: str, metrics: Metrics) -> None:
        self.key = key
        self.uid = uid
        self.kubeconfig = kubeconfig
        self.metrics = metrics
        self.suspect = asyncio.Event()
        """A request got no answer, or a watch was refused."""
        self.renewed = asyncio.Event()
        """The credentials are others than those of the last probe."""
        self.health = Health(ok=False, message=UNHEARD, since=now())
        self.client = Client(kubeconfig, field_owner=field_owner, transport=self.transport(kubeconfig, field_owner))
        self.cluster = Cluster(str(key), self.client)
        self.cluster.cache.on_unreadable = lambda kind, *_: metrics.decode_failed(kind.RESOURCE.kind)
        self.task: asyncio.Task[None] | None = None

    def transport(self, kubeconfig: Kubeconfig, field_owner: str) -> Transport:
        """A new one with these credentials."""
        agent = f"dpf/{field_owner}"
        return _RemoteTransport(kubeconfig, user_agent=agent, observer=self.observe, suspect=self.suspect)

    def observe(self, method: str, status: int, seconds: float) -> None:
        if self.task is not None and self.task.done():
            return  # Whoever still holds the client of a cluster that was disconnected.
        self.metrics.count_request(self.client.transport.address, method, status, seconds)
        if status == 0 or (method == "WATCH" and status == 403):
            self.suspect.set()

    def is_another(self, kubeconfig: Kubeconfig) -> bool:
        """Whether it names another server, or another authority for it: that may be another cluster."""
        return (self.kubeconfig.server, self.kubeconfig.ca) != (kubeconfig.server, kubeconfig.ca)

    async def opened(self, kubeconfig: Kubeconfig) -> Transport:
        """A transport with other credentials, to be used.

        :raises ConfigError: if they cannot be.
        """
        return await self.transport(kubeconfig, self.client.field_owner).__aenter__()

    async def use(self, kubeconfig: Kubeconfig, fresh: Transport) -> None:
        """Changes the credentials; the running watches end and resume with the new ones, elsewhere from a list."""
        if self.is_another(kubeconfig):
            self.cluster.cache.relist()
        stale, self.client.transport = self.client.transport, fresh
        self.kubeconfig = kubeconfig
        self.suspect.set()
        self.renewed.set()
        await stale.__aexit__(None, None, None)

    async def probe(self) -> str:
        """The server's version.

        :raises ApiError: if it does not answer, or does not let us in.
        :raises TimeoutError: if the caches do not follow it.
        """
        version = await self.client.server_version(timeout=PROBE_TIMEOUT)
        cache = self.cluster.cache
        if cache.resume():
            await cache.current(timeout=PROBE_TIMEOUT)
            # What a watch begins with that has just been opened is here by the time of another answer: what was missed, or
            # a 410, which has everything listed.
            version = await self.client.server_version(timeout=PROBE_TIMEOUT)
            await cache.current(timeout=PROBE_TIMEOUT)
        return version.get("gitVersion", "")


class RemoteClusters:
    """The registry. A runnable of the manager; not bound to leadership."""

    needs_leader = False

    def __init__(self, *, field_owner: str, metrics: Metrics) -> None:
        self._field_owner = field_owner
        self._metrics = metrics
        self._kinds: list[type[Object]] = []
        self._handlers: defaultdict[type[Object], list[Callable[[Key], Handler]]] = defaultdict(list)
        self._listeners: list[Callable[[Key, bool], None]] = []
        self._members: dict[Key, _Member] = {}
        self._holder = TaskHolder("clusters")

    async def run(self) -> None:
        """Keeps the clusters until cancelled."""
        await self._holder.run()

    # Set-up

    def add_kind(self, kind: type[Object]) -> None:
        """A kind to cache in every cluster."""
        if kind not in self._kinds:
            self._kinds.append(kind)
            for member in self._members.values():
                member.cluster.cache[kind]

    def add_handler(self, kind: type[Object], make: Callable[[Key], Handler]) -> None:
        """Calls the handler that ``make`` gives for a cluster with every change of the kind there."""
        self.add_kind(kind)
        self._handlers[kind].append(make)
        for member in self._members.values():
            member.cluster.cache[kind].add_handler(make(member.key))

    def on_health(self, listener: Callable[[Key, bool], None]) -> None:
        """Tells the listener whenever a cluster's circuit opens (False) or closes (True), and how it is whenever the rest of
        its health is another than before. That one with a closed circuit is disconnected is told as an opening."""
        if listener not in self._listeners:
            self._listeners.append(listener)

    # Clusters

    async def connect(self, key: Key, uid: str, kubeconfig: Kubeconfig) -> None:
        """Makes the cluster known, or changes how it is reached. Returns without waiting for an answer.

        :raises ConfigError: if the credentials cannot be used.
        :raises RuntimeError: if the registry is not being run.
        """
        member = self._members.get(key)
        if member is not None and member.uid == uid:
            if member.kubeconfig != kubeconfig:
                address = member.client.transport.address
                fresh = await member.opened(kubeconfig)
                if member.is_another(kubeconfig):
                    # What is cached is of the cluster before: nobody may find it beside the client of the new one.
                    self._set(member, Health(ok=False, message=UNHEARD))
                await member.use(kubeconfig, fresh)
                self._forget_host(address)
                log.info("cluster_credentials_changed", cluster=str(key))
            return
        group = self._holder.group
        await self.disconnect(key)
        member = _Member(key, uid, kubeconfig, self._field_owner, self._metrics)
        await member.client.__aenter__()
        for kind in self._kinds:
            informer = member.cluster.cache[kind]
            for make in self._handlers[kind]:
                informer.add_handler(make(key))
        self._members[key] = member
        # In no reconcile's name: its lines and spans end with it.
        member.task = group.create_task(self._keep(member), name=f"cluster {key}", context=Context())
        log.info("cluster_connected", cluster=str(key), server=kubeconfig.server)

    async def disconnect(self, key: Key) -> None:
        """Forgets the cluster; that it is not known is fine."""
        member = self._members.pop(key, None)
        if member is None or member.task is None:
            return
        member.task.cancel()
        # Before anything is waited for: whoever disconnects it may be cut short, and nobody would come back to it.
        self._metrics.forget_cluster(str(key))
        if member.health.ok:
            self._tell(key, ok=False)
        await asyncio.wait([member.task])
        self._forget_host(member.client.transport.address)
        log.info("cluster_disconnected", cluster=str(key))

    def _forget_host(self, address: str) -> None:
        if all(member.client.transport.address != address for member in self._members.values()):
            self._metrics.forget_host(address)

    def __contains__(self, key: Key) -> bool:
        return key in self._members

    def keys(self) -> list[Key]:
        """The clusters that are connected, whatever their health."""
        return sorted(self._members)

    def get(self, key: Key) -> Cluster:
        """The cluster, to be used now.

        :raises ClusterUnavailable: if it is not connected, its circuit is open, or its caches are not filled yet.
        """
        member = self._members.get(key)
        if member is None:
            raise ClusterUnavailable(str(key), f"cluster {key} is not connected")
        if not member.health.ok:
            raise ClusterUnavailable(str(key), f"cluster {key}: {member.health.message}")
        return member.cluster

    def health(self, key: Key) -> Health:
        """What is known of the cluster's health."""
        member = self._members.get(key)
        return member.health if member is not None else Health(ok=False, message="not connected")

    # Keeping one

    async def _keep(self, member: _Member) -> None:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(lambda: member.client.__aexit__(None, None, None))
            wait = PROBE_RETRY[0]
            while True:
                started = _time()
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(member.cluster.cache.run())
                        await self._watch_health(member)
                except Exception as error:  # one cluster's trouble is never the end of others
                    log.exception("cluster_failed", cluster=str(member.key), exc_info=error)
                    why = f"an error that nobody expected, {_named(error)}: the manager's log has it; it is tried again"
                    self._set(member, Health(ok=False, message=why, version=member.health.version))
                if _time() - started > PROBE_INTERVAL:
                    wait = PROBE_RETRY[0]
                pause, wait = wait, min(2 * wait, PROBE_RETRY[1])
                await until(member.renewed, pause)

    async def _watch_health(self, member: _Member) -> None:
        wait = PROBE_RETRY[0]
        while True:
            member.suspect.clear()
            member.renewed.clear()
            lost = False
            try:
                version = await member.probe()
            except (ApiError, ConfigError, TimeoutError) as error:
                why = complaint(error, member.kubeconfig)
                health = Health(ok=False, message=why, version=member.health.version)
                lost = isinstance(error, ApiError) and error.status == 0
            else:
                health = Health(ok=True, message="", version=version)
            if member.renewed.is_set():
                continue  # Asked with credentials that are used no more.
            if lost and member.health.ok:
                # Its watches may be as dead; they would notice late, or be late with what they missed when it is back.
                member.client.transport.end_streams()
            self._set(member, health)
            if health.ok:
                pause, wait = PROBE_INTERVAL, PROBE_RETRY[0]
            else:
                pause, wait = wait, min(2 * wait, PROBE_RETRY[1])
            if member.health.ok:
                await until(member.suspect, pause)
            else:
                # Requests that fail meanwhile are no news.
                await until(member.renewed, pause)

    def _set(self, member: _Member, health: Health) -> None:
        before = member.health
        changed = before.ok != health.ok
        since = now() if changed else before.since
        health = member.health = Health(health.ok, hidden(health.message), health.version, since)
        self._metrics.circuit(str(member.key), is_open=not health.ok)
        if changed or (before.message, before.version) != (health.message, health.version):
            said = {"ok": health.ok, "message": health.message, "version": health.version}
            log.info("cluster_health", cluster=str(member.key), **said)
            self._tell(member.key, ok=health.ok)

    def _tell(self, key: Key, *, ok: bool) -> None:
        for listener in self._listeners:
            try:
                listener(key, ok)
            except Exception as error:  # nor is a listener's mistake the end of a cluster
                log.exception("health_listener_failed", cluster=str(key), exc_info=error)


def _named(error: BaseException) -> str:
    """The kind of an error, the first of a group: what its text shows nobody knows, so it is for the log only."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__


def _time() -> float:
    return asyncio.get_running_loop().time()
