"""List and watch: keeps an :class:`~dpf.runtime.informer.Informer` like the server.

What it guarantees:

* The first list is a stream that goes on as the watch (``sendInitialEvents``, KEP-3157), so that a list of any length never
  stands in memory as a whole. A server that refuses that is listed in pages and then watched.
* Time does not run backwards: every later start names the last version seen. Only a 410 (that version is compacted away)
  starts again from the server's newest state, at once; another one before anything was heard is waited for like a failure.
* Every event and every bookmark moves the version forward.
* A refused, cut or silent stream is resumed from the last version after a back-off: 0.8 s doubling to 30 s, with as much
  again at random, forgotten after two minutes of peace. 429 is waited out as the server asks, for five minutes at most. No
  relist for any of these. Whoever finds the server there again ends a back-off (:meth:`Reflector.resume`), not a 429.
* A server that was restored from a backup has not reached the last version seen: it says so, or says nothing at all, not even
  a bookmark. The former starts again like a 410, as do two streams in a row that were opened and stayed silent.
* A stream that ends within a second without an event counts as failed (a proxy that cuts it would else be asked in a loop).
* What is not an object of the kind (a Status, a Table) is never stored, nor is one that is nested too deeply to be read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from random import uniform
from time import monotonic
from typing import Generic

import msgspec

from dpf.runtime import wire
from dpf.runtime.client import PAGE, SILENCE, Client
from dpf.runtime.errors import (
    ApiError,
    BadRequest,
    ConfigError,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    TooManyRequests,
    api_error,
)
from dpf.runtime.informer import Informer
from dpf.runtime.log import get_logger
from dpf.runtime.meta import T

log = get_logger(__name__)

BACKOFF_FIRST = 0.8
BACKOFF_MAX = 30.0
PEACE = 120.0
"""Seconds without failure after which the back-off starts anew; the four figures are client-go's."""
LONGEST_REST = 300.0
"""Seconds for which a server may send us away at most."""

WATCH_TIMEOUT = (300.0, 600.0)
"""Seconds after which the server is asked to end a watch: a random one of this range, so that not all end at once."""


@dataclass(frozen=True)
class Scope:
    """What of a kind is watched."""

    namespace: str = ""
    """One namespace, or all if empty."""
    labels: str = ""
    fields: str = ""


@dataclass
class ReflectorStats:
    """Counts for metrics."""

    lists: int = 0
    watches: int = 0
    failures: int = 0
    expired: int = 0
    silent: int = 0
    dropped: int = 0


class Reflector(Generic[T]):
    """Feeds one informer until cancelled."""

    def __init__(self, client: Client, informer: Informer[T], scope: Scope) -> None:
        self.stats = ReflectorStats()
        self.current = asyncio.Event()
        """Set while the cache follows the server: it has been listed, and the stream that goes on from there is open."""
        self.failure = ""
        """Why the last list or watch failed; empty once another has been opened."""
        self.refused = ""
        """Why the server does not let us list or watch, for as long as it does not; else empty."""
        self._client = client
        self._informer = informer
        self._scope = scope
        self._path = informer.kind.RESOURCE.path(scope.namespace)
        self._version = ""
        self._server = 0
        """Which server it is that is asked, counted."""
        self._listed = 0
        """Which one the running list is of."""
        self._streams_lists = True
        self._delay = BACKOFF_FIRST
        self._go_on = asyncio.Event()
        """The back-off, or the next one if there is none yet, is to end."""
        self._sent_away = False
        """The server has asked for the time that is being waited."""
        self._resumed_at = 0.0
        """When the back-off of the last failure ended."""
        self._mute = 0
        """Streams in a row that were opened and brought nothing."""
        self._expired = False
        """The last version named was compacted away, and no watch has told anything since."""

    async def run(self) -> None:
        """Lists and watches for ever."""
        while True:
            try:
                await self._follow()
            except Gone as error:
                # From the newest state now. A second 410 in a row is waited for, though a list came between: of servers that
                # are not equally far, one may list what another knows no more.
                self.stats.expired += 1
                log.info("watch_expired", kind=self._kind, message=error.message)
                again, self._expired = self._expired, True
                self._version = ""
                if again:
                    await self._back_off(error)
            except (ApiError, ConfigError) as error:
                await self._back_off(error)

    def relist(self) -> None:
        """Has everything listed anew: it is another server that is asked from now on, to which versions of the one before say
        nothing. A watch or list that runs has to be ended by whoever knows that."""
        self._server += 1
        self._version, self._expired = "", False
        self._streams_lists = True
        self.current.clear()
        self._go_on.set()

    def resume(self) -> None:
        """Ends a back-off, since the server answers again; one that it asked for itself is kept."""
        if not self.current.is_set() and not self._sent_away:
            self._go_on.set()

    async def _follow(self) -> None:
        try:
            await (self._watch() if self._version else self._list())
        finally:
            self.current.clear()

    def _opened(self) -> None:
        self.failure = self.refused = ""

    def _caught_up(self) -> None:
        self.current.set()
        self._go_on.clear()

    @property
    def _kind(self) -> str:
        return self._informer.kind.RESOURCE.kind

    def _params(self, **more: str) -> dict[str, str]:
        params = dict(more)
        if self._scope.labels:
            params["labelSelector"] = self._scope.labels
        if self._scope.fields:
            params["fieldSelector"] = self._scope.fields
        return params

    def _watch_params(self, **more: str) -> dict[str, str]:
        timeout = str(int(uniform(*WATCH_TIMEOUT)))  # noqa: S311
        return self._params(watch="true", allowWatchBookmarks="true", timeoutSeconds=timeout, **more)

    async def _list(self) -> None:
        self.stats.lists += 1
        self._listed = self._server
        if self._streams_lists:
            try:
                await self._streamed_list()
            except (Invalid, BadRequest) as error:
                # resourceVersionMatch is sent so that a server without streamed lists refuses instead of never ending one.
                log.info("list_not_streamed", kind=self._kind, message=error.message)
                self._streams_lists = False
            else:
                return
        await self._paged_list()

    async def _streamed_list(self) -> None:
        params = self._watch_params(sendInitialEvents="true", resourceVersionMatch="NotOlderThan")
        collected: dict[tuple[str, str], bytes] | None = {}
        async with self._client.transport.stream(self._path, params, silence=SILENCE) as lines:
            self._opened()
            async for event in self._events(lines):
                if collected is None:
                    self._take(event)
                elif self._collect(event, collected):
                    collected = None
        if collected is not None:
            raise api_error(503, "ListCut", f"the list of {self._kind} ended before it was complete")

    def _collect(self, event: wire.WatchEvent, collected: dict[tuple[str, str], bytes]) -> bool:
        """Takes one event of a streamed list. True once the list is complete, and in the cache."""
        try:
            if event.type == "BOOKMARK":
                header = wire.header(bytes(event.object))
                if wire.INITIAL_EVENTS_END not in header.annotations:
                    return False
                self._fill(list(collected.values()), header.resource_version)
                return True
            identity = wire.place(event.object, self._kind)
            if event.type == "DELETED":
                collected.pop((identity.namespace, identity.name), None)
            else:
                collected[identity.namespace, identity.name] = wire.slim(event.object)
        except wire.DecodeError as error:
            self._drop(error)
        return False

    async def _paged_list(self) -> None:
        params = self._params(limit=str(PAGE))
        raws: list[bytes] = []
        while True:
            body = await self._client.transport.request("GET", self._path, params=params)
            try:
                items, version, more = wire.split_list(body)
                raws += filter(None, map(self._item, items))
                if not more:
                    self._fill(raws, version)
                    return
            except wire.DecodeError as error:
                # Taken for a list, it would empty the cache.
                raise api_error(503, "NotAList", f"the list of {self._kind} is none") from error
            params["continue"] = more

    def _item(self, item: bytes | msgspec.Raw) -> bytes | None:
        try:
            wire.place(item, self._kind)
        except wire.DecodeError as error:
            self._drop(error)
            return None
        return wire.slim(item)

    def _fill(self, raws: list[bytes], version: str) -> None:
        number = wire.version_of(version)
        if not number:
            raise wire.DecodeError("a list without a version")
        if self._listed != self._server:
            raise api_error(503, "OtherServer", f"the list of {self._kind} is of another server")
        self._informer.replace(raws, number)
        self._version = version
        self._caught_up()
        log.debug("cache_filled", kind=self._kind, objects=len(raws))

    async def _watch(self) -> None:
        self.stats.watches += 1
        params = self._watch_params(resourceVersion=self._version)
        started, seen = monotonic(), False
        async with self._client.transport.stream(self._path, params, silence=SILENCE) as lines:
            self._opened()
            if self._version:  # else it is of a server that is asked no more
                self._caught_up()
            try:
                async for event in self._events(lines):
                    seen, self._mute = True, 0
                    self._take(event)
            except TimeoutError:
                self._mute += not seen
                if self._mute > 1:
                    log.info("watch_mute", kind=self._kind)
                    self._mute, self._version = 0, ""
                raise
        if not seen and monotonic() - started < 1.0:
            raise api_error(503, "WatchCut", f"the watch of {self._kind} ended at once")

    async def _events(self, lines: AsyncIterator[bytes]) -> AsyncIterator[wire.WatchEvent]:
        async for line in lines:
            try:
                event = wire.watch_event(line)
            except wire.TooDeep as error:
                # Asked for again it would be no other.
                self._drop(error)
                continue
            except wire.DecodeError as error:
                raise api_error(503, "NotAnEvent", f"the watch of {self._kind} sent what is no event") from error
            if event.type == "ERROR":
                status = wire.status(event.object)
                raise api_error(status.code or 500, status.reason, status.message, status.details)
            yield event

    def _take(self, event: wire.WatchEvent) -> None:
        try:
            if event.type == "BOOKMARK":
                self._informer.bookmark(wire.version_of(wire.identity(event.object).resource_version))
            elif event.type in {"ADDED", "MODIFIED", "DELETED"}:
                self._informer.apply(event.type, event.object)
            else:
                raise wire.DecodeError(f"there is no event {event.type}")
        except wire.DecodeError as error:
            self._drop(error)
            return
        self._expired = False
        if self._version:
            self._version = str(self._informer.watched_version)

    def _drop(self, error: Exception) -> None:
        self.stats.dropped += 1
        log.warning("event_dropped", kind=self._kind, error=str(error))

    async def _back_off(self, error: ApiError | ConfigError) -> None:
        self.stats.failures += 1
        self.failure = str(error)
        if monotonic() - self._resumed_at > PEACE:
            self._delay = BACKOFF_FIRST
        if isinstance(error, ApiError) and error.status == 0 and isinstance(error.__cause__, TimeoutError):
            self.stats.silent += 1
        pause = uniform(self._delay, 2 * self._delay)  # noqa: S311
        if isinstance(error, TooManyRequests):
            pause = max(pause, min(error.retry_after, LONGEST_REST))
        self._delay = min(2 * self._delay, BACKOFF_MAX)
        if isinstance(error, NotFound):
            resource = str(self._informer.kind.RESOURCE)
            log.warning("kind_not_served", resource=resource, hint=f"install CustomResourceDefinition {resource}")
        elif isinstance(error, Forbidden):
            self.refused = str(error)
            log.warning("kind_forbidden", error=str(error), hint="let this account list and watch it")
        else:
            log.info("watch_failed", kind=self._kind, error=str(error), retry_in=round(pause, 1))
        self._sent_away = isinstance(error, TooManyRequests) and self._listed == self._server
        if self._sent_away:
            self._go_on.clear()
        await until(self._go_on, pause)
        self._go_on.clear()
        self._sent_away = False
        self._resumed_at = monotonic()


async def until(event: asyncio.Event, seconds: float) -> None:
    """Waits for the event, for so many seconds at most."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
