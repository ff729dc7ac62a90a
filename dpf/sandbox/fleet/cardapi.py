"""The fleet's HTTP API on its unix socket.

Two users: ``dms``, for which ``/cards/NAME`` is the card it drives (boot an image, read the state, reboot the host), and the
supervisor, which lists cards and pods, sets faults and kills.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from dpf.sandbox.fleet.cards import Card, summary, view
from dpf.sandbox.fleet.faults import Fault
from dpf.sandbox.fleet.hosts import Host
from dpf.sandbox.fleet.pods import Pods

LONGEST_WAIT = 60.0
"""Seconds that a long poll may last."""


def application(cards: Mapping[str, Card], hosts: Mapping[str, Host], pods: Pods) -> web.Application:
    """The API over these cards, hosts and pods."""
    handlers = _Handlers(cards, hosts, pods)
    app = web.Application(middlewares=[_errors], client_max_size=4 * 1024 * 1024)
    app.add_routes(
        [
            web.get("/readyz", handlers.ready),
            web.get("/cards", handlers.list_cards),
            web.get("/cards/{name}", handlers.get_card),
            web.post("/cards/{name}/boot", handlers.boot),
            web.post("/cards/{name}/mode", handlers.mode),
            web.post("/cards/{name}/host-reboot", handlers.host_reboot),
            web.put("/cards/{name}/fault", handlers.set_fault),
            web.get("/pods", handlers.list_pods),
            web.post("/pods/{name}/kill", handlers.kill_pod),
        ]
    )
    return app


async def serve(app: web.Application, socket: Path) -> web.AppRunner:
    """Serves on a unix socket that only this user may connect to; clean up the returned runner to end."""
    clear_socket(socket)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    await web.UnixSite(runner, str(socket)).start()
    return runner


def clear_socket(socket: Path) -> None:
    """Makes room for a socket in a folder that is this user's alone, which is what guards it."""
    socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    socket.parent.chmod(0o700)
    socket.unlink(missing_ok=True)


class _Handlers:
    def __init__(self, cards: Mapping[str, Card], hosts: Mapping[str, Host], pods: Pods) -> None:
        self._cards = cards
        self._hosts = hosts
        self._pods = pods

    async def ready(self, _: web.Request) -> web.Response:
        """Ready when all hosts are registered and running."""
        waiting = [host.name for host in self._hosts.values() if not host.up.is_set() and not host.down.is_set()]
        return _json({"waiting": waiting}, status=503 if waiting else 200)

    async def list_cards(self, _: web.Request) -> web.Response:
        return _json([summary(card) for card in self._cards.values()])

    async def get_card(self, request: web.Request) -> web.Response:
        """The card; with ``?wait=SECONDS&not=STATE`` once its state is another one, or the time is up."""
        card, unwanted = self._card(request), request.query.get("not", "")
        if wait := float(request.query.get("wait", 0)):
            with suppress(TimeoutError):
                async with asyncio.timeout(min(wait, LONGEST_WAIT)):
                    await card.wait_while(lambda card: card.record.state == unwanted)
        return _json(view(card))

    async def boot(self, request: web.Request) -> web.Response:
        card, body = self._card(request), await _body(request, "image", "version", "config", "id")
        _check_image(Path(body["image"]))
        card.boot_image(body["version"], body["config"], body["id"])
        return _json(view(card), status=202)

    async def mode(self, request: web.Request) -> web.Response:
        card, body = self._card(request), await _body(request, "mode")
        card.set_mode(body["mode"])
        return _json(view(card))

    async def host_reboot(self, request: web.Request) -> web.Response:
        card, body = self._card(request), await _body(request, "kind", "id")
        self._hosts[card.address.host].reboot(card, body["kind"], body["id"])
        return _json(view(card), status=202)

    async def set_fault(self, request: web.Request) -> web.Response:
        """Sets the fault named in the body; an empty name clears it."""
        card, body = self._card(request), await _body(request, "fault")
        card.set_fault(Fault.parse(body["fault"]) if body["fault"] else None)
        if card.fault is Fault.HOST_DEAD:
            self._hosts[card.address.host].crash()
        return _json(summary(card))

    async def list_pods(self, _: web.Request) -> web.Response:
        return _json(self._pods.processes())

    async def kill_pod(self, request: web.Request) -> web.Response:
        """Kills a pod's containers, or crashes the host of that name, which boots anew then."""
        name = request.match_info["name"]
        if (host := self._hosts.get(name)) is not None:
            host.crash()
        elif not self._pods.kill(name):
            raise web.HTTPNotFound(text=f"no pod {name} runs here")
        return _json({})

    def _card(self, request: web.Request) -> Card:
        name = request.match_info["name"]
        if name not in self._cards:
            raise web.HTTPNotFound(
                text=f"no card {name}: this fleet has {len(self._cards)}, see `dpfctl sandbox cards`"
            )
        return self._cards[name]


async def _body(request: web.Request, *needed: str) -> dict[str, Any]:
    try:
        body = orjson.loads(await request.read())
    except orjson.JSONDecodeError:
        raise web.HTTPBadRequest(text="the body is not JSON") from None
    if missing := [name for name in needed if not isinstance(body, dict) or not isinstance(body.get(name), str)]:
        raise web.HTTPBadRequest(text=f"the body lacks {', '.join(missing)}")
    fields: dict[str, Any] = body
    return fields


def _check_image(path: Path) -> None:
    if not path.is_file():
        raise web.HTTPNotFound(text=f"no image {path}")


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Errors as JSON with a message."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _json({"error": error.text}, status=error.status)
    except ValueError as error:
        return _json({"error": str(error)}, status=400)


def _json(content: Any, *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(content), status=status, content_type="application/json")
