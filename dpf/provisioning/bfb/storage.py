"""Images on the shared volume: the part that a download has written so far, and the file that it becomes."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from dpf.provisioning.bfb.source import Image
from dpf.provisioning.volume import Volume, VolumeSilent
from dpf_api.bfb import LONGEST_FILE_NAME

STEP = 64 << 20
"""Bytes that are read and summed up within one deadline."""
RESERVE = 256 << 20
"""Bytes that images leave free: room for the bf.cfg of 2,000 cards, which have at most 128 KiB each."""
MODE = 0o644
VOLUME = frozenset({"VolumeSilent", "VolumeFailed"})
"""Failures that say nothing of the image: one that was there is expected to be there still."""


@dataclass(frozen=True)
class Stamp:
    """What tells a file that was written to, or is another one, from the file that was looked at before."""

    size: int
    mtime_ns: int
    inode: int

    @property
    def record(self) -> str:
        """What of it outlives the process. Not the inode: some volumes number theirs anew whenever they are mounted, and every
        restart would have all images read."""
        return f"{self.size}-{self.mtime_ns}"


def stamp(path: Path) -> Stamp | None:
    """A file's; None if it is not there."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return Stamp(stat.st_size, stat.st_mtime_ns, stat.st_ino)


def part_of(folder: Path, uid: str) -> Path:
    """Where an image that is being downloaded lies."""
    return folder / f"bfb-{uid}"


def tag_of(part: Path) -> Path:
    """Where it is remembered which version of the image that is."""
    return part.with_name(f"{part.name}.tag")


def room(part: Path, *, resume: bool) -> int:
    """Bytes that may still be written to the volume; what is there of an image that begins anew counts as free."""
    there = 0 if resume or not part.exists() else part.stat().st_size
    return shutil.disk_usage(part.parent).free + there - RESERVE


def remove(*paths: Path) -> None:
    """Removes files that may be there. One whose name is longer than the volume takes can't be."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise


def publish(part: Path, target: Path) -> None:
    """A complete image gets its name once it is on the disk."""
    descriptor = os.open(part, os.O_RDONLY)
    try:
        os.fchmod(descriptor, MODE)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    part.replace(target)


async def digest(volume: Volume, path: Path) -> Image:
    """Size and checksum of a file.

    :raises VolumeSilent: if the volume does not answer.
    """
    size, found = await sum_of(volume, path)
    return Image(size, f"sha256:{found.hexdigest()}")


async def sum_of(volume: Volume, path: Path) -> tuple[int, hashlib._Hash]:
    """Its size, and its sum to be gone on with."""
    found, size = hashlib.sha256(), 0
    while more := await volume.ask(_sum_up, path, size, found):
        size += more
    return size, found


def _sum_up(path: Path, start: int, found: hashlib._Hash) -> int:
    buffer, done = memoryview(bytearray(1 << 18)), 0
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while done < STEP and (size := file.readinto(buffer)):
            found.update(buffer[:size])
            done += size
    return done


def volume_failed(error: OSError) -> tuple[str, str]:
    """Reason and message of what a BFB says when the volume did not do as it was told."""
    if isinstance(error, VolumeSilent):
        return "VolumeSilent", str(error.strerror)
    if error.errno == errno.ENAMETOOLONG:
        name = Path(str(error.filename)).name
        message = f"the volume takes no file name of {len(name)} characters, most take {LONGEST_FILE_NAME}; spec.fileName can't be"
        return "FileNameTooLong", f"{message} changed, so make another BFB with a shorter one"
    return "VolumeFailed", f"{error.filename}: {error.strerror}"
