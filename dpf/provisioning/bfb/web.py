"""The server of an image: how it is asked, its errors in words, and what it tells beside the image itself."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp

from dpf.provisioning.bfb.source import DownloadFailed, shown, without_secrets

BUFFER = 1 << 18
"""Bytes that wait in a connection until they are asked for."""
SILENCE = 60.0
"""Seconds without a byte after which a server counts as dead."""
SMALL = 15.0
"""Seconds that a small question may take in all."""
SIDECAR = ".sha256"
SIDECAR_LIMIT = 4096
"""Bytes that a sidecar may have: some tens of lines."""
AGAIN = frozenset({408, 425, 429})
"""Of the answers that blame the question those that say nothing of a sidecar. All others of them say that there is none: servers
that hide what they have answer 403, some that check signatures 400."""
WITHOUT = "a BFB that names its image's checksum by annotation does without it"
_LINE = re.compile(r"\\?([0-9a-fA-F]{64})(?: [ *](.+))?")

IDENTITY = {"Accept-Encoding": "identity"}


def session(total: float | None = None) -> aiohttp.ClientSession:
    """A client that heeds the environment's proxy variables, unlike that of API servers: images come from outside."""
    timeout = aiohttp.ClientTimeout(total=total, sock_connect=SILENCE, sock_read=SILENCE)
    return aiohttp.ClientSession(trust_env=True, timeout=timeout, read_bufsize=BUFFER)


async def ask(
    http: aiohttp.ClientSession, url: str, headers: dict[str, str], *, method: str = "GET"
) -> aiohttp.ClientResponse:
    """The answer's head; redirects are followed.

    :raises DownloadFailed: InvalidURL.
    :raises aiohttp.ClientError: see :func:`failures`.
    """
    try:
        return await http.request(method, url, headers=headers, allow_redirects=True)
    except ValueError as error:
        # So is a certificate that is refused.
        if isinstance(error, aiohttp.ClientError | ssl.SSLError) and not isinstance(error, aiohttp.InvalidURL):
            raise
        # Some of what makes no URL is found out only while it is taken apart, the host's name for one. The error's words may
        # have parts of a password in them.
        raise DownloadFailed(
            "InvalidURL", f"{shown(url)}: it, or where it leads, is no URL that can be asked for"
        ) from error


@contextmanager
def failures(url: str) -> Iterator[None]:
    """Has an HTTP client's errors raised as DownloadFailed."""
    name = shown(url)
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        raise DownloadFailed("TLSFailed", f"{name}: {error.certificate_error}") from error
    except (aiohttp.ClientSSLError, ssl.SSLError) as error:
        raise DownloadFailed("TLSFailed", f"{name}: {error}") from error
    except aiohttp.ClientPayloadError as error:
        raise DownloadFailed("Truncated", f"{name}: the connection ended before the image did") from error
    except aiohttp.ServerTimeoutError as error:
        raise DownloadFailed("ServerSilent", f"{name}: nothing came for {SILENCE:g} s") from error
    except aiohttp.ClientError as error:
        why = without_secrets(str(error)) or type(error).__name__
        raise DownloadFailed("Unreachable", f"{name}: {why}") from error


def refused(url: str, response: aiohttp.ClientResponse) -> DownloadFailed:
    """An answer that is of no use."""
    return DownloadFailed("HTTPStatus", f"{shown(url)}: the server answers {response.status} {response.reason}")


async def length(url: str) -> int | None:
    """The image's size as its server tells it without sending it; None if it does not, for whatever reason."""
    try:
        with failures(url):
            async with session(SMALL) as http, await ask(http, url, IDENTITY, method="HEAD") as response:
                return response.content_length or None if response.status == 200 else None
    except (DownloadFailed, TimeoutError):
        return None


async def sidecar(url: str) -> str:
    """The checksum that lies beside the image as ``<url>.sha256``, as sha256sum writes it; empty if there is none.

    What nobody wrote as a checksum is none: a server may answer everything with the same page.

    :raises DownloadFailed: if the server does not say whether there is one, or it has none of the image.
    """
    address = beside(url)
    text = bytearray()
    try:
        with failures(address):
            async with session(SMALL) as http, await ask(http, address, IDENTITY) as response:
                if 400 <= response.status < 500 and response.status not in AGAIN:
                    return ""
                if response.status != 200:
                    answer = refused(address, response)
                    raise DownloadFailed(answer.reason, f"{answer.message}; {WITHOUT}")
                async for piece in response.content.iter_any():
                    text += piece
                    if len(text) > SIDECAR_LIMIT:
                        return ""
    except TimeoutError as error:
        raise DownloadFailed("ServerSilent", f"{shown(address)}: nothing came for {SMALL:g} s; {WITHOUT}") from error
    return _read(text.decode(errors="replace"), url)


def beside(url: str) -> str:
    """Where the sidecar of an image is: its path is longer, and a query stays what it is."""
    path = url[: min((at for mark in "?#" if (at := url.find(mark)) >= 0), default=len(url))]
    return f"{path}{SIDECAR}{url[len(path) :]}"


def _read(text: str, url: str) -> str:
    lines: list[re.Match[str]] = [match for line in text.splitlines() if (match := _LINE.fullmatch(line.strip()))]
    if not lines:
        return ""
    name = shown(url).rpartition("/")[2]
    of_image = [match for match in lines if len(lines) == 1 or (match[2] or "").rpartition("/")[2] == name]
    if not of_image:
        message = f"{shown(beside(url))}: no line is as sha256sum writes it for {name}; correct it"
        raise DownloadFailed("InvalidChecksum", f"{message}. {WITHOUT[0].upper()}{WITHOUT[1:]}")
    return f"sha256:{of_image[0][1].lower()}"
