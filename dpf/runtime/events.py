"""Events: what a person would want to know of an object, in ``kubectl describe``.

What it guarantees:

* Saying one costs the caller nothing but putting it in a queue of 1,000; what does not fit is dropped and counted.
* Each is a log line as well, whatever becomes of the event: a warning is logged as one.
* Normal events have a limit, :data:`BURST` at once and :data:`RATE` a second: when a thousand objects move nobody reads a
  thousand stories, and the API server has better things to store. What is kept back is counted. Warnings have none.
* Of these a part is kept for what weighs more (:data:`KEPT`): where not all of a story can be told, its end is.
* The same (type, reason, action, object, related object) within six minutes is one event that becomes a series: it is written
  once, repeats are counted here and written at most every thirty seconds. The note stays the first one: the API lets
  nobody change it.
* A write that fails is tried again with back-off, twelve times as client-go does, then given up: an event is no record.
* When the process ends, what is queued and counted still goes out, for at most two seconds.
* A note is at most 1,024 bytes (the API's limit) and carries no secret that :mod:`dpf.runtime.log` knows the shape of.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from time import time_ns
from typing import Literal

from dpf.runtime.client import Client
from dpf.runtime.errors import AlreadyExists, DpfError, TooManyRequests, Unavailable
from dpf.runtime.k8s import Event, EventSeries, ObjectReference
from dpf.runtime.log import get_logger, hidden
from dpf.runtime.meta import Object, ObjectMeta, now
from dpf.runtime.metrics import Metrics

log = get_logger(__name__)

QUEUE = 1000
BURST = 25
RATE = 1.0
"""Normal events that are written at once, and per second in the long run."""
SERIES_WINDOW = 360.0
"""Seconds after which a repeat is a new event (events.k8s.io recorder)."""
FLUSH_INTERVAL = 30.0
TRIES = 12
NOTE_LIMIT = 1024
LAST_WORDS = 2.0

Kind = Literal["Normal", "Warning"]
Weight = Literal["step", "milestone", "outcome"]
KEPT: dict[Weight, float] = {"step": 1 / 2, "milestone": 1 / 3, "outcome": 0.0}
"""Share of :data:`BURST` that events of that weight leave to those that weigh more."""


_Reference = tuple[str, str, str, str, str]
"""API version, kind, namespace, name and uid of an object."""


@dataclass(frozen=True)
class _Said:
    """What makes two events the same."""

    type: Kind
    reason: str
    action: str
    regarding: _Reference
    related: _Reference | None = None


_Item = tuple[_Said, Weight, str, str]
"""An event that is to be written: its note and the end of its name last."""


@dataclass
class _Series:
    event: Event | None
    """None if it could not be written: its repeats are not written either."""
    started: float
    count: int = 1
    sent: int = 1


class EventRecorder:
    """Says events of one component. A runnable of the manager; not bound to leadership."""

    needs_leader = False

    def __init__(self, client: Client, component: str, metrics: Metrics | None = None) -> None:
        self._client = client
        self._component = component
        self._metrics = metrics or Metrics()
        self._instance = f"{component}-{socket.gethostname()}"[:128]
        # Time first: `kubectl describe` shows events in order of name.
        process = os.urandom(4).hex()
        self._names = (f"{time_ns():016x}{process}{number:04x}" for number in count())
        self._queue: asyncio.Queue[_Item] = asyncio.Queue(QUEUE)
        self._series: dict[_Said, _Series] = {}
        self._allowance, self._filled_at = float(BURST), 0.0
        self._taking: _Item | None = None
        """What was being written when the process was told to end: it is written again, under the same name."""

    def normal(
        self,
        obj: Object,
        reason: str,
        note: str,
        *,
        action: str = "Reconcile",
        related: Object | None = None,
        weight: Weight = "outcome",
    ) -> None:
        """Says that something went as it should.

        :param reason: one CamelCase word.
        :param related: another object that it is about.
        :param weight: what it is in its object's story.
        """
        self._say("Normal", obj, reason, note, action, related, weight)

    def warning(
        self, obj: Object, reason: str, note: str, *, action: str = "Reconcile", related: Object | None = None
    ) -> None:
        """Says that something needs a person's attention."""
        self._say("Warning", obj, reason, note, action, related)

    def _say(
        self,
        kind: Kind,
        obj: Object,
        reason: str,
        note: str,
        action: str,
        related: Object | None,
        weight: Weight = "outcome",
    ) -> None:
        said = _Said(kind, reason, action, _reference(obj), _reference(related) if related is not None else None)
        tell = log.warning if kind == "Warning" else log.info
        tell("told", kind=obj.RESOURCE.kind, object=str(obj.key), reason=reason, note=note)
        try:
            self._queue.put_nowait((said, weight, _cut(hidden(note)), next(self._names)))
        except asyncio.QueueFull:
            self._metrics.events_dropped += 1

    async def run(self) -> None:
        """Writes events until cancelled, then what is left."""
        flush_at = _time() + FLUSH_INTERVAL
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(flush_at):
                        self._taking = await self._queue.get()
                if self._taking is not None:
                    await self._take(*self._taking)
                    self._taking = None
                if _time() >= flush_at:
                    await self._flush()
                    flush_at = _time() + FLUSH_INTERVAL
        finally:
            await self._last_words()

    async def _last_words(self) -> None:
        try:
            async with asyncio.timeout(LAST_WORDS):
                if self._taking is not None:
                    await self._take(*self._taking, tries=1)
                while not self._queue.empty():
                    await self._take(*self._queue.get_nowait(), tries=1)
                await self._flush(tries=1)
        except TimeoutError:
            log.info("events_left_unsent", events=self._queue.qsize())

    async def _take(self, said: _Said, weight: Weight, note: str, suffix: str, *, tries: int = TRIES) -> None:
        series = self._series.get(said)
        if series is not None and _time() - series.started < SERIES_WINDOW:
            series.count += 1
            return
        if series is not None:
            await self._send(series, tries)
            del self._series[said]
        event = None
        if self._allowed(said, weight):
            event = await self._try(partial(self._create, self._event(said, note, suffix)), tries)
            self._metrics.events[said.type] += event is not None
        else:
            self._metrics.events_withheld += 1
        self._series[said] = _Series(event, started=_time())

    def _allowed(self, said: _Said, weight: Weight) -> bool:
        """Whether the event may be written; it is paid for then."""
        if said.type == "Warning":
            return True
        now = _time()
        self._allowance = min(BURST, self._allowance + RATE * (now - self._filled_at))
        self._filled_at = now
        if self._allowance - 1 < KEPT[weight] * BURST:
            return False
        self._allowance -= 1
        return True

    async def _create(self, event: Event) -> Event:
        try:
            return await self._client.create(event)
        except AlreadyExists:
            # Nobody else uses its name: it was written, and the answer was lost or not waited for.
            return event

    async def _flush(self, *, tries: int = TRIES) -> None:
        """Writes all counts that changed, and forgets series that are over."""
        for said, series in list(self._series.items()):
            await self._send(series, tries)
            if _time() - series.started >= SERIES_WINDOW:
                del self._series[said]

    async def _send(self, series: _Series, tries: int) -> None:
        """Writes the count of a series if it has changed. Cut short, it is sent again with the last words."""
        count = series.count
        if series.event is None or count == series.sent:
            return
        counted = EventSeries(count=count, last_observed_time=now())
        patch = {"series": counted.model_dump(mode="json", by_alias=True)}
        await self._try(partial(self._client.merge_patch, series.event, patch), tries)
        series.sent = count

    async def _try(self, send: Callable[[], Awaitable[Event]], tries: int) -> Event | None:
        for attempt in range(1, tries + 1):
            try:
                return await send()
            except (Unavailable, TooManyRequests):
                await asyncio.sleep(min(0.1 * 2**attempt, 10.0))
            except DpfError as error:
                log.debug("event_refused", error=str(error))
                return None
        return None

    def _event(self, said: _Said, note: str, suffix: str) -> Event:
        _, _, namespace, name, _ = said.regarding
        return Event(
            metadata=ObjectMeta(name=f"{name[:200]}.{suffix}", namespace=namespace or "default"),
            event_time=now(),
            reporting_controller=self._component,
            reporting_instance=self._instance,
            type=said.type,
            reason=said.reason,
            action=said.action,
            note=note,
            regarding=_named(said.regarding),
            related=_named(said.related) if said.related is not None else None,
        )


def _reference(obj: Object) -> _Reference:
    resource = obj.RESOURCE
    return resource.api_version, resource.kind, obj.namespace, obj.name, obj.uid


def _named(reference: _Reference) -> ObjectReference:
    api_version, kind, namespace, name, uid = reference
    return ObjectReference(api_version=api_version, kind=kind, namespace=namespace, name=name, uid=uid)


def _time() -> float:
    return asyncio.get_running_loop().time()


def _cut(note: str) -> str:
    encoded = note.encode()
    return note if len(encoded) <= NOTE_LIMIT else encoded[: NOTE_LIMIT - 3].decode(errors="ignore") + "..."
