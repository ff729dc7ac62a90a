"""What is downloaded, what comes of it, and how an address is spoken of."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dpf.runtime.errors import DpfError

_ADDRESS = re.compile(r"(https?://)([^/?#]*)([^?#]*)")
_IN_TEXT = re.compile(r"https?://[^\s'\"]+")


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


def shown(url: str) -> str:
    """The address without what may be secret in it: user, password, query. No more than the scheme of one that can't be told
    apart, such as one with a slash in its password."""
    match = _ADDRESS.match(url)
    if match is None:
        return "..."
    scheme, authority, path = match.groups()
    host = authority.rpartition("@")[2]
    port = host.rpartition(":")[2] if ":" in host and not host.endswith("]") else ""
    return f"{scheme}{host}{path}" if not port or port.lstrip("-").isdigit() else f"{scheme}..."


def without_secrets(text: str) -> str:
    """A library's words, with the addresses in them as :func:`shown` has them."""
    return _IN_TEXT.sub(lambda match: shown(match[0]), text)
