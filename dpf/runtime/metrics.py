"""Metrics under the names that dashboards for controller-runtime and client-go already know.

What is counted on hot paths is a plain integer in a small object; it becomes a metric when somebody scrapes. A count costs a
tenth of a microsecond that way, where a labelled counter of the client library costs two.

Besides the field's names there are our own: ``dpf_cache_*`` (objects, unreadable ones, relists, expired and silent watches),
``dpf_writes_skipped_total``, ``dpf_remote_cluster_up``, ``dpf_event_loop_lag_seconds`` and ``dpf_gc_pause_seconds_max``.
"""

from __future__ import annotations

import asyncio
import gc
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from dpf.runtime.cluster import Cache
    from dpf.runtime.queue import WorkQueue

RECONCILE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
QUEUE_BUCKETS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)
REQUEST_BUCKETS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
LAG_INTERVAL = 0.5
"""Seconds between looks at how late the event loop is."""


class Histogram:
    """Counts of values by bucket; the last bucket has no bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts, as the exposition format wants them."""
        running, rows = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            rows.append((bound, float(running)))
        return rows


class QueueMetrics:
    """What a work queue counts."""

    def __init__(self) -> None:
        self.adds = 0
        self.retries = 0
        self.waited = Histogram(QUEUE_BUCKETS)
        self.worked = Histogram(QUEUE_BUCKETS)

    def observe_queue(self, seconds: float) -> None:
        self.waited.observe(seconds)

    def observe_work(self, seconds: float) -> None:
        self.worked.observe(seconds)


class ControllerMetrics:
    """What a controller counts."""

    def __init__(self, name: str, workers: int) -> None:
        self.name = name
        self.max = workers
        self.active = 0
        self.results = Counter(error=0, requeue=0, requeue_after=0, success=0)
        self.errors = 0
        self.terminal = 0
        self.panics = 0
        self.timeouts = 0
        self.seconds = Histogram(RECONCILE_BUCKETS)
        self.queue = QueueMetrics()
        self.work_queue: WorkQueue[Any] | None = None

    def watch(self, queue: WorkQueue[Any]) -> None:
        """The queue to read depth and unfinished work from."""
        self.work_queue = queue

    def observe(self, seconds: float) -> None:
        """A reconcile took so long."""
        self.seconds.observe(seconds)


class RestMetrics:
    """What a client counts of one API server."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.seconds: dict[str, Histogram] = {}

    def count(self, method: str, code: int, seconds: float) -> None:
        """A request was answered; code 0 means it was not."""
        self.requests[method, code] += 1
        counts = self.seconds.get(method)
        if counts is None:
            counts = self.seconds[method] = Histogram(REQUEST_BUCKETS)
        counts.observe(seconds)


class Metrics:
    """All metrics of a process. :meth:`scrape` is what a scrape gets."""

    def __init__(self) -> None:
        self.leading: dict[str, bool] = {}
        """Lease name to whether this process holds it."""
        self.slow_renewals: Counter[str] = Counter()
        """Renewals, by lease name, for which the leader had to read the lease first."""
        self.webhooks: Counter[tuple[str, int]] = Counter()
        """Admission requests by path and HTTP code."""
        self.webhook_seconds: dict[str, Histogram] = {}
        self.webhooks_in_flight: Counter[str] = Counter()
        self.webhook_panics: Counter[str] = Counter()
        """Admission requests, by path, on which a webhook's function raised what nobody expected."""
        self.events: Counter[str] = Counter(Normal=0, Warning=0)
        """Events written, by type."""
        self.events_withheld = 0
        self.events_dropped = 0
        self.loop_lag = 0.0
        self.gc_pause_max = 0.0
        self._controllers: dict[str, ControllerMetrics] = {}
        self._rest: dict[str, RestMetrics] = {}
        self._caches: list[Cache] = []
        self._skipped: dict[str, Callable[[], int]] = {}
        self._circuits: dict[str, bool] = {}
        self._unreadable: Counter[str] = Counter()
        self._gc_started = 0.0
        self._more: list[Callable[[], Iterable[Metric]]] = []
        self._texts: list[Callable[[], AsyncIterator[str]]] = []

    def controller(self, name: str, workers: int) -> ControllerMetrics:
        """The counts of a controller, made on first use."""
        return self._controllers.setdefault(name, ControllerMetrics(name, workers))

    def count_request(self, host: str, method: str, code: int, seconds: float) -> None:
        """A request to an API server was answered; code 0 means it was not."""
        rest = self._rest.get(host)
        if rest is None:
            rest = self._rest[host] = RestMetrics()
        rest.count(method, code, seconds)

    def watch_cache(self, cache: Cache) -> None:
        """The cache whose informers are to be shown."""
        self._caches.append(cache)

    def watch_skipped_writes(self, cluster: str, count: Callable[[], int]) -> None:
        """Where to read how many writes to a cluster would have changed nothing and were not sent."""
        self._skipped[cluster] = count

    def circuit(self, cluster: str, *, is_open: bool) -> None:
        """The state of a remote cluster's circuit."""
        self._circuits[cluster] = is_open

    def forget_cluster(self, cluster: str) -> None:
        """A remote cluster is no longer connected."""
        self._circuits.pop(cluster, None)

    def forget_host(self, host: str) -> None:
        """No cluster at this address is connected any more; if another comes, it is counted from 0."""
        self._rest.pop(host, None)

    def decode_failed(self, kind: str) -> None:
        """An object did not fit its model."""
        self._unreadable[kind] += 1

    def add(self, collect: Callable[[], Iterable[Metric]]) -> None:
        """Metrics of the application: ``collect`` is called at each scrape."""
        self._more.append(collect)

    def add_text(self, collect: Callable[[], AsyncIterator[str]]) -> None:
        """Metrics of the application that are too many to become samples one by one.

        :param collect: yields the text format piece by piece, family after family; each piece is sent before the next.
        """
        self._texts.append(collect)

    async def scrape(self) -> AsyncIterator[bytes]:
        """All that there is, in the text exposition format, piece by piece."""
        yield self.render()
        for collect in self._texts:
            async for text in collect():
                yield text.encode()

    async def run(self) -> None:
        """Watches how late the event loop is and how long the garbage collector stops it, until cancelled."""
        gc.callbacks.append(self._on_gc)
        try:
            while True:
                before = perf_counter()
                await asyncio.sleep(LAG_INTERVAL)
                self.loop_lag = max(0.0, perf_counter() - before - LAG_INTERVAL)
        finally:
            gc.callbacks.remove(self._on_gc)

    def _on_gc(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._gc_started = perf_counter()
        else:
            self.gc_pause_max = max(self.gc_pause_max, perf_counter() - self._gc_started)

    def render(self) -> bytes:
        """The text exposition format; without what was added by :meth:`add_text`."""
        return rendered(self)

    def collect(self) -> Iterator[Metric]:
        """All metrics, for a prometheus_client registry."""
        yield from self._of_controllers()
        yield from self._of_queues()
        yield from self._of_clients()
        yield from self._of_caches()
        yield from self._of_process()
        for collect in self._more:
            yield from collect()

    def _of_controllers(self) -> Iterator[Metric]:
        controllers = self._controllers.values()
        prefix = "controller_runtime_"
        yield counter(
            prefix + "reconcile",
            "Reconciles by result.",
            {(c.name, result): n for c in controllers for result, n in c.results.items()},
            ("controller", "result"),
        )
        for name, text, field in (
            ("reconcile_errors", "Reconciles that failed.", "errors"),
            ("terminal_reconcile_errors", "Reconciles that ended in a terminal error.", "terminal"),
            ("reconcile_panics", "Reconciles that raised what nobody expected.", "panics"),
            ("reconcile_timeouts", "Reconciles that passed their deadline.", "timeouts"),
        ):
            yield counter(prefix + name, text, {(c.name,): getattr(c, field) for c in controllers}, ("controller",))
        yield gauge(
            prefix + "max_concurrent_reconciles",
            "Workers of a controller.",
            {(c.name,): c.max for c in controllers},
            ("controller",),
        )
        yield gauge(
            prefix + "active_workers",
            "Workers that reconcile now.",
            {(c.name,): c.active for c in controllers},
            ("controller",),
        )
        yield histogram(
            prefix + "reconcile_time_seconds",
            "Length of reconciles.",
            {(c.name,): c.seconds for c in controllers},
            ("controller",),
        )

    def _of_queues(self) -> Iterator[Metric]:
        controllers = self._controllers.values()
        labels = ("name", "controller")
        for name, text in (("adds", "Adds to the queue."), ("retries", "Adds after a failure.")):
            values = {(c.name, c.name): getattr(c.queue, name) for c in controllers}
            yield counter(f"workqueue_{name}", text, values, labels)
        queues = [(c.name, c.work_queue) for c in controllers if c.work_queue is not None]
        depths = {(n, n, str(p)): d for n, q in queues for p, d in (q.depths() or {0: 0}).items()}
        yield gauge("workqueue_depth", "Keys that are ready.", depths, (*labels, "priority"))
        ages = {name: [_loop_time() - started for started in queue.processing.values()] for name, queue in queues}
        yield gauge(
            "workqueue_unfinished_work_seconds",
            "Seconds of work in progress, added up.",
            {(name, name): sum(age) for name, age in ages.items()},
            labels,
        )
        yield gauge(
            "workqueue_longest_running_processor_seconds",
            "Seconds of the longest work in progress.",
            {(name, name): max(age, default=0.0) for name, age in ages.items()},
            labels,
        )
        waited = {(c.name, c.name): c.queue.waited for c in controllers}
        worked = {(c.name, c.name): c.queue.worked for c in controllers}
        yield histogram("workqueue_queue_duration_seconds", "Time keys waited in the queue.", waited, labels)
        yield histogram("workqueue_work_duration_seconds", "Time keys were worked on.", worked, labels)

    def _of_clients(self) -> Iterator[Metric]:
        yield counter(
            "rest_client_requests",
            "Requests to API servers, by address (a path included); code 0 means no answer.",
            {
                (str(code), method, host): n
                for host, rest in self._rest.items()
                for (method, code), n in rest.requests.items()
            },
            ("code", "method", "host"),
        )
        yield histogram(
            "rest_client_request_duration_seconds",
            "Length of requests.",
            {(method, host): h for host, rest in self._rest.items() for method, h in rest.seconds.items()},
            ("verb", "host"),
        )

        skipped = {(cluster,): count() for cluster, count in self._skipped.items()}
        yield counter("dpf_writes_skipped", "Writes not sent: they would change nothing.", skipped, ("cluster",))

    def _of_caches(self) -> Iterator[Metric]:
        informers = [informer for cache in self._caches for informer in cache.informers()]
        sizes = {(i.kind.RESOURCE.kind,): len(i) for i in informers}
        yield gauge("dpf_cache_objects", "Objects in the cache.", sizes, ("kind",))
        unreadable = {(kind,): n for kind, n in self._unreadable.items()}
        yield counter("dpf_cache_unreadable_objects", "Object versions no model could read.", unreadable, ("kind",))
        stats = {
            kind.RESOURCE.kind: reflector.stats
            for cache in self._caches
            for kind, reflector in cache.reflectors.items()
        }
        for field, text in (
            ("lists", "Lists made."),
            ("watches", "Watches opened."),
            ("failures", "Lists and watches that failed."),
            ("expired", "Watches whose version the server had forgotten."),
            ("silent", "Watches cut for silence."),
            ("dropped", "Events that were no object of the kind."),
        ):
            values = {(kind,): getattr(s, field) for kind, s in stats.items()}
            yield counter(f"dpf_cache_{field}", text, values, ("kind",))

    def _of_process(self) -> Iterator[Metric]:
        leading = {(name,): int(leads) for name, leads in self.leading.items()}
        yield gauge("leader_election_master_status", "Whether this process leads.", leading, ("name",))
        slow = {(name,): self.slow_renewals[name] for name in self.leading}
        yield counter("leader_election_slowpath", "Renewals that had to read the lease first.", slow, ("name",))
        up = {(cluster,): int(not is_open) for cluster, is_open in self._circuits.items()}
        yield gauge("dpf_remote_cluster_up", "Whether a remote cluster answers.", up, ("cluster",))
        yield from self._of_webhooks()
        events = {(kind,): n for kind, n in self.events.items()}
        yield counter("dpf_events", "Events written.", events, ("type",))
        yield counter("dpf_events_withheld", "Normal events kept back by the limit.", {(): self.events_withheld}, ())
        yield counter("dpf_events_dropped", "Events lost to a full queue.", {(): self.events_dropped}, ())
        yield gauge("dpf_event_loop_lag_seconds", "How late the event loop was.", {(): self.loop_lag}, ())
        yield gauge("dpf_gc_pause_seconds_max", "Longest stop for garbage collection.", {(): self.gc_pause_max}, ())

    def _of_webhooks(self) -> Iterator[Metric]:
        prefix, label = "controller_runtime_webhook_", ("webhook",)
        requests = {(path, str(code)): n for (path, code), n in self.webhooks.items()}
        yield counter(prefix + "requests", "Admission requests.", requests, (*label, "code"))
        flying = {(path,): n for path, n in self.webhooks_in_flight.items()}
        yield gauge(prefix + "requests_in_flight", "Admission requests being answered.", flying, label)
        panics = {(path,): n for path, n in self.webhook_panics.items()}
        yield counter(prefix + "panics", "Admission functions that raised what nobody expected.", panics, label)
        seconds = {(path,): h for path, h in self.webhook_seconds.items()}
        yield histogram(prefix + "latency_seconds", "Length of admission.", seconds, label)


class Collector(Protocol):
    """Something with metrics."""

    def collect(self) -> Iterable[Metric]:
        """All of its metrics now."""


def rendered(collector: Collector) -> bytes:
    """Its metrics, and those that every process has, in the text exposition format."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.gc_collector import GCCollector
    from prometheus_client.platform_collector import PlatformCollector
    from prometheus_client.process_collector import ProcessCollector

    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return generate_latest(registry)


Values = Mapping[Any, Any]
"""Label values, a tuple, to the figure."""


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


def counter(name: str, text: str, values: Values, labels: tuple[str, ...]) -> Metric:
    """A counter as a scrape shows it, by label values; ``_total`` is put behind the name."""
    from prometheus_client.metrics_core import CounterMetricFamily

    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def gauge(name: str, text: str, values: Values, labels: tuple[str, ...]) -> Metric:
    """A gauge as a scrape shows it, by label values."""
    from prometheus_client.metrics_core import GaugeMetricFamily

    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def histogram(name: str, text: str, values: Mapping[Any, Histogram], labels: tuple[str, ...]) -> Metric:
    """A histogram as a scrape shows it, by label values."""
    from prometheus_client.metrics_core import HistogramMetricFamily

    family = HistogramMetricFamily(name, text, labels=labels)
    for key, counts in values.items():
        family.add_metric(key, counts.buckets(), counts.total)
    return family
