"""A card that the sandbox's fleet simulates, reached by HTTP over the fleet's unix socket. The fleet remembers requests by id."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
import orjson

from dpf.dms.card import CardError, CardStatus, Power, State
from dpf.runtime import threads

WAIT = 30.0
"""Seconds that one look at the card may wait for a change."""
TIMEOUT = 10.0


class SimulatedCard:
    """One card of the fleet. Use as an async context manager.

    :param wrote: called with how many bytes of image and bf.cfg the card was given.
    """

    def __init__(self, socket: Path, name: str, *, wrote: Callable[[int], None] = lambda _: None) -> None:
        self._wrote = wrote
        self._socket = socket
        self._name = name
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> SimulatedCard:
        self._http = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._socket)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.close()

    async def mode(self) -> str:
        return str((await self._ask("GET", "")).get("mode") or "DPU")

    async def set_mode(self, mode: str) -> None:
        await self._ask("POST", "/mode", {"mode": mode})

    async def firmware(self) -> Mapping[str, str]:
        versions: dict[str, str] = (await self._ask("GET", "")).get("firmware") or {}
        return versions

    async def boot(self, image: Path, version: str, config: bytes, request: str) -> None:
        body = {"image": str(image), "version": version, "config": config.decode(), "id": request}
        size = (await threads.outcome(image.stat)).st_size
        await self._ask("POST", "/boot", body)
        self._wrote(size + len(config))

    async def status(self) -> CardStatus:
        return _status(await self._ask("GET", ""))

    async def follow(self) -> AsyncIterator[CardStatus]:
        status = await self.status()
        yield status
        while not status.settled:
            query = f"?wait={WAIT:g}&not={status.state.value}"
            status = _status(await self._ask("GET", query, timeout=WAIT + TIMEOUT))
            yield status

    async def boot_id(self) -> str:
        return ""

    async def boot_time(self) -> int:
        # What a host says of itself stands in its Node; the fleet's cards know no more than this machine's clock.
        return time.time_ns() - time.monotonic_ns()

    async def reset(self, power: Power, request: str) -> None:
        await self._ask("POST", "/host-reboot", {"kind": "slr", "power": power, "id": request})

    async def power_cycle(self, power: Power, request: str) -> None:
        await self._ask("POST", "/host-reboot", {"kind": "power", "power": power, "id": request})

    async def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, timeout: float = TIMEOUT
    ) -> dict[str, Any]:
        if self._http is None:
            raise RuntimeError("the card is used outside its context")
        url = f"http://fleet/cards/{self._name}{path}"
        data = orjson.dumps(body) if body is not None else None
        try:
            limit = aiohttp.ClientTimeout(total=timeout)
            async with self._http.request(method, url, data=data, timeout=limit) as response:
                answer: dict[str, Any] = orjson.loads(await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError, orjson.JSONDecodeError) as error:
            raise CardError(f"the fleet does not answer: {error or type(error).__name__}", passing=True) from error
        if response.status >= 400:
            raise CardError(str(answer.get("error", response.status)))
        return answer


def _status(answer: dict[str, Any]) -> CardStatus:
    return CardStatus(
        State(answer["state"]), answer["percent"], answer["version"], answer["message"], answer.get("id", "")
    )
