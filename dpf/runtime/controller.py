"""A controller: watches say which objects need a look, workers look at them.

    Controller("dpuset", reconciler, watches=[For(DPUSet), Owns(DPU, when=labels_changed)], workers=4)

What it guarantees to a reconciler:

* It is called with the object as the cache has it, never twice at once for the same object, and not before every watched kind
  has been listed and told.
* An object that is being deleted goes to ``finalize`` if the reconciler has a finalizer and the object carries it, else nowhere.
  The library puts the finalizer on before the first ``reconcile`` and takes it off when ``finalize`` returns None. One that
  others put on (``puts_finalizer_on`` is False) it only takes off.
* An exception is a retry with back-off, whatever it is; a deadline that passes too. :class:`~dpf.runtime.errors.Terminal` is
  logged, counted and not retried until the object changes: condition and event are the reconciler's to write, who knows its
  kind's; :class:`~dpf.runtime.errors.Waiting` waits for a watch and counts no failure;
  :class:`~dpf.runtime.errors.ClusterUnavailable` waits for the circuit of that cluster to close.
* It is not woken by its own status writes (see :mod:`dpf.runtime.informer`): what is to be done next is done in the same pass, or
  asked for with ``Result(requeue_after=0)``.
* One that is :class:`Forgetting` is told of objects that are gone, however they went.
* A success forgets earlier failures, one with ``requeue_after`` too.
* What it waits for :func:`~dpf.runtime.places.elsewhere`, as every request to a remote cluster is, takes no worker from others.
"""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from dpf.runtime import finalizers, tracing
from dpf.runtime.cluster import Cluster
from dpf.runtime.errors import ApiError, ClusterUnavailable, Conflict, DpfError, NotFound, Terminal, Waiting
from dpf.runtime.informer import ORIGIN, Change, Handler, Informer
from dpf.runtime.log import RECONCILE, get_logger
from dpf.runtime.meta import Key, Object
from dpf.runtime.metrics import ControllerMetrics, Metrics
from dpf.runtime.parking import Parking
from dpf.runtime.places import PLACES, Places
from dpf.runtime.predicates import Predicate
from dpf.runtime.queue import INITIAL_PRIORITY, ShutDown, WorkQueue
from dpf.runtime.remote import RemoteClusters

log = get_logger(__name__)

O = TypeVar("O", bound=Object)  # noqa: E741
R_contra = TypeVar("R_contra", bound=Object, contravariant=True)

PARKED_RETRY = 60.0
"""Seconds after which work for an unavailable cluster is tried even if its circuit said nothing."""


@dataclass(frozen=True)
class Result:
    """How a reconcile went well.

    :param requeue_after: look again after so many seconds, if nothing wakes the object before.
    :param priority: with which priority that look is queued.
    """

    requeue_after: float | None = None
    priority: int = 0


class Reconciler(Protocol[R_contra]):
    """Makes the world as one object wants it. One that has something to undo is :class:`Finalizing`."""

    async def reconcile(self, obj: R_contra, /) -> Result | None: ...


@runtime_checkable
class Finalizing(Reconciler[R_contra], Protocol[R_contra]):
    """A reconciler that must undo something before its object may go."""

    finalizer: str
    puts_finalizer_on: bool = True

    @abstractmethod
    async def finalize(self, obj: R_contra, /) -> Result | None:
        """Undoes; None when all is undone, a result while still at it."""


@runtime_checkable
class Forgetting(Protocol):
    """A reconciler that holds something of its objects in this process."""

    @abstractmethod
    async def gone(self, key: Key, /) -> None:
        """There is no object of that key, and none is being reconciled: nothing of it need be held any more. It may be told more
        than once, and of one that was never reconciled."""


@dataclass(frozen=True)
class For(Generic[O]):
    """The kind that the controller is for: a change of an object wakes that object."""

    kind: type[O]
    when: Predicate | None = None


@dataclass(frozen=True)
class Owns:
    """A kind that the controller's objects manage: a change wakes the managing owner."""

    kind: type[Object]
    when: Predicate | None = None


@dataclass(frozen=True)
class Watch(Generic[O]):
    """Any other kind. ``to`` gives the keys to wake; it is asked for the object before and after the change, so that a
    reference that moves wakes both sides. Of an object that can't be read it knows nothing, so that one which goes wakes nobody:
    who waits for that adds a handler to the cache."""

    kind: type[O]
    to: Callable[[O], Iterable[Key]]
    when: Predicate | None = None


@dataclass(frozen=True)
class WatchRemote(Generic[O]):
    """A kind in every remote cluster. ``to`` gets the cluster's key and the object."""

    kind: type[O]
    remotes: RemoteClusters
    to: Callable[[Key, O], Iterable[Key]]
    when: Predicate | None = None


@dataclass(frozen=True)
class WatchRemoteHealth:
    """The health of remote clusters: wakes the object that has the cluster's key."""

    remotes: RemoteClusters


Source = For[Any] | Owns | Watch[Any] | WatchRemote[Any] | WatchRemoteHealth


class Controller(Generic[O]):
    """Runs one reconciler. Added to a manager, which starts it when it leads.

    :param workers: objects reconciled at once, beside those whose reconcile waits elsewhere.
    :param timeout: seconds that one reconcile may take, or None.
    :param min_interval: seconds between two reconciles of the same object at least: changes that come faster are taken
        together. For objects that many others wake.
    :param priority: gives the priority a woken object is queued with; higher is sooner.
    :raises ValueError: unless it is :class:`For` exactly one kind.
    :raises TypeError: if the reconciler has a finalizer and no ``finalize``, or the other way round.
    """

    def __init__(
        self,
        name: str,
        reconciler: Reconciler[O],
        *,
        watches: Sequence[Source],
        workers: int = 1,
        timeout: float | None = None,
        min_interval: float = 0.0,
        priority: Callable[[O], int] | None = None,
    ) -> None:
        kinds = [source.kind for source in watches if isinstance(source, For)]
        if len(kinds) != 1:
            raise ValueError(f"controller {name} must be For exactly one kind, not {len(kinds)}")
        self.name = name
        self.kind: type[O] = kinds[0]
        self.workers = workers
        self.reconciler = reconciler
        self._finalizing = _finalizing(reconciler)
        self._watches = watches
        self._timeout = timeout
        self._min_interval = min_interval
        self._priority = priority
        self._ran_at: dict[Key, float] = {}
        self._parking = Parking()
        self._cluster: Cluster | None = None
        self._queue: WorkQueue[Key] | None = None
        self._metrics: ControllerMetrics = Metrics().controller(name, workers)

    # Being woken

    def enqueue(self, key: Key, *, priority: int = 0) -> None:
        """The object needs a look. Before the controller runs this does nothing: the first list wakes everything anyway."""
        if self._queue is not None:
            self._queue.add(key, priority)

    def register(self, cluster: Cluster, metrics: Metrics) -> None:
        """Names the kinds it watches to the cache, so that their lists begin; called before the caches are waited for."""
        self._cluster = cluster
        self._metrics = metrics.controller(self.name, self.workers)
        for source in self._watches:
            if isinstance(source, For | Owns | Watch):
                cluster.cache[source.kind]
            elif isinstance(source, WatchRemote):
                source.remotes.add_kind(source.kind)

    async def run(self) -> None:
        """Reconciles until cancelled or :meth:`stop`."""
        queue = self._queue = WorkQueue(metrics=self._metrics.queue)
        self._metrics.watch(queue)
        for source in self._watches:
            self._attach(source)
        await self._bound.cache.synced()
        async with asyncio.TaskGroup() as group:
            places = Places(lambda: self._hire(group, queue, places))
            for _ in range(self.workers):
                self._hire(group, queue, places)

    def _hire(self, group: asyncio.TaskGroup, queue: WorkQueue[Key], places: Places) -> None:
        work = self._work(queue, places)
        try:
            # Whoever lends its place, the worker that gets it is not that reconcile's.
            group.create_task(work, name=f"{self.name} worker", context=Context())
        except RuntimeError:
            work.close()  # all are ending

    def stop(self) -> None:
        """Takes no more work; :meth:`run` returns when the workers have finished what they have."""
        if self._queue is not None:
            self._queue.shut_down()

    def _attach(self, source: Source) -> None:
        cache = self._bound.cache
        if isinstance(source, For):
            cache[source.kind].add_handler(self._handler(source.when, lambda change: (change.key,)))
        elif isinstance(source, Owns):
            cache[source.kind].add_handler(self._handler(source.when, self._owners))
        elif isinstance(source, Watch):
            cache[source.kind].add_handler(self._handler(source.when, partial(_mapped, source.to)))
        elif isinstance(source, WatchRemote):
            source.remotes.add_handler(source.kind, partial(self._remote_handler, source))
            source.remotes.on_health(self._unpark)
        else:
            source.remotes.on_health(lambda key, _: self.enqueue(key))
            source.remotes.on_health(self._unpark)

    def _remote_handler(self, source: WatchRemote[Any], cluster: Key) -> Handler:
        return self._handler(source.when, partial(_mapped, partial(source.to, cluster)))

    def _handler(self, when: Predicate | None, keys: Callable[[Change[Any]], Iterable[Key]]) -> Handler:
        def handle(change: Change[Any]) -> None:
            if when is not None and not change.initial and not when(change):
                return
            for key in keys(change):
                # A reconcile need not look again at what it alone has just done.
                if change.origin is None or change.origin != (self.name, key):
                    self._wake(key, initial=change.initial)

        return handle

    def _wake(self, key: Key, *, initial: bool) -> None:
        priority = INITIAL_PRIORITY if initial else 0
        if self._priority is not None and (obj := self._informer.get(key.name, key.namespace)) is not None:
            priority += self._priority(obj)
        self.enqueue(key, priority=priority)

    def _owners(self, change: Change[Any]) -> Iterable[Key]:
        resource = self.kind.RESOURCE
        for header in (change.old_meta, change.new_meta):
            for owner in header.owner_references if header is not None else ():
                group = owner.api_version.rpartition("/")[0]
                if owner.controller and owner.kind == resource.kind and group == resource.group:
                    yield Key(change.key.namespace if resource.namespaced else "", owner.name)

    def _unpark(self, cluster: Key, healthy: bool) -> None:
        if not healthy:
            self._parking.opened(str(cluster))
            return
        for key in self._parking.closed(str(cluster), asyncio.get_running_loop().time()):
            self.enqueue(key)

    @property
    def _bound(self) -> Cluster:
        if self._cluster is None:
            raise RuntimeError(f"controller {self.name} belongs to no manager")
        return self._cluster

    @property
    def _informer(self) -> Informer[O]:
        return self._bound.cache[self.kind]

    # Working

    async def _work(self, queue: WorkQueue[Key], places: Places) -> None:
        PLACES.set(places)
        while not places.is_one_too_many():
            try:
                key, priority = await queue.get()
            except ShutDown:
                return
            try:
                if not self._too_soon(queue, key, priority):
                    await self._process(queue, key, priority)
            finally:
                queue.done(key)

    def _too_soon(self, queue: WorkQueue[Key], key: Key, priority: int) -> bool:
        if not self._min_interval:
            return False
        now = asyncio.get_running_loop().time()
        wait = self._ran_at.get(key, float("-inf")) + self._min_interval - now
        if wait > 0:
            queue.add_after(key, wait, priority)
            return True
        self._ran_at[key] = now
        return False

    async def _process(self, queue: WorkQueue[Key], key: Key, priority: int) -> None:
        self._parking.forget(key)
        obj = self._informer.get(key.name, key.namespace)
        if obj is None and (key in self._informer or not isinstance(self.reconciler, Forgetting)):
            queue.forget(key)
            self._ran_at.pop(key, None)
            return
        metrics = self._metrics
        started = asyncio.get_running_loop().time()
        metrics.active += 1
        origin = ORIGIN.set((self.name, key))
        ident = os.urandom(4).hex()
        context = RECONCILE.set((self.name, key, ident))
        span, outcome, failure = None, "success", ""
        if tracing.tracer is not None:
            span = tracing.tracer.reconcile(self.name, self.kind.RESOURCE.kind, key.namespace, key.name, ident)
        deadline = asyncio.timeout(self._timeout) if self._timeout is not None else None
        try:
            if deadline is None:
                result = await self._dispatch(key, obj)
            else:
                async with deadline:
                    result = await self._dispatch(key, obj)
        except asyncio.CancelledError as error:
            if being_cancelled():
                outcome = "cancelled"
                raise
            outcome, failure = "error", "what it waited for was cancelled"
            self._failed(queue, key, priority, cut_short(error), started)
        except Exception as error:  # noqa: BLE001  (a mistake is a retry of its object, never the end of others)
            if deadline is not None and deadline.expired() and isinstance(error, TimeoutError):
                metrics.timeouts += 1
            outcome, failure = _outcome(error)
            self._failed(queue, key, priority, error, started)
        else:
            self._succeeded(queue, key, result)
        finally:
            if span is not None:
                span.end({"dpf.outcome": outcome}, failure)
            RECONCILE.reset(context)
            ORIGIN.reset(origin)
            metrics.active -= 1
            metrics.observe(asyncio.get_running_loop().time() - started)

    async def _dispatch(self, key: Key, obj: O | None) -> Result | None:
        if obj is None:
            self._ran_at.pop(key, None)
            if isinstance(self.reconciler, Forgetting):
                await self.reconciler.gone(key)
            return None
        finalizing = self._finalizing
        if finalizing is None:
            return None if obj.deleting else await self.reconciler.reconcile(obj)
        client, name = self._bound.client, finalizing.finalizer
        if not obj.deleting:
            if finalizing.puts_finalizer_on:
                obj = await finalizers.add(client, obj, name)
            return await finalizing.reconcile(obj)
        if name not in obj.metadata.finalizers:
            return None
        result = await finalizing.finalize(obj)
        if result is None:
            await finalizers.remove(client, obj, name)
        return result

    def _succeeded(self, queue: WorkQueue[Key], key: Key, result: Result | None) -> None:
        queue.forget(key)
        if result is not None and result.requeue_after is not None:
            self._metrics.results["requeue_after"] += 1
            queue.add_after(key, result.requeue_after, result.priority)
        else:
            self._metrics.results["success"] += 1

    def _failed(self, queue: WorkQueue[Key], key: Key, priority: int, error: Exception, started: float) -> None:
        metrics = self._metrics
        match error:
            case Waiting():
                metrics.results["success"] += 1
                queue.forget(key)
                log.debug("reconcile_waits", reason=error.reason, message=error.message)
                if error.retry_after is not None:
                    queue.add_after(key, error.retry_after, priority)
                return
            case ClusterUnavailable():
                metrics.results["requeue_after"] += 1
                log.debug("reconcile_parked", cluster=error.cluster, message=error.message)
                if self._parking.park(error.cluster, key, started):
                    queue.add_after(key, min(PARKED_RETRY, error.retry_after or PARKED_RETRY), priority)
                else:
                    queue.add_rate_limited(key, priority)
                return
            case Terminal():
                metrics.results["error"] += 1
                metrics.terminal += 1
                queue.forget(key)
                log.error("reconcile_ended", reason=error.reason, message=error.message)
                return
            case Conflict() | NotFound():
                # Somebody was faster. The cache will have it in a moment.
                log.debug("reconcile_overtaken", error=error.message)
                metrics.results["requeue"] += 1
            case ApiError():
                metrics.results["error"] += 1
                metrics.errors += 1
                log.warning("reconcile_failed", error=str(error), status=error.status, reason=error.reason)
            case DpfError():
                # Somebody's own error, who expects it: no panic, and where it came from is no news.
                metrics.results["error"] += 1
                metrics.errors += 1
                log.warning("reconcile_failed", error=str(error), reason=type(error).__name__)
            case _:
                metrics.results["error"] += 1
                metrics.errors += 1
                metrics.panics += not isinstance(error, OSError | TimeoutError)
                log.exception("reconcile_failed", exc_info=error)
        queue.add_rate_limited(key, priority)


def _finalizing(reconciler: Reconciler[O]) -> Finalizing[O] | None:
    """The reconciler, if it has something to undo.

    :raises TypeError: if it lacks a part of what that needs: its objects could never go, or nothing would be undone.
    """
    if isinstance(reconciler, Finalizing) and reconciler.finalizer:
        return reconciler
    if hasattr(reconciler, "finalizer") or hasattr(reconciler, "finalize"):
        raise TypeError(
            f"{type(reconciler).__name__} needs both finalizer and finalize: make it a subclass of Finalizing"
        )
    return None


def _outcome(error: Exception) -> tuple[str, str]:
    """What a span says of a reconcile that did not succeed: how it ended, and the error if it was one."""
    match error:
        case Waiting() | ClusterUnavailable():
            return "waiting", ""
        case Conflict() | NotFound():
            return "overtaken", ""
        case _:
            return "error", str(error) or type(error).__name__


def being_cancelled() -> bool:
    """Whether the current task was told to end; else a CancelledError in it came out of something that it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def cut_short(error: asyncio.CancelledError) -> Exception:
    """The error that such a CancelledError stands for: gRPC, for one, raises it when a channel is closed under a call."""
    failure = RuntimeError("what this waited for was cancelled")
    failure.__cause__ = error
    return failure


def _mapped(to: Callable[[Any], Iterable[Key]], change: Change[Any]) -> set[Key]:
    return {key for obj in (change.old, change.new) if obj is not None for key in to(obj)}
