"""Requests to one API server: typed errors, credentials, patience where patience is safe.

* A request that the server turned away unserved (429, or 503 with ``Retry-After``) is sent again after the time it names, at
  most :data:`MAX_TRIES` times; if that is more than :data:`LONGEST_PAUSE`, it is the caller's to come back: no server holds a
  worker for as long as it likes. A GET is sent again after a lost connection too. Anything else is the caller's to retry: a
  write whose answer was lost may have been done, and who has waited for a time-out has waited long enough.
* A 401 makes a rotating token be read again, once.
* Requests have a deadline of :data:`REQUEST_TIMEOUT`; streams have one on silence. Who is asked for a token before has one of his
  own (:mod:`dpf.runtime.credentials`).
* The environment's proxies are not consulted: an API server is reached directly.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from random import random
from time import perf_counter
from types import TracebackType
from urllib.parse import urlencode, urlsplit

from dpf.runtime import tracing, wire
from dpf.runtime.credentials import TokenSource, ssl_context
from dpf.runtime.errors import ApiError, ConfigError, TooManyRequests, Unavailable, api_error
from dpf.runtime.http1 import HttpConnections, Response
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.log import get_logger

log = get_logger(__name__)

REQUEST_TIMEOUT = 30.0
"""Seconds for a whole request; an API server's own limit is 60."""

MAX_TRIES = 5
LONGEST_PAUSE = 30.0
"""Seconds between two tries at most."""
CONNECTIONS = 64
"""Open connections per cluster; more wait for one to be free."""

_TARGET = re.compile("[!-~]+")
"""Visible ASCII."""
_SECONDS = re.compile("[0-9]{1,6}")

RequestObserver = Callable[[str, int, float], None]
"""Called after each request with method, status (0: no answer) and seconds. Of one that the transport's own end cut short
nothing is told: the server is not to blame."""


class Transport:
    """Sends requests to one API server. Use as an async context manager."""

    def __init__(
        self, kubeconfig: Kubeconfig, *, user_agent: str = "dpf", observer: RequestObserver | None = None
    ) -> None:
        self.kubeconfig = kubeconfig
        self._tokens = TokenSource(kubeconfig)
        self.observer = observer
        self._connections: HttpConnections | None = None
        self._closed = False
        url = urlsplit(kubeconfig.server)
        self._base = url.path.rstrip("/")
        self.address = kubeconfig.server.split("://", 1)[-1]
        """The server's URL without its scheme, as errors and metrics name it: host, port, and a path if it has one."""
        # Compression would cost both sides more than it saves beside the server, where managers run.
        self._fixed = f"Host: {url.netloc}\r\nUser-Agent: {user_agent}\r\nAccept: application/json\r\nAccept-Encoding: identity\r\n"
        self._fixed += "".join(f"{name}: {value}\r\n" for name, value in kubeconfig.impersonation)

    async def __aenter__(self) -> Transport:
        self._connections = HttpConnections(
            self.kubeconfig.server,
            tls=ssl_context(self.kubeconfig),
            server_hostname=self.kubeconfig.tls_server_name,
            limit=CONNECTIONS,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connections, self._connections, self._closed = self._connections, None, True
        if connections is not None:
            connections.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        timeout: float = REQUEST_TIMEOUT,
    ) -> bytes:
        """Sends one request and returns the body of its answer.

        :param timeout: seconds for each try.
        :raises ApiError: the class that fits the answer; :class:`Unavailable` if there was none.
        """
        for tries in range(1, MAX_TRIES + 1):
            try:
                return await self._send(method, path, params, body, content_type, timeout)
            except ApiError as error:
                pause = _pause(error, method, tries)
                if pause is None or self._closed:
                    # Whoever gave it up has another; what is sent here is answered no more.
                    raise
                log.debug("request_retried", method=method, path=path, status=error.status, seconds=round(pause, 3))
            await asyncio.sleep(pause)
        raise AssertionError("the last try either returns or raises")

    async def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        body: bytes | None,
        content_type: str,
        timeout: float,
    ) -> bytes:
        for fresh in (False, True):
            head = self._head(method, path, params, await self._tokens.token(fresh=fresh), body, content_type)
            connections = self._open
            started, status = perf_counter(), 0
            span = tracing.tracer.request(method, self.address, path) if tracing.tracer is not None else None
            try:
                response = await connections.request(head, body or b"", timeout)
                status = response.status
            except (OSError, TimeoutError) as error:
                raise _no_answer(self.address, error) from error
            finally:
                if self.observer is not None and not self._closed:
                    self.observer(method, status, perf_counter() - started)
                if span is not None:
                    span.end({"http.response.status_code": status}, "" if 0 < status < 400 else f"HTTP {status}")
            if status == 401 and not fresh and self._tokens.rotates:
                continue
            if warning := response.headers.get("warning"):
                log.info("server_warning", path=path, warning=warning)
            if status >= 300:
                raise _error(method, path, response)
            return response.body
        raise AssertionError("the second try either returns or raises")

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, str], *, silence: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Opens a watch; gives an iterator of its lines.

        :param silence: seconds without a byte after which the stream counts as dead.
        :raises ApiError: if it is refused, cut or silent; a stream that the server ends just ends.
        """
        head = self._head("GET", path, params, await self._tokens.token(), None, "")
        started, status = perf_counter(), 0
        try:
            async with self._open.stream(head, silence=silence) as (response, pieces):
                status = response.status
                if self.observer is not None:
                    self.observer("WATCH", status, perf_counter() - started)
                if status >= 300:
                    if status == 401:
                        await self._tokens.token(fresh=True)
                    raise _error("GET", path, replace(response, body=b"".join([piece async for piece in pieces])))
                yield _lines(pieces)
        except (OSError, TimeoutError) as error:
            if status == 0 and self.observer is not None and not self._closed:
                self.observer("WATCH", 0, perf_counter() - started)
            raise _no_answer(self.address, error) from error

    def end_streams(self) -> None:
        """Ends all watches, as if they had been cut."""
        if self._connections is not None:
            self._connections.end_streams()

    @property
    def _open(self) -> HttpConnections:
        if self._closed:
            # Whoever was between two tries when the credentials were replaced.
            raise Unavailable(0, "Closed", f"API server {self.address}: this connection was given up")
        if self._connections is None:
            raise RuntimeError("the transport is not open; use it inside `async with`")
        return self._connections

    def _head(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        token: str,
        body: bytes | None,
        content_type: str,
    ) -> bytes:
        """Request line and headers. Names and tokens come from users: none may end its line early.

        :raises ConfigError: if the token has characters that a token cannot have.
        """
        target = f"{self._base}{path}?{urlencode(params)}" if params else f"{self._base}{path}"
        if not _TARGET.fullmatch(target):
            raise ValueError(f"{path!r} is no path of an API server")
        lines = [f"{method} {target} HTTP/1.1\r\n{self._fixed}"]
        if token:
            if not _TARGET.fullmatch(token):
                raise ConfigError(f"the token for {self.kubeconfig.server} has characters that no token has")
            lines.append(f"Authorization: Bearer {token}\r\n")
        if body is not None:
            lines.append(f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n")
        elif method != "GET":
            lines.append("Content-Length: 0\r\n")
        return f"{''.join(lines)}\r\n".encode("ascii")


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    splitter = wire.LineSplitter()
    async for piece in pieces:
        for line in splitter.feed(piece):
            yield line


def _error(method: str, path: str, response: Response) -> ApiError:
    status = wire.status(response.body)
    message = status.message or f"{method} {path}: HTTP {response.status}"
    error = api_error(response.status, status.reason, message, status.details)
    after = _seconds(error.details.pop("retryAfterSeconds", None)) or _seconds(response.headers.get("retry-after"))
    if after is not None:
        error.details["retryAfterSeconds"] = after
        if isinstance(error, TooManyRequests):
            error.retry_after = float(after)
    return error


def _seconds(text: object) -> int | None:
    """How long a server says to wait; None if it is no such number. HTTP allows a date too, which API servers never send."""
    return int(str(text)) if _SECONDS.fullmatch(str(text)) else None


def _no_answer(host: str, error: Exception) -> Unavailable:
    what = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    return Unavailable(0, "NoAnswer", f"API server {host}: {what}")


def _pause(error: ApiError, method: str, tries: int) -> float | None:
    """Seconds to wait before the next try, or None if there must not be one."""
    if tries >= MAX_TRIES:
        return None
    after = error.details.get("retryAfterSeconds")
    if isinstance(error, TooManyRequests) or (isinstance(error, Unavailable) and after is not None):
        pause = float(1 if after is None else after)
        return pause * (1 + 0.2 * random()) if pause <= LONGEST_PAUSE else None  # noqa: S311  (spreads callers)
    timed_out = isinstance(error.__cause__, TimeoutError)
    if isinstance(error, Unavailable) and error.status == 0 and method == "GET" and not timed_out:
        return float(min(0.1 * 2**tries, 2.0))
    return None
