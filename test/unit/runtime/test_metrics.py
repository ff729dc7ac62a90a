"""Metrics, as a scrape shows them."""

from __future__ import annotations

import asyncio
import gc

import pytest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from dpf.runtime import metrics as module
from dpf.runtime.metrics import RECONCILE_BUCKETS, Histogram, Metrics
from dpf.runtime.queue import WorkQueue

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(metrics: Metrics) -> Samples:
    """Each sample by name and labels."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(samples: Samples, sample: str, /, **labels: str) -> float:
    return samples[sample, frozenset(labels.items())]


async def test_a_controller_is_shown_under_the_names_of_controller_runtime() -> None:
    metrics = Metrics()
    controller = metrics.controller("dpu", 4)
    controller.results["success"] += 2
    controller.errors, controller.terminal, controller.panics, controller.timeouts, controller.active = 5, 4, 3, 2, 1
    controller.observe(0.007)
    samples = scraped(metrics)
    prefix = "controller_runtime_"
    assert value(samples, prefix + "reconcile_total", controller="dpu", result="success") == 2
    assert value(samples, prefix + "reconcile_errors_total", controller="dpu") == 5
    assert value(samples, prefix + "terminal_reconcile_errors_total", controller="dpu") == 4
    assert value(samples, prefix + "reconcile_panics_total", controller="dpu") == 3
    assert value(samples, prefix + "reconcile_timeouts_total", controller="dpu") == 2
    assert value(samples, prefix + "active_workers", controller="dpu") == 1
    assert value(samples, prefix + "max_concurrent_reconciles", controller="dpu") == 4
    assert value(samples, prefix + "reconcile_time_seconds_count", controller="dpu") == 1
    assert value(samples, prefix + "reconcile_time_seconds_bucket", controller="dpu", le="0.005") == 0
    assert value(samples, prefix + "reconcile_time_seconds_bucket", controller="dpu", le="0.01") == 1


async def test_results_that_never_happened_are_zero_not_absent() -> None:
    metrics = Metrics()
    metrics.controller("dpu", 1)
    samples = scraped(metrics)
    for result in ("error", "requeue", "requeue_after", "success"):
        assert value(samples, "controller_runtime_reconcile_total", controller="dpu", result=result) == 0


async def test_a_queue_is_shown_under_the_names_of_client_go() -> None:
    metrics = Metrics()
    queue = metrics.controller("dpu", 1).queue
    queue.adds, queue.retries = 7, 2
    queue.observe_queue(0.5)
    queue.observe_work(2.0)
    samples = scraped(metrics)
    labels = {"name": "dpu", "controller": "dpu"}
    assert value(samples, "workqueue_adds_total", **labels) == 7
    assert value(samples, "workqueue_retries_total", **labels) == 2
    assert value(samples, "workqueue_queue_duration_seconds_sum", **labels) == 0.5
    assert value(samples, "workqueue_work_duration_seconds_sum", **labels) == 2.0


async def test_a_stuck_worker_and_what_waits_for_it_are_shown() -> None:
    metrics = Metrics()
    queue: WorkQueue[str] = WorkQueue()
    metrics.controller("dpu", 1).watch(queue)
    for key in ("stuck", "a", "b"):
        queue.add(key, 5)
    key, _ = await queue.get()
    queue.processing[key] -= 100
    samples = scraped(metrics)
    labels = {"name": "dpu", "controller": "dpu"}
    assert value(samples, "workqueue_unfinished_work_seconds", **labels) >= 100
    assert value(samples, "workqueue_longest_running_processor_seconds", **labels) >= 100
    assert value(samples, "workqueue_depth", **labels, priority="5") == 2


async def test_requests_are_counted_by_code_method_and_host() -> None:
    metrics = Metrics()
    metrics.count_request("host:1", "GET", 200, 0.01)
    metrics.count_request("host:1", "GET", 200, 0.01)
    metrics.count_request("host:1", "PATCH", 0, 1.0)
    samples = scraped(metrics)
    assert value(samples, "rest_client_requests_total", code="200", method="GET", host="host:1") == 2
    assert value(samples, "rest_client_requests_total", code="0", method="PATCH", host="host:1") == 1
    assert value(samples, "rest_client_request_duration_seconds_count", verb="GET", host="host:1") == 2


async def test_the_process_says_whom_it_leads_what_it_lost_and_whom_it_reaches() -> None:
    metrics = Metrics()
    metrics.leading["manager"] = True
    metrics.events_dropped, metrics.events_withheld = 3, 2
    metrics.webhooks["/validate", 200] += 1
    metrics.decode_failed("DPU")
    metrics.circuit("n/a", is_open=True)
    metrics.circuit("n/b", is_open=False)
    metrics.circuit("n/c", is_open=False)
    metrics.forget_cluster("n/c")
    metrics.watch_skipped_writes("host", lambda: 12)
    samples = scraped(metrics)
    assert value(samples, "leader_election_master_status", name="manager") == 1
    assert value(samples, "dpf_events_dropped_total") == 3
    assert value(samples, "dpf_events_withheld_total") == 2
    assert value(samples, "controller_runtime_webhook_requests_total", webhook="/validate", code="200") == 1
    assert value(samples, "dpf_cache_unreadable_objects_total", kind="DPU") == 1
    assert value(samples, "dpf_writes_skipped_total", cluster="host") == 12
    up = {dict(labels)["cluster"]: v for (name, labels), v in samples.items() if name == "dpf_remote_cluster_up"}
    assert up == {"n/a": 0, "n/b": 1}


async def test_an_application_adds_its_own() -> None:
    metrics = Metrics()

    def collect() -> list[Metric]:
        return [GaugeMetricFamily("dpus", "DPUs.", value=4)]

    metrics.add(collect)
    assert value(scraped(metrics), "dpus") == 4


def test_a_value_on_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram(RECONCILE_BUCKETS)
    for seconds in (0.005, 0.0051, 61.0):
        histogram.observe(seconds)
    buckets = dict(histogram.buckets())
    assert (buckets["0.005"], buckets["0.01"], buckets["60.0"], buckets["+Inf"]) == (1, 2, 2, 3)
    assert list(buckets.values()) == sorted(buckets.values())


async def test_how_late_the_loop_is_is_watched_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 12.5, 13.0, 13.0, 13.0])
    monkeypatch.setattr(module, "perf_counter", lambda: next(times))
    monkeypatch.setattr(module, "LAG_INTERVAL", 0.0)
    metrics = Metrics()
    task = asyncio.create_task(metrics.run())
    while metrics.loop_lag == 0.0:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert value(scraped(metrics), "dpf_event_loop_lag_seconds") == 2.5


async def test_pauses_for_garbage_are_watched_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    before = list(gc.callbacks)
    task = asyncio.create_task(metrics.run())
    await asyncio.sleep(0)
    times = iter([10.0, 10.5, 11.0, 11.25])
    with monkeypatch.context() as patched:
        patched.setattr(module, "perf_counter", lambda: next(times, 11.25))
        gc.collect()
        gc.collect()
    assert value(scraped(metrics), "dpf_gc_pause_seconds_max") == 0.5, "the longest of two"
    task.cancel()
    await asyncio.wait([task])
    assert gc.callbacks == before
