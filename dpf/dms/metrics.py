"""What a server of one card tells of itself: calls, installations, bytes, reboots, and when its certificate ends.

Calls have the names that Go's gRPC servers give them. Errors that gNOI has messages for (of an installation, an activation) are
no errors of the call: these are in ``dpf_dms_installs_total``, and in the log.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

import grpc

from dpf.runtime.metrics import counter, gauge, rendered

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

Context = grpc.aio.ServicerContext[Any, Any]
Call = tuple[str, str, str]
"""Type, service and method."""

CODES = {code.value[0]: code.name for code in grpc.StatusCode}
OUTCOMES = {"done": "success", "failed": "failure", "passing": "interrupted"}
"""How an activation ends, and what it is called here; of an interrupted one the client is told that another try may do better."""


class DmsMetrics:
    """What one server counts."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str, str, str]] = Counter()
        """By type, service, method and code."""
        self.installs: Counter[str] = Counter(dict.fromkeys(OUTCOMES.values(), 0))
        self.written_bytes = 0
        self.reboots: Counter[str] = Counter(WARM=0, COLD=0)
        self.certificate_ends: Callable[[], float | None] = lambda: None
        """When the certificate ends that a new connection gets, seconds since 1970."""

    def ended(self, progress: str) -> None:
        """An activation ended."""
        self.installs[OUTCOMES[progress]] += 1

    def wrote(self, count: int) -> None:
        """The card took so many bytes."""
        self.written_bytes += count

    def rebooted(self, method: str) -> None:
        """The host is told to reboot."""
        self.reboots[method] += 1

    async def scrape(self) -> AsyncIterator[bytes]:
        """All that there is, and what every process tells, in the text exposition format."""
        yield rendered(self)

    def collect(self) -> Iterator[Metric]:
        """All of it, for a prometheus_client registry."""
        labels = ("grpc_type", "grpc_service", "grpc_method", "grpc_code")
        yield counter("grpc_server_handled", "Calls that ended, by their code.", self.calls, labels)
        installs = {(outcome,): count for outcome, count in self.installs.items()}
        yield counter("dpf_dms_installs", "Activations of images that ended.", installs, ("outcome",))
        yield counter("dpf_dms_written_bytes", "Bytes that the card took.", {(): self.written_bytes}, ())
        reboots = {(method,): count for method, count in self.reboots.items()}
        yield counter("dpf_dms_host_reboots", "Reboots of the host that were begun.", reboots, ("method",))
        ends = self.certificate_ends()
        yield gauge(
            "dpf_dms_certificate_expiration_timestamp_seconds",
            "When the certificate ends that new connections get, in seconds since 1970.",
            {(): ends} if ends is not None else {},
            (),
        )


class CountCalls(grpc.aio.ServerInterceptor):
    """Counts calls as they end. Names that nobody serves are not counted one by one: a client may make up as many as it likes."""

    def __init__(self, metrics: DmsMetrics) -> None:
        self._metrics = metrics

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """As gRPC calls it; the handler with the counting around it."""
        handler = await continuation(handler_call_details)
        if handler is None:
            self._metrics.calls["unary", "", "", grpc.StatusCode.UNIMPLEMENTED.name] += 1
            return None
        _, service, method = handler_call_details.method.rsplit("/", 2)
        return self._counted(handler, service, method)

    def _counted(self, handler: Any, service: str, method: str) -> Any:
        sent = "client_stream" if handler.request_streaming else "unary"
        kind = {(True, True): "bidi_stream", (False, True): "server_stream"}.get(
            (handler.request_streaming, handler.response_streaming), sent
        )
        call = kind, service, method
        shape = f"{_shape(handler.request_streaming)}_{_shape(handler.response_streaming)}"
        inner = getattr(handler, shape)

        async def one(request: Any, context: Context) -> Any:
            with self._call(call, context):
                answer = inner(request, context)
                # What a service leaves out is a plain function of the generated code.
                return await answer if isawaitable(answer) else answer

        async def many(request: Any, context: Context) -> AsyncIterator[Any]:
            with self._call(call, context):
                async with aclosing(inner(request, context)) as answers:
                    async for answer in answers:
                        yield answer

        make = getattr(grpc, f"{shape}_rpc_method_handler")
        return make(
            many if handler.response_streaming else one, handler.request_deserializer, handler.response_serializer
        )

    @contextmanager
    def _call(self, call: Call, context: Context) -> Iterator[None]:
        code = grpc.StatusCode.OK.name
        try:
            yield
            code = _told(context) or code
        except (asyncio.CancelledError, GeneratorExit):
            code = grpc.StatusCode.CANCELLED.name
            raise
        except BaseException:
            code = _told(context) or grpc.StatusCode.UNKNOWN.name
            raise
        finally:
            self._metrics.calls[*call, code] += 1


def _shape(streaming: bool) -> str:
    return "stream" if streaming else "unary"


def _told(context: Context) -> str:
    """The code that the call was ended with; empty if none was set."""
    code: Any = context.code()
    number = code if isinstance(code, int) else code.value[0] if code is not None else 0
    return CODES.get(number, "") if number else ""
