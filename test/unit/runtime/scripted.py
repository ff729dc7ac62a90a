"""An HTTP server that answers as a test tells it to: for what a real API server does only on a bad day."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web

from dpf.runtime.client import Client
from dpf.runtime.kubeconfig import Kubeconfig
from test.unit.runtime.widgets import widget

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def event(kind: str, obj: dict[str, Any]) -> bytes:
    """A line of a watch."""
    return orjson.dumps({"type": kind, "object": obj}) + b"\n"


def bookmark(version: int, *, ends_list: bool = False) -> bytes:
    """A bookmark; the one that ends the initial events carries an annotation."""
    annotations = {"k8s.io/initial-events-end": "true"} if ends_list else {}
    return event("BOOKMARK", {"metadata": {"resourceVersion": str(version), "annotations": annotations}})


def listed(*names: str, version: int) -> list[bytes]:
    """A whole list of widgets of a version, as a stream begins with it."""
    return [*(event("ADDED", widget(name, version)) for name in names), bookmark(version, ends_list=True)]


def gone() -> bytes:
    """The ERROR event of a version that has been compacted away."""
    return event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})


def status(code: int, reason: str, message: str = "", **headers: str) -> web.Response:
    """A refusal."""
    body = {"kind": "Status", "code": code, "reason": reason, "message": message or reason}
    return web.json_response(body, status=code, headers=headers)


class ScriptedServer:
    """Answers requests in turn from :attr:`script`, the last answer for all further ones; :attr:`seen` records them."""

    def __init__(self, *script: Answer) -> None:
        self.script = list(script)
        self.seen: list[web.Request] = []
        self.arrived = asyncio.Condition()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        async with self.arrived:
            self.seen.append(request)
            self.arrived.notify_all()
        return await answer(request)

    async def requests(self, number: int) -> list[web.Request]:
        """The requests, once there are so many."""
        async with asyncio.timeout(20), self.arrived:
            await self.arrived.wait_for(lambda: len(self.seen) >= number)
        return self.seen


def answer(response: Callable[[], web.Response]) -> Answer:
    """A plain answer."""

    async def respond(_: web.Request) -> web.StreamResponse:
        return response()

    return respond


def stream(*lines: bytes, hold: bool = True) -> Answer:
    """A watch that sends the lines, then stays open (``hold``) or ends."""

    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for line in lines:
            await response.write(line)
        if hold:
            await asyncio.Event().wait()
        return response

    return respond


@asynccontextmanager
async def serving(server: ScriptedServer) -> AsyncIterator[Client]:
    """Runs the server and gives a client of it."""
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with Client(Kubeconfig(server=f"http://127.0.0.1:{port}", token="t"), field_owner="test") as client:
            yield client
    finally:
        await runner.cleanup()
