"""Downloads an image, whole or not at all, and goes on where an earlier try broke off.

* What comes is written to ``bfb-<uid>`` beside the image's place; a small file beside that remembers which version of the image it
  is (ETag or Last-Modified). The next try asks for the rest of that version; if the server has another by now it sends all.
* The deadline is on silence, not on the whole: a large image over a thin line is fine.
* Length and, where the BFB names one, checksum must be right before the file gets its name. The checksum is worked out as the bytes
  come, and while one piece is written and summed the next one is received.
* The environment's proxy variables count here, unlike for API servers: images come from outside.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

import aiohttp

from dpf.runtime.errors import DpfError

P = ParamSpec("P")
R = TypeVar("R")

PIECE = 1 << 19
"""Bytes written at once; a download holds two such pieces in memory, one that is written and one that comes."""
BUFFER = 1 << 18
"""Bytes that wait in a connection until they are asked for."""
SILENCE = 60.0
"""Seconds without a byte after which a server counts as dead."""
MODE = 0o644

Told = Callable[[int, int], None]
"""Called with bytes that are there and bytes in all (0 if the server does not say)."""


class DownloadFailed(DpfError):
    """A download did not succeed. ``reason`` is one word for a condition; every one of them may pass."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Source:
    """What to download, and what is known of it."""

    url: str
    checksum: str = ""
    """``sha256:`` and hex digits, or empty."""


@dataclass(frozen=True)
class Image:
    """A complete image."""

    size: int
    checksum: str


def part_of(folder: Path, uid: str) -> Path:
    """Where an image that is being downloaded lies."""
    return folder / f"bfb-{uid}"


def tag_of(part: Path) -> Path:
    """Where it is remembered which version of the image that is."""
    return part.with_name(f"{part.name}.tag")


async def download(source: Source, part: Path, target: Path, told: Told) -> Image:
    """Downloads to ``part`` and moves it to ``target`` when it is complete and right.

    :raises DownloadFailed: with the reason.
    """
    tag_file = tag_of(part)
    try:
        async with aiohttp.ClientSession(trust_env=True, timeout=_timeout(), read_bufsize=BUFFER) as http:
            image, total = await _fetch(http, source, part, tag_file, told)
        _check(image, source, total, part)
        await in_thread(_publish, part, target)
    except aiohttp.ClientConnectorCertificateError as error:
        raise DownloadFailed("TLSFailed", f"{source.url}: {error.certificate_error}") from error
    except (aiohttp.ClientSSLError, ssl.SSLError) as error:
        raise DownloadFailed("TLSFailed", f"{source.url}: {error}") from error
    except aiohttp.ClientPayloadError as error:
        raise DownloadFailed("Truncated", f"{source.url}: the connection ended before the image did") from error
    except TimeoutError as error:
        raise DownloadFailed("ServerSilent", f"{source.url}: nothing came for {SILENCE:g} s") from error
    except ValueError as error:
        # Some of what makes no URL is found out only while it is taken apart, the host's name for one.
        raise DownloadFailed("InvalidURL", f"{source.url}: no URL that can be asked for: {error}") from error
    except aiohttp.ClientError as error:
        raise DownloadFailed("Unreachable", f"{source.url}: {error or type(error).__name__}") from error
    except OSError as error:
        reason = "DiskFull" if error.errno in {errno.ENOSPC, errno.EDQUOT} else "VolumeFailed"
        raise DownloadFailed(reason, f"{error.filename or part}: {error.strerror}") from error
    await in_thread(tag_file.unlink, missing_ok=True)
    return image


def _timeout() -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)


async def in_thread(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """As ``asyncio.to_thread``, but a cancelled caller goes on only when the thread has let go of the volume."""
    thread = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        raise


async def _fetch(
    http: aiohttp.ClientSession, source: Source, part: Path, tag_file: Path, told: Told
) -> tuple[Image, int]:
    """Gets what is missing; returns what is there then, and the length that the server announced, or 0."""
    have, tag = await in_thread(_there, part, tag_file)
    headers = {"Accept-Encoding": "identity"}
    if have and tag:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}
    else:
        have = 0
    async with http.get(source.url, headers=headers) as response:
        if response.status == 416 and have and _announced(response) == have:
            return await in_thread(digest, part), have
        if response.status == 416:
            await in_thread(part.unlink, missing_ok=True)
        if response.status not in {200, 206}:
            raise DownloadFailed("HTTPStatus", f"{source.url}: the server answers {response.status} {response.reason}")
        if response.status == 200:
            have = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            await in_thread(part.unlink, missing_ok=True)
            raise DownloadFailed("HTTPStatus", f"{source.url}: the server sends another part than it was asked for")
        total = have + response.content_length if response.content_length is not None else 0
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        told(have, total)
        # What is there of another version goes before its tag does: the two are never mixed up, whenever we are killed.
        file = await in_thread(open_part, part, resume=have > 0)
        try:
            await in_thread(tag_file.write_text, tag)
            sink = Sink(file, await in_thread(_sum_of, part))
            await _write(sink, response, have, total, told)
        finally:
            await in_thread(file.close)
    return await in_thread(sink.image), total


def _announced(response: aiohttp.ClientResponse) -> int:
    """The length of the whole image, as an answer without it tells; -1 if it does not."""
    length = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(length) if length.isdecimal() else -1


def _there(part: Path, tag_file: Path) -> tuple[int, str]:
    """Bytes of an earlier try, and which version of the image they are of."""
    have = part.stat().st_size if part.exists() else 0
    return have, tag_file.read_text() if have and tag_file.exists() else ""


def open_part(part: Path, *, resume: bool) -> BinaryIO:
    """The file to write to: behind what is there, or from the beginning."""
    return part.open("ab" if resume else "wb")


@dataclass(frozen=True)
class Sink:
    """A file that is written, and the sum of all that is in it."""

    file: BinaryIO
    sum: hashlib._Hash

    def put(self, pieces: list[bytes]) -> None:
        """Appends."""
        for piece in pieces:
            self.file.write(piece)
            self.sum.update(piece)

    def image(self) -> Image:
        """What is in the file, once it is closed."""
        return Image(Path(self.file.name).stat().st_size, f"sha256:{self.sum.hexdigest()}")


async def _write(sink: Sink, response: aiohttp.ClientResponse, have: int, total: int, told: Told) -> None:
    writing: asyncio.Future[None] | None = None
    pieces: list[bytes] = []
    size = 0
    try:
        async for piece in response.content.iter_any():
            pieces.append(piece)
            size += len(piece)
            if size < PIECE:
                continue
            if writing is not None:
                await writing
            have += size
            told(have, total)
            writing = asyncio.ensure_future(in_thread(sink.put, pieces))
            pieces, size = [], 0
    finally:
        # Also of a download that breaks off: what came is kept, and the file is left alone by the time it is closed.
        if writing is not None:
            await writing
        if pieces:
            await in_thread(sink.put, pieces)
            told(have + size, total)


def _sum_of(part: Path) -> hashlib._Hash:
    """The sum of what is there already, to be gone on with."""
    with part.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


def digest(path: Path) -> Image:
    """Size and checksum of a file."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256")
        return Image(file.tell(), f"sha256:{found.hexdigest()}")


def _check(image: Image, source: Source, total: int, part: Path) -> None:
    if total and image.size != total:
        if image.size > total:
            part.unlink()
        raise DownloadFailed("Truncated", f"{source.url}: got {image.size} of {total} bytes")
    if source.checksum and image.checksum != source.checksum:
        # What is wrong now will not become right by having more added to it.
        part.unlink()
        raise DownloadFailed("ChecksumMismatch", f"{source.url}: the image has {image.checksum}, not {source.checksum}")


def _publish(part: Path, target: Path) -> None:
    descriptor = os.open(part, os.O_RDONLY)
    try:
        os.fchmod(descriptor, MODE)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    part.replace(target)
