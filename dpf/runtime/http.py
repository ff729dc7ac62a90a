"""What a process shows of itself over HTTP: ``/healthz``, ``/readyz`` and ``/metrics``.

``/healthz`` answers ``ok`` as long as the event loop turns. ``/readyz`` answers 503 and names what is missing until all checks
hold. ``/metrics`` is plain HTTP without authentication, like a kubelet's read-only port: bind it to an address that only the
scraper reaches, or to 0 to have none. With a guard it is HTTPS, with a certificate made at start that nobody signed, and only
whom the guard lets in is answered.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from types import TracebackType
from typing import Protocol

from aiohttp import web

from dpf.runtime.certs import SmallCA, load
from dpf.runtime.errors import ConfigError
from dpf.runtime.log import get_logger

log = get_logger(__name__)


def split_address(address: str) -> tuple[str | None, int] | None:
    """Host and port of ``HOST:PORT``; ``:PORT``, all addresses of IPv4 and IPv6, has no host; ``0`` or nothing means none.

    :raises ConfigError: if it is not an address.
    """
    if address in {"", "0"}:
        return None
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{address!r} is no address to listen on; write HOST:PORT, :PORT, or 0 for none")
    return host.strip("[]") or None, int(port)


def spelt(host: str | None, port: int) -> str:
    """An address as people write it: ``HOST:PORT``, ``[HOST]:PORT`` for IPv6, ``:PORT`` for all addresses."""
    return f"[{host}]:{port}" if host and ":" in host else f"{host or ''}:{port}"


class Source(Protocol):
    """Has metrics."""

    def scrape(self) -> AsyncIterator[bytes]:
        """All of them in the text exposition format, piece by piece."""


class Guard(Protocol):
    """Says who may have the metrics."""

    async def verdict(self, authorization: str, path: str) -> int:
        """The HTTP status for a request with that header; 200 lets it in."""


SCRAPE_CERTIFICATE = timedelta(days=365)


class Servers:
    """The health and metrics servers. Use as an async context manager."""

    def __init__(self, *, health: str, metrics: str, source: Source, guard: Guard | None = None) -> None:
        self._health = split_address(health)
        self._metrics = split_address(metrics)
        self._source = source
        self._guard = guard
        self._checks: dict[str, Callable[[], bool]] = {}
        self._stack = AsyncExitStack()
        self.bound: dict[str, tuple[str, int]] = {}
        """Host and port of ``health`` and ``metrics`` while they are served: tells which port 0 became. Of all addresses, one."""

    def add_readiness(self, name: str, check: Callable[[], bool]) -> None:
        """``/readyz`` needs this check too."""
        self._checks[name] = check

    async def __aenter__(self) -> Servers:
        health = [web.get("/healthz", self._healthz), web.get("/readyz", self._readyz)]
        metrics = [web.get("/metrics", self._scrape)]
        await self._serve("health", self._health, health)
        await self._serve("metrics", self._metrics, metrics, _tls() if self._guard is not None else None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _serve(
        self,
        name: str,
        address: tuple[str | None, int] | None,
        routes: list[web.RouteDef],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if address is None:
            return
        app = web.Application()
        app.add_routes(routes)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        host, port = address
        try:
            await web.TCPSite(runner, host, port, ssl_context=tls).start()
        except OSError as error:
            flag = "--health-probe-bind-address" if name == "health" else "--metrics-bind-address"
            raise ConfigError(
                f"cannot listen on {spelt(host, port)} for {name}: {error.strerror}; give {flag}"
            ) from error
        bound = self.bound[name] = runner.addresses[0][:2]
        log.info("listening", server=name, address=spelt(host and bound[0], bound[1]))

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _readyz(self, _: web.Request) -> web.Response:
        missing = [name for name, check in self._checks.items() if not check()]
        if missing:
            return web.Response(status=503, text=f"not ready: {', '.join(missing)}")
        return web.Response(text="ok")

    async def _scrape(self, request: web.Request) -> web.StreamResponse:
        if self._guard is not None:
            status = await self._guard.verdict(request.headers.get("Authorization", ""), request.path)
            if status != 200:
                return web.Response(status=status, text=REFUSALS[status])
        response = web.StreamResponse(headers={"Content-Type": "text/plain; version=0.0.4"})
        await response.prepare(request)
        # A scraper that has gone meanwhile, as one that was in a hurry does, is no fault of ours.
        with suppress(ConnectionResetError):
            async for piece in self._source.scrape():
                await response.write(piece)
            await response.write_eof()
        return response


REFUSALS = {
    401: "metrics need a bearer token that the cluster accepts",
    403: "this account may not get the non-resource URL /metrics",
    503: "the API server could not be asked whether this account may",
}


def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load(context, SmallCA.make("metrics").issue("metrics", purposes=["server"], lifetime=SCRAPE_CERTIFICATE))
    return context
