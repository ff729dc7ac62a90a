"""What a process shows of itself over HTTP: ``/healthz``, ``/readyz`` and ``/metrics``.

``/healthz`` answers ``ok`` as long as the event loop turns. ``/readyz`` answers 503 and names what is missing until all checks
hold. ``/metrics`` is plain HTTP without authentication, like a kubelet's read-only port: bind it to an address that only the
scraper reaches, or to 0 to have none.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType

from aiohttp import web

from dpf.runtime.errors import ConfigError
from dpf.runtime.log import get_logger
from dpf.runtime.metrics import Metrics

log = get_logger(__name__)


def split_address(address: str) -> tuple[str, int] | None:
    """Host and port of ``HOST:PORT``; ``:PORT`` means all addresses, ``0`` or nothing means none.

    :raises ConfigError: if it is not an address.
    """
    if address in {"", "0"}:
        return None
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{address!r} is no address to listen on; write HOST:PORT, :PORT, or 0 for none")
    return host.strip("[]") or "0.0.0.0", int(port)


class Servers:
    """The health and metrics servers. Use as an async context manager."""

    def __init__(self, *, health: str, metrics: str, source: Metrics) -> None:
        self._health = split_address(health)
        self._metrics = split_address(metrics)
        self._source = source
        self._checks: dict[str, Callable[[], bool]] = {}
        self._stack = AsyncExitStack()
        self.bound: dict[str, tuple[str, int]] = {}
        """Host and port of ``health`` and ``metrics`` while they are served: tells which port 0 became."""

    def add_readiness(self, name: str, check: Callable[[], bool]) -> None:
        """``/readyz`` needs this check too."""
        self._checks[name] = check

    async def __aenter__(self) -> Servers:
        health = [web.get("/healthz", self._healthz), web.get("/readyz", self._readyz)]
        metrics = [web.get("/metrics", self._scrape)]
        await self._serve("health", self._health, health)
        await self._serve("metrics", self._metrics, metrics)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _serve(self, name: str, address: tuple[str, int] | None, routes: list[web.RouteDef]) -> None:
        if address is None:
            return
        app = web.Application()
        app.add_routes(routes)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        host, port = address
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            flag = "--health-probe-bind-address" if name == "health" else "--metrics-bind-address"
            raise ConfigError(f"cannot listen on {host}:{port} for {name}: {error.strerror}; give {flag}") from error
        bound = self.bound[name] = runner.addresses[0][:2]
        log.info("listening", server=name, address="{}:{}".format(*bound))

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _readyz(self, _: web.Request) -> web.Response:
        missing = [name for name, check in self._checks.items() if not check()]
        if missing:
            return web.Response(status=503, text=f"not ready: {', '.join(missing)}")
        return web.Response(text="ok")

    async def _scrape(self, _: web.Request) -> web.Response:
        return web.Response(body=self._source.render(), headers={"Content-Type": "text/plain; version=0.0.4"})
