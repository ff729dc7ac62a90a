"""The typed client of one API server.

Reading and writing are typed by kind: ``await client.get(Pod, "name", "namespace")``. What is written is what was set on the
model (see :func:`dpf.runtime.meta.to_wire`), so that fields owned by others are left alone. Whoever keeps a cache of the same
server registers in :attr:`Client.written` and :attr:`Client.deleted` and so sees this client's writes before the watch tells
of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic

import orjson
from pydantic import TypeAdapter, ValidationError

from dpf.runtime import wire
from dpf.runtime.errors import DpfError, NotFound, Unavailable, api_error
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import Key, Model, Object, T, to_wire
from dpf.runtime.transport import REQUEST_TIMEOUT, RequestObserver, Transport

PAGE = 500
"""Objects per page of a list, as client-go's pager has it."""

SILENCE = 90.0
"""Seconds of silence that end a watch. A server sends a bookmark about every minute."""

_version = TypeAdapter(dict[str, str])
_List = list  # the class below has a method of that name

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


class UnreadableObject(DpfError):
    """An object in the API that does not fit the model of its kind."""

    def __init__(self, kind: str, name: str, message: str) -> None:
        super().__init__(f"{kind} {name} cannot be read: {message}")


class Client:
    """Talks to one API server as one user. Use as an async context manager.

    :param field_owner: the field manager that writes are made under.
    :param transport: in place of a plain one.
    """

    def __init__(
        self,
        kubeconfig: Kubeconfig,
        *,
        field_owner: str,
        observer: RequestObserver | None = None,
        transport: Transport | None = None,
    ) -> None:
        self.transport = transport or Transport(kubeconfig, user_agent=f"dpf/{field_owner}", observer=observer)
        self.field_owner = field_owner
        self.written: _List[Callable[[type[Object], bytes, Object, str], None]] = []
        """Called with kind, bytes and model of each object that a write of this client returned, and the resourceVersion that
        the write was locked on (or an empty string)."""
        self.deleted: _List[Callable[[type[Object], Object], None]] = []
        """Called when a delete of this client removed an object for good."""
        self.skipped_writes = 0
        """Writes that were not sent because they would have changed nothing."""

    async def __aenter__(self) -> Client:
        await self.transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.transport.__aexit__(kind, error, trace)

    # Reading

    async def get(self, kind: type[T], name: str, namespace: str = "") -> T:
        """The object as the server has it now.

        :raises NotFound: if there is none.
        :raises UnreadableObject: if it does not fit the model.
        :raises Unavailable: if what answers is no API server (a proxy's page); so for all that is read or written.
        """
        return _object(kind, await self.transport.request("GET", kind.RESOURCE.path(namespace, name)))[1]

    async def list(self, kind: type[T], namespace: str = "", *, labels: str = "", fields: str = "") -> _List[T]:
        """All objects of a kind, read in pages; label and field selectors as kubectl writes them."""
        params = {"limit": str(PAGE)} | _selectors(labels, fields)
        found: _List[T] = []
        while True:
            body = await self.transport.request("GET", kind.RESOURCE.path(namespace), params=params)
            try:
                items, _, more = wire.split_list(body)
            except wire.DecodeError as error:
                raise _rubbish(f"list of {kind.RESOURCE.kind}", error) from None
            found += [_object(kind, item)[1] for item in items]
            if not more:
                return found
            params["continue"] = more

    async def watch(
        self, kind: type[T], namespace: str = "", *, name: str = "", resource_version: str = ""
    ) -> AsyncGenerator[tuple[str, T], None]:
        """Events of one stream, starting with an ``ADDED`` for each object there is if no version is given.

        For tests and simple tools: it ends when the server ends it. Whoever leaves it early closes it
        (``contextlib.aclosing``). Controllers read informers.

        :raises ApiError: if it is refused, or the version is too old (:class:`Gone`).
        """
        # Bookmarks come every minute or so: without them a watch of objects that do not change would look silent.
        params = {"watch": "true", "allowWatchBookmarks": "true"}
        if name:
            params["fieldSelector"] = f"metadata.name={name}"
        if resource_version:
            params["resourceVersion"] = resource_version
        async with self.transport.stream(kind.RESOURCE.path(namespace), params, silence=SILENCE) as lines:
            async for line in lines:
                try:
                    event = wire.watch_event(line)
                except wire.DecodeError as error:
                    raise _rubbish("event of a watch", error) from None
                if event.type == "ERROR":
                    status = wire.status(event.object)
                    raise api_error(status.code, status.reason, status.message, status.details)
                if event.type != "BOOKMARK":
                    yield event.type, _object(kind, event.object)[1]

    async def server_version(self, *, timeout: float = REQUEST_TIMEOUT) -> dict[str, str]:
        """The server's ``/version``.

        :raises Unavailable: if there is no answer, or one that is none of an API server (a proxy's page).
        """
        answer = await self.transport.request("GET", "/version", timeout=timeout)
        try:
            version: dict[str, str] = _version.validate_json(answer)
        except ValidationError:
            raise Unavailable(
                200, "NotKubernetes", f"{self.transport.address} answers, but not as an API server"
            ) from None
        return version

    # Writing

    async def create(self, obj: T) -> T:
        """Creates the object and returns it as stored.

        :raises AlreadyExists: if one of that name is there.
        :raises Invalid: if it breaks a rule of its schema.
        """
        path = obj.RESOURCE.path(obj.namespace)
        return self._stored(type(obj), await self._write("POST", path, to_wire(obj)))

    async def replace(self, obj: T) -> T:
        """Replaces the object by this one; locked if it carries a resourceVersion.

        Only fields that the model knows are sent: for kinds of others use a patch.
        """
        path = obj.RESOURCE.path(obj.namespace, obj.name)
        return self._stored(type(obj), await self._write("PUT", path, to_wire(obj)))

    async def merge_patch(
        self, obj: T, patch: Mapping[str, Any], *, subresource: str = "", resource_version: str = ""
    ) -> T:
        """Sends a merge patch (RFC 7386). With a ``resource_version`` it is refused if the object has another by now.

        :raises Conflict: if the lock does not hold.
        """
        body = dict(patch)
        if resource_version:
            body["metadata"] = {**body.get("metadata", {}), "resourceVersion": resource_version}
        path = obj.RESOURCE.path(obj.namespace, obj.name, subresource)
        answer = await self._write("PATCH", path, body, MERGE_PATCH)
        return self._stored(type(obj), answer, based_on=resource_version)

    async def json_patch(self, obj: T, operations: Sequence[Mapping[str, Any]]) -> T:
        """Sends a JSON patch (RFC 6902); its ``test`` operations are preconditions.

        :raises Invalid: if a ``test`` does not hold; without ``details``, which it has if a rule is broken.
        """
        path = obj.RESOURCE.path(obj.namespace, obj.name)
        return self._stored(type(obj), await self._write("PATCH", path, list(operations), JSON_PATCH))

    async def apply(self, obj: T) -> T:
        """Server-side apply of what is set on the model, under this client's field owner, which takes fields from others."""
        path = obj.RESOURCE.path(obj.namespace, obj.name)
        return self._stored(type(obj), await self._write("PATCH", path, to_wire(obj), APPLY_PATCH, {"force": "true"}))

    def status(self, obj: T) -> StatusWriter[T]:
        """The status of an object, to be set: ``await client.status(obj).set(status)``."""
        return StatusWriter(self, obj)

    async def delete(self, obj: Object, *, resource_version: str = "") -> None:
        """Asks for deletion. That it is gone already is success; with a uid on the model, a namesake is spared.

        :param resource_version: the version that was decided upon, if it must be no other.
        :raises Conflict: if the object of that name is another one by now, or has another version.
        """
        options: dict[str, Any] = {"propagationPolicy": "Background"}
        held = {"uid": obj.uid, "resourceVersion": resource_version}
        if preconditions := {key: value for key, value in held.items() if value}:
            options["preconditions"] = preconditions
        path = obj.RESOURCE.path(obj.namespace, obj.name)
        try:
            answer = await self.request("DELETE", path, body=options)
        except NotFound:
            self.gone(obj)
            return
        if wire.status(answer).kind == "Status":
            self.gone(obj)
        else:
            self._stored(type(obj), answer)

    def gone(self, obj: Object) -> None:
        """Tells the caches that the object is no more, since a write of ours was answered so; it was the last of it."""
        for observe in self.deleted:
            observe(type(obj), obj)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> bytes:
        """A request as it is, for what the typed methods don't cover. ``body`` is sent as JSON."""
        data = None if body is None else orjson.dumps(body)
        return await self.transport.request(method, path, params=params, body=data, content_type=content_type)

    async def _write(
        self,
        method: str,
        path: str,
        body: Any,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> bytes:
        params = {"fieldManager": self.field_owner, **(params or {})}
        return await self.request(method, path, params=params, body=body, content_type=content_type)

    def _stored(self, kind: type[T], answer: bytes, *, based_on: str = "") -> T:
        raw, obj = _object(kind, answer)
        for observe in self.written:
            observe(kind, raw, obj, based_on)
        return obj


class StatusWriter(Generic[T]):
    """Writes the status of one object, made by :meth:`Client.status`."""

    def __init__(self, client: Client, obj: T) -> None:
        self._client = client
        self._obj = obj

    async def set(self, status: Model) -> T:
        """Makes the object's status this one; sends what differs, locked on the version it was derived from, or nothing.

        :returns: the object with its new status.
        :raises Conflict: if the object has changed since; read again and decide again.
        """
        old = getattr(self._obj, "status", None)
        patch = merge_diff(_plain(old) if old is not None else {}, _plain(status))
        if not patch:
            self._client.skipped_writes += 1
            return self._obj
        version = self._obj.metadata.resource_version
        return await self._client.merge_patch(
            self._obj, {"status": patch}, subresource="status", resource_version=version
        )


def _object(kind: type[T], answer: Any) -> tuple[bytes, T]:
    """The object that a server sent, without its managed fields, and its model.

    :raises Unavailable: if it sent none of that kind.
    :raises UnreadableObject: if it does not fit the model.
    """
    try:
        wire.place(answer, kind.RESOURCE.kind)
    except wire.DecodeError as error:
        raise _rubbish(kind.RESOURCE.kind, error) from None
    raw = wire.slim(answer)
    return raw, decode(kind, raw)


def _rubbish(wanted: str, error: Exception) -> Unavailable:
    return Unavailable(200, "NotKubernetes", f"the answer is no {wanted} of an API server: {error}")


def decode(kind: type[T], raw: bytes) -> T:
    """The model of an object's bytes.

    :raises UnreadableObject: if they do not fit it.
    """
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        identity = wire.identity(raw)
        name = str(Key(identity.namespace, identity.name))
        raise UnreadableObject(kind.RESOURCE.kind, name, f"{where}: {first['msg']}") from None


def merge_diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch that makes ``old`` into ``new``: changed keys, None for those that go; lists change as a whole."""
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            if inner := merge_diff(before, value):
                patch[key] = inner
        elif key not in old or before != value:
            patch[key] = value
    return patch


def _plain(model: Model) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)


def _selectors(labels: str, fields: str) -> dict[str, str]:
    return {name: value for name, value in (("labelSelector", labels), ("fieldSelector", fields)) if value}
