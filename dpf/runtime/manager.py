"""The manager: starts the parts of a process in order, ends them in order.

What it guarantees:

* Start: health and metrics servers, then parts that need no leadership (webhooks, remote clusters), then caches; then, when this
  process leads, parts and controllers that act. ``/healthz`` answers from the first moment, also while the API server is being
  waited for; ``/readyz`` when caches are filled and webhooks answer.
* A part that fails ends the process with its error: a half-running manager helps nobody.
* SIGTERM or SIGINT: no more work is taken, reconciles that run may finish within the grace period, then everything is
  cancelled; the lease is released, the last events are sent. A second signal ends the process at once.
* Lost leadership ends the process at once, without grace: another may be acting already.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic
from typing import Any, Protocol

import uvloop

from dpf.runtime import memory, tracing
from dpf.runtime.client import Client, UnreadableObject
from dpf.runtime.cluster import SYNC_TIMEOUT, Cluster
from dpf.runtime.controller import Controller
from dpf.runtime.errors import ConfigError, DpfError, Unavailable, first_of
from dpf.runtime.events import EventRecorder
from dpf.runtime.http import Servers
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.leader import LeaderElector
from dpf.runtime.log import configure, get_logger
from dpf.runtime.meta import Key, Object, ObjectMeta
from dpf.runtime.metrics import Metrics
from dpf.runtime.options import ManagerOptions
from dpf.runtime.scraping import ScrapeGuard

log = get_logger(__name__)

CONNECT_RETRY = 1.0
CONNECT_TIMEOUT = 5.0
"""Seconds between tries to reach the API server at start, and for each."""


SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What asks a process to end."""


class Runnable(Protocol):
    """A part of the process. Runs until cancelled; one that returns is done, one that raises ends the process.

    ``needs_leader`` (default True) says whether it must wait for leadership.
    """

    async def run(self) -> None: ...


class Manager:
    """Runs controllers and other parts on one cluster. Made by :func:`run_process`; handed to its ``setup``."""

    def __init__(self, name: str, cluster: Cluster, options: ManagerOptions, metrics: Metrics) -> None:
        self.name = name
        self.cluster = cluster
        self.options = options
        self.metrics = metrics
        self.events = EventRecorder(cluster.client, name, metrics)
        self._controllers: list[Controller[Any]] = []
        self._followers: list[Runnable] = []
        self._leaders: list[Runnable] = []
        self._stopping = asyncio.Event()
        self._begun = False
        self._servers = Servers(
            health=options.health_probe_bind_address,
            metrics=options.metrics_bind_address,
            source=metrics,
            guard=ScrapeGuard(cluster.client) if options.guarded else None,
        )

    def add(self, *parts: Controller[Any] | Runnable) -> None:
        """Adds controllers and other parts, before they are run.

        :raises RuntimeError: if they run already; nobody would run this one.
        """
        if self._begun:
            raise RuntimeError("parts are added before the manager runs them")
        for part in parts:
            if isinstance(part, Controller):
                if any(part.name == other.name for other in self._controllers):
                    raise ValueError(f"two controllers are called {part.name}; metrics could not tell them apart")
                part.register(self.cluster, self.metrics)
                self._controllers.append(part)
            elif getattr(part, "needs_leader", True):
                self._leaders.append(part)
            else:
                self._followers.append(part)

    def add_readiness(self, name: str, check: Callable[[], bool]) -> None:
        """``/readyz`` says no while the check does, and names it."""
        self._servers.add_readiness(name, check)

    def stop(self) -> None:
        """Ends :meth:`run` gracefully."""
        self._stopping.set()

    async def run(self, begin: Callable[[], Awaitable[None]] | None = None) -> None:
        """Runs until stopped.

        :param begin: awaited when health is being served and before all else; it may still add parts.
        :raises TimeoutError: if the caches could not be filled.
        :raises LeadershipLost: if another took the lease.
        """
        cache = self.cluster.cache
        cache.on_unreadable = self._report_unreadable
        self.metrics.watch_cache(cache)
        self.metrics.watch_skipped_writes(self.cluster.name, lambda: self.cluster.client.skipped_writes)
        self.add_readiness("API server", lambda: self._begun)
        self.add_readiness("caches", lambda: all(informer.synced.is_set() for informer in cache.informers()))
        try:
            async with self._servers:
                if begin is not None:
                    await self._unless_stopped(begin())
                self._begun = True
                await self._run_parts()
        except* _Stopped:
            log.info("stopped")

    async def _run_parts(self) -> None:
        cache = self.cluster.cache
        # Ended from the inside out: what acts, then caches and webhooks, then events, then health.
        async with _running(self.metrics, self.events), _running(cache, *self._followers):
            await self._unless_stopped(cache.synced(timeout=SYNC_TIMEOUT))
            memory.settle()
            log.info("caches_filled", objects=sum(len(informer) for informer in cache.informers()))
            await self._lead()

    async def _lead(self) -> None:
        """Waits for leadership, if it is to be had, and runs what acts."""
        if not self.options.leader_elect:
            await self._act()
            return
        elector = LeaderElector.from_options(self.cluster.client, self.name, self.options, self.metrics)
        async with _running(elector):
            await self._unless_stopped(elector.elected.wait())
            await self._act()

    async def _act(self) -> None:
        log.info("started", controllers=[controller.name for controller in self._controllers])
        async with _running(*self._leaders), _running(*self._controllers) as workers:
            await self._stopping.wait()
            grace = self.options.graceful_shutdown_timeout
            log.info("stopping", grace_seconds=grace)
            for controller in self._controllers:
                controller.stop()
            if workers:
                await asyncio.wait(workers, timeout=grace)

    async def _unless_stopped(self, work: Awaitable[Any]) -> None:
        """Waits for the work, or raises :class:`_Stopped` if the process is asked to end before."""
        task = asyncio.ensure_future(work)
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise _Stopped
            await task
        finally:
            task.cancel()
            stopped.cancel()

    def _report_unreadable(self, kind: type[Object], key: Key, uid: str, error: UnreadableObject) -> None:
        self.metrics.decode_failed(kind.RESOURCE.kind)
        meta = ObjectMeta(name=key.name, namespace=key.namespace, uid=uid)
        self.events.warning(kind.model_construct(metadata=meta), "Unreadable", str(error))


class _Stopped(Exception):
    """The process was asked to end before it led."""


@asynccontextmanager
async def _running(*parts: Runnable) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Runs the parts beside the block and cancels them at its end; one that fails ends the block with its error."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part.run(), name=getattr(part, "name", type(part).__name__)) for part in parts]
        yield tasks
        for task in tasks:
            task.cancel()


def run_process(name: str, options: ManagerOptions, setup: Callable[[Manager], Awaitable[None] | None]) -> int:
    """The life of a manager process: logs, client, manager, ``setup`` (adds the parts), run. Returns the exit code.

    Whatever ends it badly is one log line that says what to do, not a traceback: 2 for a mistake in flags or kubeconfig, 1 else.
    """
    configure(options.go.level(options.log_level), options.go.format(options.log_format))
    memory.start()
    try:
        tracing.start(name, options.otlp_endpoint)
        uvloop.run(_main(name, options, setup))
    except ConfigError as error:
        log.error("misconfigured", error=str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    except BaseExceptionGroup as errors:
        return _report(name, first_of(errors))
    except Exception as error:  # noqa: BLE001  (the last word of the process)
        return _report(name, error)
    finally:
        tracing.stop()
    return 0


async def _main(name: str, options: ManagerOptions, setup: Callable[[Manager], Awaitable[None] | None]) -> None:
    metrics = Metrics()
    kubeconfig = Kubeconfig.load(options.kubeconfig)
    client = Client(kubeconfig, field_owner=name)
    client.transport.observer = partial(metrics.count_request, client.transport.address)
    async with client:
        manager = Manager(name, Cluster("host", client, namespace=options.namespace), options, metrics)
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, _signalled, manager)

        async def begin() -> None:
            await _reach(client)
            added = setup(manager)
            if added is not None:
                await added

        await manager.run(begin)


def _signalled(manager: Manager) -> None:
    """The first signal is a request; after it the default actions are back, so a second one ends the process."""
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.remove_signal_handler(number)
        # The kernel's, for SIGINT too: Python's would be a KeyboardInterrupt whenever the loop has something to do next.
        signal.signal(number, signal.SIG_DFL)
    manager.stop()


async def _reach(client: Client) -> None:
    """Waits for the API server, saying so, until the caches would have given up as well.

    :raises ApiError: if it stays away.
    """
    deadline = monotonic() + SYNC_TIMEOUT
    while True:
        try:
            await client.server_version(timeout=CONNECT_TIMEOUT)
        except Unavailable as error:
            if monotonic() > deadline:
                raise
            log.warning("api_server_unreachable", error=str(error), hint="check --kubeconfig and that the server runs")
            await asyncio.sleep(CONNECT_RETRY)
        else:
            return


def _report(name: str, error: BaseException) -> int:
    if isinstance(error, ConfigError):
        log.error("misconfigured", error=str(error))
        return 2
    if isinstance(error, DpfError | TimeoutError | OSError):
        log.error("process_ended", process=name, error=str(error) or type(error).__name__)
    else:
        log.error("process_ended", process=name, exc_info=error)
    return 1
