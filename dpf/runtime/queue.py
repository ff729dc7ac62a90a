"""The work queue: client-go's contract, with priorities.

What it guarantees:

* A key is never with two workers. Added while a worker has it, it is handed out again once, after :meth:`WorkQueue.done`.
  Added any number of times before that, it is handed out once.
* Higher priority first, within one priority in order of arrival. Adding again keeps the higher priority; it does not lose
  the place in line unless the priority rises.
* A delayed add never takes a ready key back, and of two delays the earlier counts.
* A failed key comes back after 5 ms doubling per failure to a cap, and all failures together at no more than a rate; the
  count is forgotten by :meth:`WorkQueue.forget`.
* After :meth:`WorkQueue.shut_down` adds are ignored and every waiting worker gets :class:`ShutDown`; nobody waits for ever.

It belongs to one event loop and takes no lock: there is no ``await`` between a look and the change made upon it.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter, deque
from collections.abc import Callable, Hashable
from itertools import count
from typing import Generic, Protocol, TypeVar

K = TypeVar("K", bound=Hashable)

INITIAL_PRIORITY = -100
"""For the first list and for resyncs: a change that happens now is more urgent. controller-runtime's figure."""


class ShutDown(Exception):
    """The queue gives out no more work."""


class QueueMetrics(Protocol):
    """What a queue reports; the defaults of :class:`NoMetrics` do nothing."""

    adds: int
    retries: int

    def observe_queue(self, seconds: float) -> None: ...
    def observe_work(self, seconds: float) -> None: ...


class NoMetrics:
    """Counts and forgets the rest."""

    def __init__(self) -> None:
        self.adds = 0
        self.retries = 0

    def observe_queue(self, seconds: float) -> None:
        """Drops it."""

    def observe_work(self, seconds: float) -> None:
        """Drops it."""


class RateLimiter:
    """How long a failed key waits: exponential by key, and a token bucket over all keys.

    :param first: seconds after the first failure.
    :param cap: seconds at most by key.
    :param rate: retries a second over all keys, once ``burst`` are used up.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        first: float = 0.005,
        cap: float = 300.0,
        rate: float = 100.0,
        burst: int = 1000,
    ) -> None:
        self._clock = clock
        self._first = first
        self._cap = cap
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._filled_at = clock()
        self.failures: Counter[Hashable] = Counter()

    def when(self, key: Hashable) -> float:
        """Seconds until the key may be tried again; counts one more failure of it."""
        exponent = min(self.failures[key], 40)
        self.failures[key] += 1
        return max(min(self._first * float(2**exponent), self._cap), self._reserve())

    def forget(self, key: Hashable) -> None:
        """The key has not failed before."""
        self.failures.pop(key, None)

    def _reserve(self) -> float:
        """Takes a token; seconds until it is there."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate) - 1
        self._filled_at = now
        return max(0.0, -self._tokens / self._rate)


class WorkQueue(Generic[K]):
    """Keys that need work."""

    def __init__(self, *, metrics: QueueMetrics | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._metrics = metrics or NoMetrics()
        self.limiter = RateLimiter(self._loop.time)
        self._sequence = count()
        self._heap: list[tuple[int, int, K]] = []
        self._ready: dict[K, tuple[int, int, float]] = {}
        """Key to negative priority, place in line and the time it was added; what the heap has beyond this is stale."""
        self._again: dict[K, int] = {}
        """Keys added while being processed, with priority."""
        self.processing: dict[K, float] = {}
        """Keys that workers have, with the time each got it."""
        self._delayed: dict[K, tuple[float, int]] = {}
        self._timers: list[tuple[float, int, K]] = []
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0
        self._getters: deque[asyncio.Future[None]] = deque()
        self._shut = False

    def __len__(self) -> int:
        """Keys that are ready; not those being processed or delayed."""
        return len(self._ready)

    def depths(self) -> Counter[int]:
        """Ready keys by priority."""
        return Counter(-entry[0] for entry in self._ready.values())

    def add(self, key: K, priority: int = 0) -> None:
        """The key needs work."""
        if self._shut:
            return
        self._metrics.adds += 1
        self._delayed.pop(key, None)
        if key in self.processing:
            self._again[key] = max(priority, self._again.get(key, priority))
            return
        self._make_ready(key, priority)

    def add_after(self, key: K, delay: float, priority: int = 0) -> None:
        """The key needs work in ``delay`` seconds, unless it is ready before."""
        if delay <= 0:
            self.add(key, priority)
            return
        if self._shut or key in self._ready:
            return
        when = self._loop.time() + delay
        known = self._delayed.get(key)
        if known is not None:
            priority = max(priority, known[1])
            if known[0] <= when:
                self._delayed[key] = (known[0], priority)
                return
        self._delayed[key] = (when, priority)
        heapq.heappush(self._timers, (when, next(self._sequence), key))
        if len(self._timers) > 2 * len(self._delayed) + 64:
            # Keys that were added before their time leave their timers behind: an hour's worth must not pile up.
            self._timers = [(when, next(self._sequence), key) for key, (when, _) in self._delayed.items()]
            heapq.heapify(self._timers)
        self._arm()

    def add_rate_limited(self, key: K, priority: int = 0) -> None:
        """The key failed and needs another try."""
        self._metrics.retries += 1
        self.add_after(key, self.limiter.when(key), priority)

    def forget(self, key: K) -> None:
        """The key has done well: its next failure is its first."""
        self.limiter.forget(key)

    async def get(self) -> tuple[K, int]:
        """The most urgent key and its priority; the worker must call :meth:`done` for it.

        :raises ShutDown: when there is no more work to give.
        """
        while not self._ready:
            if self._shut:
                raise ShutDown
            getter = self._loop.create_future()
            self._getters.append(getter)
            try:
                await getter
            except asyncio.CancelledError:
                # The wake-up was for whoever is next in line.
                if getter.done() and not getter.cancelled():
                    self._wake()
                raise
        if self._shut:
            raise ShutDown
        return self._pop()

    def done(self, key: K) -> None:
        """The worker has finished with the key."""
        started = self.processing.pop(key)
        self._metrics.observe_work(self._loop.time() - started)
        if key in self._again:
            self._make_ready(key, self._again.pop(key))

    def shut_down(self) -> None:
        """No more work is taken or given; what workers have they may finish."""
        self._shut = True
        if self._timer is not None:
            self._timer.cancel()
        self._again.clear()
        for getter in self._getters:
            if not getter.done():
                getter.set_result(None)
        self._getters.clear()

    def _make_ready(self, key: K, priority: int) -> None:
        if self._shut:
            return
        known = self._ready.get(key)
        if known is not None and -known[0] >= priority:
            return
        sequence = next(self._sequence)
        added = known[2] if known is not None else self._loop.time()
        self._ready[key] = (-priority, sequence, added)
        heapq.heappush(self._heap, (-priority, sequence, key))
        self._wake()

    def _pop(self) -> tuple[K, int]:
        while True:
            negative, sequence, key = heapq.heappop(self._heap)
            entry = self._ready.get(key)
            if entry is not None and entry[:2] == (negative, sequence):
                break
        del self._ready[key]
        if not self._ready:
            # An emptied dict keeps the room of its fullest day, until it is cleared.
            self._ready.clear()
        now = self._loop.time()
        self._metrics.observe_queue(now - entry[2])
        self.processing[key] = now
        return key, -negative

    def _wake(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return

    def _arm(self) -> None:
        """Makes sure of a timer for the earliest delayed key. When it is due is kept here: uvloop's handles can't always tell."""
        if not self._timers:
            return
        when = self._timers[0][0]
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._loop.call_at(when, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._loop.time() + 0.0005
        while self._timers and self._timers[0][0] <= now:
            when, _, key = heapq.heappop(self._timers)
            known = self._delayed.get(key)
            # A key that was added meanwhile, or has an earlier time, left this timer behind.
            if known is not None and known[0] == when:
                self.add(key, known[1])
        self._arm()
