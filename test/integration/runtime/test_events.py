"""Events on a real API server."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from dpf.runtime.client import Client
from dpf.runtime.events import QUEUE, EventRecorder
from dpf.runtime.k8s import ConfigMap, Event
from dpf.runtime.meta import ObjectMeta
from dpf.runtime.metrics import Metrics


async def said(client: Client, recorder: EventRecorder, namespace: str) -> list[Event]:
    """All events, once the recorder has ended."""
    task = asyncio.create_task(recorder.run())
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return await client.list(Event, namespace)


async def test_repeats_of_an_event_become_a_series_and_the_last_go_out_at_the_end(
    host_client: Client, namespace: str
) -> None:
    obj = await host_client.create(ConfigMap(metadata=ObjectMeta(name="a", namespace=namespace)))
    recorder = EventRecorder(host_client, "tester")
    for number in range(5):
        recorder.warning(obj, "FailedDownload", f"try {number}")
    recorder.normal(obj, "SuccessfulDownload", "done")
    events = {event.reason: event for event in await said(host_client, recorder, namespace)}
    assert events.keys() == {"FailedDownload", "SuccessfulDownload"}
    failed = events["FailedDownload"]
    assert failed.series is not None
    assert (failed.series.count, failed.note, failed.type) == (5, "try 0", "Warning")
    assert (failed.regarding.kind, failed.regarding.uid) == ("ConfigMap", obj.uid)
    assert failed.reporting_controller == "tester"


async def test_a_long_note_is_cut_and_a_secret_in_it_hidden(host_client: Client, namespace: str) -> None:
    obj = await host_client.create(ConfigMap(metadata=ObjectMeta(name="a", namespace=namespace)))
    recorder = EventRecorder(host_client, "tester")
    recorder.normal(obj, "Said", "token abcdef.0123456789abcdef " + "ü" * 2000)
    [event] = await said(host_client, recorder, namespace)
    assert len(event.note.encode()) <= 1024
    assert "abcdef.0123456789abcdef" not in event.note


async def test_what_does_not_fit_the_queue_is_dropped_and_counted(host_client: Client) -> None:
    metrics = Metrics()
    recorder = EventRecorder(host_client, "tester", metrics)
    obj = ConfigMap(metadata=ObjectMeta(name="a", namespace="n"))
    for _ in range(QUEUE + 3):
        recorder.normal(obj, "Said", "again")
    assert metrics.events_dropped == 3
