"""Downloads an image, whole or not at all, and goes on where an earlier try broke off.

* What comes is written to ``bfb-<uid>`` beside the image's place; a small file beside that remembers which version of the image it
  is (a strong ETag, else Last-Modified). The next try asks for the rest of that version; if the server has another by now it sends
  all.
* An image that the volume has no room for is not begun. One that fills it up nevertheless is removed: cards need the room.
* The deadline is on silence, not on the whole: a large image over a thin line is fine.
* Length and, where one is known, checksum must be right before the file gets its name. The checksum is worked out as the bytes
  come, and while one piece is written and summed the next one is received. What is written goes to the disk meanwhile, so that
  little is left to wait for at the end.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz
from pathlib import Path
from typing import Any, BinaryIO

import aiohttp

from dpf.provisioning.bfb import web
from dpf.provisioning.bfb.source import DownloadFailed, Image, Source, shown
from dpf.provisioning.bfb.storage import RESERVE, digest, publish, remove, room, sum_of, tag_of
from dpf.provisioning.volume import Volume, VolumeSilent

SYNC_EVERY = 64 << 20
"""Bytes after which the disk is told to take what is there; nobody waits for it until the end."""
PIECE = 1 << 19
"""Bytes written at once; a download holds two such pieces in memory, one that is written and one that comes."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

Told = Callable[[int, int], None]
"""Called with bytes that are there and bytes in all (0 if the server does not say)."""


@dataclass(frozen=True)
class Place:
    """Where an image goes: to ``part`` while it comes, then to ``target``."""

    volume: Volume
    part: Path
    target: Path
    promised: Callable[[], int] = lambda: 0
    """Bytes of the free room that other downloads are going to fill."""


async def download(source: Source, place: Place, told: Told) -> Image:
    """Downloads an image, and gives it its name when it is complete and right.

    :raises DownloadFailed: with the reason.
    :raises VolumeSilent: if the volume does not answer.
    """
    volume, part = place.volume, place.part
    try:
        with web.failures(source.url):
            async with web.session() as http:
                image, total = await _fetch(http, source, place, told)
        await _check(image, source, total, place)
        await volume.write(part, publish, part, place.target)
        await volume.write(part, remove, tag_of(part))
    except VolumeSilent:
        raise
    except OSError as error:
        if error.errno not in FULL:
            raise DownloadFailed("VolumeFailed", f"{error.filename or part}: {error.strerror}") from error
        with suppress(OSError):
            await volume.write(part, remove, part, tag_of(part))
        raise DownloadFailed("DiskFull", _full(error.strerror or "")) from error
    return image


def _full(why: str) -> str:
    return f"{why}: delete BFBs that nothing uses, or make the volume larger"


async def _fetch(http: aiohttp.ClientSession, source: Source, place: Place, told: Told) -> tuple[Image, int]:
    """Gets what is missing; returns what is there then, and the length that the server announced, or 0."""
    volume, part, name = place.volume, place.part, shown(source.url)
    have, tag = await volume.ask(_there, part)
    headers = dict(web.IDENTITY)
    if have and tag:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}
    else:
        have = 0
    async with await web.ask(http, source.url, headers) as response:
        if response.status == 416 and have and _announced(response) == have:
            return await digest(volume, part), have
        if response.status == 416:
            await volume.write(part, remove, part)
        if response.status not in {200, 206}:
            raise web.refused(source.url, response)
        if response.status == 200:
            have = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            await volume.write(part, remove, part)
            raise DownloadFailed("HTTPStatus", f"{name}: the server sends another part than it was asked for")
        total = have + response.content_length if response.content_length is not None else 0
        free = await volume.ask(room, part, resume=have > 0)
        _fits(name, max(0, total - have), free - place.promised())
        told(have, total)
        # What is there of another version goes before its tag does: the two are never mixed up, whenever we are killed.
        file = await _opened(volume, part, resume=have > 0)
        try:
            await volume.write(part, tag_of(part).write_text, _tag(response))
            sink = Sink(file, (await sum_of(volume, part))[1])
            await _write(volume, part, sink, response, have, total, told)
        finally:
            await volume.write(part, file.close)
    return await volume.ask(sink.image), total


def _fits(name: str, missing: int, free: int) -> None:
    """:raises DownloadFailed: DiskFull, if the volume has no room for what is missing."""
    if missing > free:
        more = f"{missing - free} bytes more are needed"
        why = (
            f"{name}: {missing} bytes are to come and the volume has room for {max(0, free)} beside {RESERVE} for cards"
        )
        raise DownloadFailed("DiskFull", _full(f"{why}; {more}"))


def _announced(response: aiohttp.ClientResponse) -> int:
    """The length of the whole image, as an answer without it tells; -1 if it does not."""
    length = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(length) if length.isdecimal() else -1


def _tag(response: aiohttp.ClientResponse) -> str:
    """Which version of the image it is; empty if that is not told in a way that can be sent back as If-Range."""
    etag, modified = (response.headers.get(name, "") for name in ("ETag", "Last-Modified"))
    if _sendable(etag):
        return etag
    return modified if _sendable(modified) and _settled(modified, response.headers.get("Date", "")) else ""


def _sendable(tag: str) -> bool:
    """Whether it is worth sending: a weak ETag matches nothing in If-Range (RFC 9110, 13.1.5), and all would come each time."""
    return bool(tag) and tag.isascii() and tag.isprintable() and not tag.startswith("W/")


def _settled(modified: str, date: str) -> bool:
    """Whether the image was written to long enough before the answer: two versions of the same second have one Last-Modified
    (RFC 9110, 8.8.2.2)."""
    then, told = _moment(modified), _moment(date)
    return then is not None and told is not None and told - then >= 1


def _moment(text: str) -> float | None:
    """Seconds; None if it is no time."""
    try:
        parsed = parsedate_tz(text)
        return None if parsed is None else mktime_tz(parsed)
    except (ValueError, OverflowError):
        return None


def _there(part: Path) -> tuple[int, str]:
    """Bytes of an earlier try, and which version of the image they are of; empty if that can't be read any more."""
    have, file = part.stat().st_size if part.exists() else 0, tag_of(part)
    tag = file.read_bytes().decode(errors="replace") if have and file.exists() else ""
    return have, tag if _sendable(tag) else ""


async def _opened(volume: Volume, part: Path, *, resume: bool) -> BinaryIO:
    opening = volume.begin(part, open_part, part, resume=resume)
    try:
        return await volume.ended(opening)
    except asyncio.CancelledError:
        # Whenever it is open, nobody will be there to close it.
        opening.add_done_callback(lambda done: done.exception() or volume.begin(part, done.result().close))
        raise


def open_part(part: Path, *, resume: bool) -> BinaryIO:
    """The file to write to: behind what is there, or from the beginning."""
    return part.open("ab" if resume else "wb")


@dataclass(frozen=True)
class Sink:
    """A file that is written, and the sum of all that is in it."""

    file: BinaryIO
    sum: hashlib._Hash

    def begin(self, volume: Volume, part: Path, pieces: list[bytes]) -> list[asyncio.Future[Any]]:
        """Appends to the file and adds to the sum, each in a thread: the sum takes longer than all the rest. As one piece, for a
        thread waits for the interpreter's lock whenever it is done with one."""
        piece = b"".join(pieces)
        return [volume.begin(part, self.file.write, piece), volume.begin(part, self.sum.update, piece)]

    def image(self) -> Image:
        """What is in the file, once it is closed."""
        return Image(Path(self.file.name).stat().st_size, f"sha256:{self.sum.hexdigest()}")


async def _write(
    volume: Volume, part: Path, sink: Sink, response: aiohttp.ClientResponse, have: int, total: int, told: Told
) -> None:
    taking: list[asyncio.Future[Any]] = []
    syncing: asyncio.Future[None] | None = None
    pieces: list[bytes] = []
    size, synced = 0, have
    try:
        async for piece, _ in response.content.iter_chunks():
            pieces.append(piece)
            size += len(piece)
            if size < PIECE:
                continue
            await _all_ended(volume, taking)
            if have - synced >= SYNC_EVERY and (syncing is None or syncing.done()):
                if syncing is not None:
                    syncing.result()
                syncing, synced = volume.begin(part, os.fdatasync, sink.file.fileno()), have
            have += size
            told(have, total)
            taking = sink.begin(volume, part, pieces)
            pieces, size = [], 0
    finally:
        # Also of a download that breaks off: what came is kept, and the file is left alone by the time it is closed.
        try:
            if syncing is not None:
                await volume.ended(syncing)
        finally:
            await _all_ended(volume, taking)
        if pieces:
            await _all_ended(volume, sink.begin(volume, part, pieces))
            told(have + size, total)


async def _all_ended(volume: Volume, taking: list[asyncio.Future[Any]]) -> None:
    for each in taking:
        await volume.ended(each)


async def _check(image: Image, source: Source, total: int, place: Place) -> None:
    name, volume, part = shown(source.url), place.volume, place.part
    if total and image.size != total:
        if image.size > total:
            await volume.write(part, remove, part)
        raise DownloadFailed("Truncated", f"{name}: got {image.size} of {total} bytes")
    if source.checksum and image.checksum != source.checksum:
        # What is wrong now will not become right by having more added to it.
        await volume.write(part, remove, part)
        raise DownloadFailed("ChecksumMismatch", f"{name}: the image has {image.checksum}, not {source.checksum}")
