"""The supervisor's control socket, and how ``dpfctl`` speaks to it."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import orjson
from aiohttp import web

from dpf.runtime.errors import DpfError


class Controlled(Protocol):
    """What can be asked of a supervisor."""

    async def progress(self, after: int) -> dict[str, Any]:
        """Steps of coming up from number ``after`` on; waits for one if there is none and it is still coming up."""

    async def processes(self) -> list[dict[str, Any]]:
        """Name, pid, readiness and restarts of every process."""

    async def kill(self, name: str) -> None:
        """Kills a process.

        :raises KeyError: if there is none of that name.
        """

    def shut_down(self) -> None:
        """Begins to end everything; the supervisor's process ends when all others have."""


class ControlError(DpfError):
    """The supervisor or the fleet refused, or is not there. The message is for the user."""


class NotRunning(ControlError):
    """There is no such process."""


def application(supervisor: Controlled) -> web.Application:
    """The HTTP API of a supervisor."""

    async def progress(request: web.Request) -> web.Response:
        return _json(await supervisor.progress(int(request.query.get("after", 0))))

    async def processes(_: web.Request) -> web.Response:
        return _json(await supervisor.processes())

    async def kill(request: web.Request) -> web.Response:
        try:
            await supervisor.kill(request.match_info["name"])
        except KeyError:
            return _json({"error": f"no process {request.match_info['name']}: see `dpfctl sandbox ps`"}, status=404)
        return _json({})

    async def down(_: web.Request) -> web.Response:
        supervisor.shut_down()
        return _json({})

    async def pid(_: web.Request) -> web.Response:
        return _json({"pid": os.getpid()})

    app = web.Application()
    app.add_routes(
        [
            web.get("/progress", progress),
            web.get("/processes", processes),
            web.post("/processes/{name}/kill", kill),
            web.get("/pid", pid),
            web.post("/down", down),
        ]
    )
    return app


def _json(content: Any, *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(content), status=status, content_type="application/json")


async def ask(socket: Path, method: str, path: str, body: Any = None, *, timeout: float = 30.0) -> Any:
    """Sends a request to a unix socket of the sandbox and returns the JSON of its answer.

    :raises NotRunning: if nobody listens there.
    :raises ControlError: if there is no answer, or it is an error.
    """
    data = None if body is None else orjson.dumps(body)
    connector = aiohttp.UnixConnector(path=str(socket))
    limit = aiohttp.ClientTimeout(total=timeout)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=limit) as http,
            http.request(method, f"http://sandbox{path}", data=data) as response,
        ):
            try:
                answer = orjson.loads(await response.read())
            except orjson.JSONDecodeError:
                raise ControlError(f"no sandbox answers on {socket}: HTTP {response.status}") from None
            if response.status >= 400:
                raise ControlError(answer.get("error") or f"HTTP {response.status}")
            return answer
    except aiohttp.ClientConnectorError as error:
        if not isinstance(error.os_error, FileNotFoundError | NotADirectoryError | ConnectionRefusedError):
            raise ControlError(f"no sandbox answers on {socket}: {error}") from error
        raise NotRunning(f"nobody listens on {socket}") from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise ControlError(f"no sandbox answers on {socket}: {error or type(error).__name__}") from error


async def answers(probe: Callable[[], Awaitable[Any]]) -> bool:
    """Whether a request succeeds."""
    try:
        await probe()
    except (ControlError, aiohttp.ClientError, TimeoutError, OSError):
        return False
    return True
