"""Traces of reconciles and their requests."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest
from aiohttp import web
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dpf.runtime import tracing
from dpf.runtime.controller import Controller, For, Result
from dpf.runtime.errors import ConfigError, NotFound, Waiting
from dpf.runtime.metrics import Metrics
from test.unit.runtime.controllers import Recording, Running
from test.unit.runtime.scripted import ScriptedServer, answer, serving, status
from test.unit.runtime.widgets import Widget, raw


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """Traces are on, and kept here."""
    exporter = InMemorySpanExporter()
    tracing.start("tester", "http://127.0.0.1:1", exporter)
    yield exporter
    tracing.stop()


def taken(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    assert tracing.tracer is not None
    tracing.tracer.provider.force_flush()
    return list(exporter.get_finished_spans())


async def reconciled(reconciler: Recording) -> None:
    controller = Controller("widget", reconciler, watches=[For(Widget)])
    async with Running(controller, Metrics()) as running:
        running.widgets.replace([raw("a", 1)], 1)
        async with asyncio.timeout(5):
            while not reconciler.calls:
                await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)


async def test_a_reconcile_is_a_span_with_object_and_outcome(spans: InMemorySpanExporter) -> None:
    await reconciled(Recording())
    [span] = taken(spans)
    assert span.name == "reconcile Widget"
    found = dict(span.attributes or {})
    assert (found["dpf.controller"], found["k8s.object.kind"], found["k8s.object.name"]) == ("widget", "Widget", "a")
    assert found["dpf.outcome"] == "success"
    assert span.status.is_unset


async def test_how_a_reconcile_ended_is_told_apart(spans: InMemorySpanExporter) -> None:
    async def wait(_: Widget) -> Result | None:
        raise Waiting("Slow", "not yet")

    async def break_(_: Widget) -> Result | None:
        raise ValueError("token abcdef.0123456789abcdef is bad")

    await reconciled(Recording(wait))
    await reconciled(Recording(break_))
    waited, broken = taken(spans)[:2]
    assert (waited.attributes or {})["dpf.outcome"] == "waiting"
    assert waited.status.is_unset
    assert (broken.attributes or {})["dpf.outcome"] == "error"
    assert broken.status.description == "token <hidden> is bad"


async def test_requests_are_within_their_reconcile_and_others_have_no_span(spans: InMemorySpanExporter) -> None:
    async with serving(ScriptedServer(answer(lambda: status(404, "NotFound")))) as client:

        async def ask(_: Widget) -> Result | None:
            await client.request("GET", "/version")
            return None

        with suppress(NotFound):
            await client.request("GET", "/healthz")
        await reconciled(Recording(ask))
    request, reconcile, *_ = taken(spans)
    assert request.name == "GET"
    assert (request.attributes or {})["url.path"] == "/version"
    assert (request.attributes or {})["http.response.status_code"] == 404
    assert request.parent is not None
    assert reconcile.context is not None
    assert request.parent.span_id == reconcile.context.span_id
    assert request.status.description == "HTTP 404"


async def test_off_means_off() -> None:
    tracing.start("tester", "")
    assert tracing.tracer is None
    await reconciled(Recording())
    tracing.stop()


def test_an_endpoint_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="write for example http://collector:4318"):
        tracing.start("tester", "collector:4318")


def test_without_the_sdk_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"pip install 'dpf\[tracing\]'"):
        tracing.start("tester", "http://collector:4318")
    assert tracing.tracer is None


def test_a_provider_is_made_for_the_process(spans: InMemorySpanExporter) -> None:
    assert tracing.tracer is not None
    assert isinstance(tracing.tracer.provider, TracerProvider)
    assert tracing.tracer.provider.resource.attributes["service.name"] == "tester"


async def test_spans_go_out_by_otlp_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    server = ScriptedServer(answer(web.Response))
    async with serving(server) as client:
        tracing.start("tester", client.transport.kubeconfig.server)
        await reconciled(Recording())
        await asyncio.to_thread(tracing.stop)
    [request] = server.seen
    assert (request.method, request.path) == ("POST", "/v1/traces")
    assert request.content_type == "application/x-protobuf"


def test_a_receiver_that_is_not_there_delays_the_end_by_seconds_at_most_and_is_told_of(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(tracing, "DELIVERY", 0.1)
    tracing.start("tester", "http://127.0.0.1:1")
    assert tracing.tracer is not None
    tracing.tracer.reconcile("dpu", "DPU", "n", "a", "1").end({"dpf.outcome": "success"})
    tracing.stop()
    told = capsys.readouterr()
    assert (told.out + told.err).count("traces_not_delivered") == 1
