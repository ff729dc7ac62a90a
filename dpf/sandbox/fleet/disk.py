"""Small files that must be whole or not there, and that nobody else may read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson


def write_private(path: Path, content: bytes) -> None:
    """Replaces a file at once (mode 0600), making its folder if need be; empty content removes it."""
    if not content:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file, or None if there is no such file."""
    try:
        found: dict[str, Any] = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return found
