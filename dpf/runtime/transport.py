"""HTTP to one API server: one session, typed errors, patience where patience is safe.

* A request that the server turned away unserved (429, or 503 with ``Retry-After``) is sent again after the time it names, at
  most :data:`MAX_TRIES` times; a GET also after a lost connection. Anything else is the caller's to retry: a write whose
  answer was lost may have been done.
* A 401 makes a rotating token be read again, once.
* Requests have a deadline of :data:`REQUEST_TIMEOUT`; streams have one on silence.
* The environment's proxies and netrc are not consulted: an API server is reached directly, and the look-up costs a thread hop
  per request in aiohttp.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from random import random
from time import perf_counter
from types import TracebackType
from urllib.parse import urlencode

import aiohttp
import yarl

from dpf.runtime import wire
from dpf.runtime.credentials import TokenSource, ssl_context
from dpf.runtime.errors import ApiError, TooManyRequests, Unavailable, api_error
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.log import get_logger

log = get_logger(__name__)

REQUEST_TIMEOUT = 30.0
"""Seconds for a whole request; an API server's own limit is 60."""

MAX_TRIES = 5
CONNECTIONS = 64
"""Open connections per cluster; more wait for one to be free."""

RequestObserver = Callable[[str, int, float], None]
"""Called after each request with method, status (0: no answer) and seconds."""


class Transport:
    """Sends requests to one API server. Use as an async context manager."""

    def __init__(
        self, kubeconfig: Kubeconfig, *, user_agent: str = "dpf", observer: RequestObserver | None = None
    ) -> None:
        self.kubeconfig = kubeconfig
        self._tokens = TokenSource(kubeconfig)
        self._user_agent = user_agent
        self.observer = observer
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Transport:
        context = ssl_context(self.kubeconfig)
        connector = aiohttp.TCPConnector(
            limit=CONNECTIONS, ssl=context if context is not None else True, keepalive_timeout=75
        )
        self._http = aiohttp.ClientSession(
            connector=connector,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            # Compression would cost both sides more than it saves beside the server, where managers run.
            headers={"User-Agent": self._user_agent, "Accept": "application/json", "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT, connect=10),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    @property
    def host(self) -> str:
        """Host and port of the server, as metrics name it."""
        return self.kubeconfig.server.split("://", 1)[-1]

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
                if pause is None:
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
        headers = {"Content-Type": content_type} if body is not None else {}
        for fresh in (False, True):
            if token := await self._tokens.token(fresh=fresh):
                headers["Authorization"] = f"Bearer {token}"
            started, status = perf_counter(), 0
            try:
                async with self._session.request(
                    method,
                    self._url(path, params),
                    data=body,
                    headers=headers,
                    server_hostname=self.kubeconfig.tls_server_name or None,
                    timeout=aiohttp.ClientTimeout(total=timeout, connect=10),
                ) as response:
                    status = response.status
                    answer = await response.read()
                    if status == 401 and not fresh and self._tokens.rotates:
                        continue
                    if "Warning" in response.headers:
                        log.info("server_warning", path=path, warning=response.headers["Warning"])
                    if status < 400:
                        return answer
                    raise _error(response, answer)
            except (aiohttp.ClientError, TimeoutError) as error:
                raise _no_answer(self.host, error) from error
            finally:
                if self.observer is not None:
                    self.observer(method, status, perf_counter() - started)
        raise AssertionError("the second try either returns or raises")

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, str], *, silence: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Opens a watch; gives an iterator of its lines.

        :param silence: seconds without a byte after which the stream counts as dead.
        :raises ApiError: if it is refused, cut or silent; a stream that the server ends just ends.
        """
        headers = {}
        if token := await self._tokens.token():
            headers["Authorization"] = f"Bearer {token}"
        started, status = perf_counter(), 0
        try:
            async with self._session.get(
                self._url(path, params),
                headers=headers,
                server_hostname=self.kubeconfig.tls_server_name or None,
                timeout=aiohttp.ClientTimeout(total=None, connect=10, sock_read=silence),
            ) as response:
                status = response.status
                if self.observer is not None:
                    self.observer("WATCH", status, perf_counter() - started)
                if status >= 400:
                    if status == 401:
                        await self._tokens.token(fresh=True)
                    raise _error(response, await response.read())
                yield _lines(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            if status == 0 and self.observer is not None:
                self.observer("WATCH", 0, perf_counter() - started)
            raise _no_answer(self.host, error) from error

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            raise RuntimeError("the transport is closed; use it inside `async with`")
        return self._http

    def _url(self, path: str, params: Mapping[str, str] | None) -> yarl.URL:
        query = f"?{urlencode(params)}" if params else ""
        return yarl.URL(f"{self.kubeconfig.server}{path}{query}", encoded=True)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    splitter = wire.LineSplitter()
    async for chunk in response.content.iter_any():
        for line in splitter.feed(chunk):
            yield line


def _error(response: aiohttp.ClientResponse, answer: bytes) -> ApiError:
    status = wire.status(answer)
    message = status.message or f"{response.method} {response.url.path}: HTTP {response.status}"
    error = api_error(response.status, status.reason, message, status.details)
    after = response.headers.get("Retry-After", "")
    if after.isdigit():
        error.details.setdefault("retryAfterSeconds", int(after))
        if isinstance(error, TooManyRequests):
            error.retry_after = float(after)
    return error


def _no_answer(host: str, error: Exception) -> Unavailable:
    what = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    return Unavailable(0, "NoAnswer", f"API server {host}: {what}")


def _pause(error: ApiError, method: str, tries: int) -> float | None:
    """Seconds to wait before the next try, or None if there must not be one."""
    if tries >= MAX_TRIES:
        return None
    after = error.details.get("retryAfterSeconds")
    if isinstance(error, TooManyRequests) or (isinstance(error, Unavailable) and after is not None):
        return float(1 if after is None else after) * (1 + 0.2 * random())  # noqa: S311  (spreads callers, guards nothing)
    if isinstance(error, Unavailable) and error.status == 0 and method == "GET":
        return float(min(0.1 * 2**tries, 2.0))
    return None
