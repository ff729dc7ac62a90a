"""Raw access to an API server for those who stand in for Kubernetes' own parts: objects as plain dicts.

The sandbox plays scheduler, kubelet and maintenance operator for hundreds of nodes, writes fields that no model of ours
knows, and keeps no cache; what it needs of the library is the transport.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from types import TracebackType
from typing import Any

import orjson

from dpf.runtime.errors import AlreadyExists, ApiError, Gone, NotFound
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.log import get_logger
from dpf.runtime.transport import Transport
from dpf.runtime.wire import INITIAL_EVENTS_END

log = get_logger(__name__)

Json = dict[str, Any]

_RETRY = 0.5
_SILENCE = 150.0


class Api:
    """One API server. Use as an async context manager."""

    def __init__(self, kubeconfig: Kubeconfig, *, user_agent: str) -> None:
        self._transport = Transport(kubeconfig, user_agent=user_agent)

    async def __aenter__(self) -> Api:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)

    async def get(self, path: str) -> Json:
        """The object at a path.

        :raises NotFound: if there is none.
        """
        return _object(await self._transport.request("GET", path))

    async def items(self, path: str, *, labels: str = "") -> list[Json]:
        """All objects of a collection."""
        params = {"labelSelector": labels} if labels else {}
        found: list[Json] = _object(await self._transport.request("GET", path, params=params)).get("items") or []
        return found

    async def text(self, path: str) -> str:
        """What a path answers, as text: ``/readyz``, ``/metrics``."""
        return (await self._transport.request("GET", path)).decode()

    async def create(self, path: str, body: Mapping[str, Any]) -> Json:
        """Posts to a collection or a subresource.

        :raises AlreadyExists: if an object of that name is there.
        """
        return _object(await self._transport.request("POST", path, body=orjson.dumps(body)))

    async def ensure(self, path: str, body: Mapping[str, Any]) -> None:
        """Creates an object unless there is one of that name."""
        try:
            await self.create(path, body)
        except AlreadyExists:
            return

    async def patch(self, path: str, body: Mapping[str, Any]) -> Json:
        """Sends a merge patch."""
        kind = "application/merge-patch+json"
        return _object(await self._transport.request("PATCH", path, body=orjson.dumps(body), content_type=kind))

    async def apply(self, path: str, body: Mapping[str, Any]) -> Json:
        """Server-side apply, by force."""
        params = {"fieldManager": "dpf-sandbox", "force": "true"}
        kind = "application/apply-patch+yaml"
        data = orjson.dumps(body)
        return _object(await self._transport.request("PATCH", path, params=params, body=data, content_type=kind))

    async def delete(self, path: str, *, uid: str, grace: int = 0) -> None:
        """Deletes the very object of that uid; that it is gone already, or another one by now, is success."""
        options = {"gracePeriodSeconds": grace, "preconditions": {"uid": uid}}
        try:
            await self._transport.request("DELETE", path, body=orjson.dumps(options))
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    async def follow(self, path: str, *, labels: str = "") -> AsyncGenerator[tuple[str, Json], None]:
        """All objects of a collection and their changes, without end: ``ADDED``, ``MODIFIED`` and ``DELETED``.

        Lost streams are resumed; after a relist, what has vanished meanwhile is told as ``DELETED``. Errors are waited out.
        """
        known: dict[str, Json] = {}
        while True:
            try:
                async for event, obj in self._list_and_watch(path, labels, known):
                    yield event, obj
            except (Gone, NotFound) as error:
                # NotFound: the kind is not served yet; a CRD may come later.
                log.debug("follow_starts_over", path=path, error=str(error))
            except ApiError as error:
                log.info("follow_interrupted", path=path, error=str(error))
            await asyncio.sleep(_RETRY)

    async def _list_and_watch(self, path: str, labels: str, known: dict[str, Json]) -> AsyncIterator[tuple[str, Json]]:
        seen: set[str] = set()
        params = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": "600"}
        params |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        if labels:
            params["labelSelector"] = labels
        initial = True
        while True:
            version = params.get("resourceVersion", "")
            async with self._transport.stream(path, params, silence=_SILENCE) as chunks:
                async for line in chunks:
                    event = orjson.loads(line)
                    kind, obj = event["type"], event["object"]
                    if kind == "ERROR":
                        raise Gone(obj.get("code", 0), obj.get("reason", ""), obj.get("message", ""))
                    metadata = obj["metadata"]
                    version = metadata["resourceVersion"]
                    if kind == "BOOKMARK":
                        if initial and (metadata.get("annotations") or {}).get(INITIAL_EVENTS_END):
                            initial = False
                            for uid in known.keys() - seen:
                                yield "DELETED", known.pop(uid)
                        continue
                    uid = metadata["uid"]
                    seen.add(uid)
                    if kind == "DELETED":
                        known.pop(uid, None)
                    else:
                        known[uid] = {"metadata": {k: metadata.get(k, "") for k in ("name", "namespace", "uid")}}
                    yield kind, obj
            if initial:
                return
            for option in ("sendInitialEvents", "resourceVersionMatch"):
                params.pop(option, None)
            params["resourceVersion"] = version


def _object(answer: bytes) -> Json:
    found: Json = orjson.loads(answer)
    return found


def path_of(obj: Json, plural: str, *, subresource: str = "") -> str:
    """The path of a namespaced core object."""
    metadata = obj["metadata"]
    path = f"/api/v1/namespaces/{metadata['namespace']}/{plural}/{metadata['name']}"
    return f"{path}/{subresource}" if subresource else path
