"""Reading the wire without building models: the one module that knows msgspec.

An object is kept as the JSON bytes that came, less ``managedFields`` (which no controller reads and which is a third of an
object). What predicates and indexes need of the metadata is decoded on demand into a :class:`Header`: that costs about
5 microseconds, less than keeping it costs in memory for an object that is seldom looked at.
"""

from __future__ import annotations

from typing import Any

import msgspec

from dpf.runtime.meta import Key

INITIAL_EVENTS_END = "k8s.io/initial-events-end"
"""Annotation of the bookmark that ends the initial events of a streamed list (KEP-3157)."""


class OwnerHeader(msgspec.Struct, gc=False, rename="camel"):
    """What a :class:`Header` tells of an owner."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    controller: bool = False


class Header(msgspec.Struct, gc=False, rename="camel"):
    """The metadata of an object, decoded cheaply; same names as :class:`dpf.runtime.meta.ObjectMeta`."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: list[OwnerHeader] = []
    finalizers: list[str] = []

    @property
    def key(self) -> Key:
        return Key(self.namespace, self.name)


class Identity(msgspec.Struct, gc=False, rename="camel"):
    """The least that places an object: where it is and which version it is."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class _WithHeader(msgspec.Struct, gc=False):
    metadata: Header


class _WithIdentity(msgspec.Struct, gc=False):
    metadata: Identity
    kind: str = ""


class WatchEvent(msgspec.Struct, gc=False):
    """A line of a watch stream; ``object`` is a view into the line."""

    type: str
    object: msgspec.Raw


class Status(msgspec.Struct, gc=False, rename="camel"):
    """metav1.Status: what the server says instead of an object."""

    kind: str = ""
    message: str = ""
    reason: str = ""
    code: int = 0
    details: dict[str, Any] | None = None


class _ListMeta(msgspec.Struct, gc=False, rename={"resource_version": "resourceVersion", "more": "continue"}):
    resource_version: str = ""
    more: str = ""


class _List(msgspec.Struct, gc=False):
    metadata: _ListMeta
    kind: str = ""
    items: list[msgspec.Raw] = []


_header = msgspec.json.Decoder(_WithHeader)
_identity = msgspec.json.Decoder(_WithIdentity)
_event = msgspec.json.Decoder(WatchEvent)
_status = msgspec.json.Decoder(Status)
_list = msgspec.json.Decoder(_List)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.Encoder().encode

DecodeError = msgspec.DecodeError


class TooDeep(DecodeError):
    """Lists and objects within each other, a thousand or so, which API servers store and no reader here follows."""

    def __init__(self) -> None:
        super().__init__("nested too deeply to be read")


def version_of(resource_version: str) -> int:
    """A resourceVersion as a number: comparable within a resource type (KEP-5504); an empty one is 0.

    :raises DecodeError: if it is no number.
    """
    try:
        return int(resource_version) if resource_version else 0
    except ValueError:
        raise DecodeError("a resourceVersion that is no number") from None


def header(raw: bytes) -> Header:
    """The metadata of an object.

    :raises DecodeError: if the bytes are not a Kubernetes object.
    """
    try:
        return _header.decode(raw).metadata
    except RecursionError:
        raise TooDeep from None


def identity(raw: bytes | msgspec.Raw) -> Identity:
    """Name, namespace, uid and version of an object.

    :raises DecodeError: if it is no object.
    """
    try:
        return _identity.decode(raw).metadata
    except RecursionError:
        raise TooDeep from None


def place(raw: bytes | msgspec.Raw, kind: str) -> Identity:
    """The identity of an object of a kind. Within a list, objects of built-in kinds don't say which they are.

    :raises DecodeError: if it is none: a Status, a Table, an object of another kind or without a name or version.
    """
    try:
        found = _identity.decode(raw)
    except RecursionError:
        raise TooDeep from None
    if found.kind not in {"", kind}:
        raise DecodeError(f"a {found.kind} instead of a {kind}")
    if not found.metadata.name or not version_of(found.metadata.resource_version):
        raise DecodeError(f"a {kind} without a name or a version")
    return found.metadata


def slim(raw: bytes | msgspec.Raw) -> bytes:
    """A copy of an object's bytes without ``managedFields``; the rest is not parsed.

    :raises DecodeError: if it is no object.
    """
    try:
        fields = _fields.decode(raw)
        metadata = _fields.decode(fields.get("metadata", b""))
    except RecursionError:
        raise TooDeep from None
    if metadata.pop("managedFields", None) is None:
        return bytes(raw)
    fields["metadata"] = msgspec.Raw(_encode(metadata))
    return _encode(fields)


def watch_event(line: bytes) -> WatchEvent:
    """A line of a watch stream.

    :raises TooDeep: if its object is; the stream is one all the same.
    :raises DecodeError: if it is no event.
    """
    try:
        return _event.decode(line)
    except RecursionError:
        raise TooDeep from None


def status(raw: bytes | msgspec.Raw) -> Status:
    """A Status object; an empty one if the bytes are something else (a proxy's HTML page)."""
    try:
        return _status.decode(raw)
    except (DecodeError, RecursionError):
        return Status(message=bytes(raw)[:300].decode(errors="replace"))


def split_list(body: bytes) -> tuple[list[msgspec.Raw], str, str]:
    """The items of a list as views into the body, its resourceVersion and the token of the next page (or empty).

    :raises DecodeError: if it is no list.
    """
    try:
        page = _list.decode(body)
    except RecursionError:
        raise TooDeep from None
    if page.kind == "Status":
        raise DecodeError("a Status instead of a list")
    return page.items, page.metadata.resource_version, page.metadata.more


class LineSplitter:
    """Cuts a byte stream into lines, whatever the sizes of its chunks; a watch event may be longer than any limit of a reader."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that the chunk completes, without their newlines; empty lines are left out."""
        if b"\n" not in chunk:
            self._parts.append(chunk)
            return []
        *lines, rest = chunk.split(b"\n")
        if self._parts:
            self._parts.append(lines[0])
            lines[0] = b"".join(self._parts)
        self._parts = [rest] if rest else []
        return [line for line in lines if line]
