"""Small files that others read while they change: whole or not there."""

from __future__ import annotations

import os
from pathlib import Path


def put(path: Path, content: str | bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Replaces a file at once, making its folder if need be.

    The temporary file lies beside it under a hidden name, which node feature discovery does not read.

    :param durable: have it on the disk before it shows; without that, a power cut may leave the file empty.
    :raises OSError: if the disk does not take it; the file is as before then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = part_of(path)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask says
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    temporary.replace(path)
    if durable:
        sync_folder(path.parent)


def part_of(path: Path) -> Path:
    """Where a file is written before it is under its name."""
    return path.with_name(f".{path.name}.new")


def remove(path: Path) -> None:
    """Removes a file that may not be there.

    :raises OSError: if it stays.
    """
    path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Has the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
