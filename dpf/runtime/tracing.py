"""Traces: a span for each reconcile and, within it, one for each request it makes. Off unless an endpoint is given.

    --otlp-endpoint http://collector:4318

Spans go out by OTLP over HTTP, in batches, from a thread of the SDK; what can't be delivered within two seconds is dropped, and
the log says so, at most every five minutes. They name controller,
kind, object and outcome, method and path, never what was sent or received. Requests that belong to no reconcile (watches,
leases) have no span. The SDK is an extra, ``dpf[tracing]``, and is imported here and only when traces are wanted; its
environment variables (``OTEL_TRACES_SAMPLER``, ``OTEL_RESOURCE_ATTRIBUTES``, ...) hold.

While they are off, :data:`tracer` is None and all it costs is to look.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dpf.runtime.errors import ConfigError
from dpf.runtime.log import get_logger, hidden

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

log = get_logger(__name__)

DELIVERY = 2.0
"""Seconds that a batch has to get out; a process that ends waits for its last one."""
COMPLAINTS = 300.0
"""Seconds between log lines that batches are not delivered."""

tracer: Tracer | None = None
"""Where spans are begun; None while traces are off."""


class Open:
    """A span that is under way, as the current one of its task if it is a reconcile's."""

    def __init__(self, span: Any, token: Any = None) -> None:
        self._span = span
        self._token = token

    def end(self, attributes: dict[str, str | int], error: str = "") -> None:
        """Ends it. Called in the task that began it.

        :param error: what went wrong; empty if nothing did.
        """
        from opentelemetry import context
        from opentelemetry.trace import StatusCode

        self._span.set_attributes(attributes)
        if error:
            self._span.set_status(StatusCode.ERROR, hidden(error))
        self._span.end()
        if self._token is not None:
            context.detach(self._token)


class Tracer:
    """Begins spans."""

    def __init__(self, provider: TracerProvider) -> None:
        self.provider = provider
        self._tracer = provider.get_tracer("dpf.runtime")

    def reconcile(self, controller: str, kind: str, namespace: str, name: str, ident: str) -> Open:
        """A reconcile begins; what its task and the tasks it starts do is within it."""
        from opentelemetry import context, trace

        attributes = {
            "dpf.controller": controller,
            "dpf.reconcile": ident,
            "k8s.object.kind": kind,
            "k8s.namespace.name": namespace,
            "k8s.object.name": name,
        }
        span = self._tracer.start_span(f"reconcile {kind}", attributes=attributes)
        return Open(span, context.attach(trace.set_span_in_context(span)))

    def request(self, method: str, host: str, path: str) -> Open | None:
        """A request begins; None if it belongs to no reconcile."""
        from opentelemetry import trace

        if not trace.get_current_span().get_span_context().is_valid:
            return None
        attributes = {"http.request.method": method, "server.address": host, "url.path": path}
        return Open(self._tracer.start_span(method, kind=trace.SpanKind.CLIENT, attributes=attributes))


class _Complaints(logging.Handler):
    """Takes what the SDK says into our log."""

    said_at = float("-inf")

    def emit(self, record: logging.LogRecord) -> None:
        if monotonic() > self.said_at + COMPLAINTS:
            self.said_at = monotonic()
            log.warning("traces_not_delivered", error=record.getMessage())


def start(process: str, endpoint: str, exporter: SpanExporter | None = None) -> None:
    """Turns traces on for the process.

    :param endpoint: URL of an OTLP/HTTP receiver; without a path, ``/v1/traces`` is meant. Empty leaves traces off.
    :param exporter: sends the spans instead.
    :raises ConfigError: if the SDK is not installed, or the endpoint is no URL.
    """
    global tracer
    if not endpoint:
        return
    url = urlsplit(endpoint)
    if url.scheme not in {"http", "https"} or not url.netloc:
        raise ConfigError(f"--otlp-endpoint {endpoint!r} is no URL; write for example http://collector:4318")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        message = f"--otlp-endpoint needs OpenTelemetry, which is not installed ({error}): pip install 'dpf[tracing]'"
        raise ConfigError(message) from error
    target = endpoint if url.path.strip("/") else f"{url.scheme}://{url.netloc}/v1/traces"
    provider = TracerProvider(resource=Resource.create({"service.name": process}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter(endpoint=target, timeout=DELIVERY)))
    sdk = logging.getLogger("opentelemetry")
    sdk.handlers, sdk.propagate = [_Complaints(logging.ERROR)], False
    tracer = Tracer(provider)
    log.info("tracing", endpoint=target)


def stop() -> None:
    """Sends the last spans and turns traces off."""
    global tracer
    if tracer is not None:
        tracer.provider.shutdown()
        tracer = None
