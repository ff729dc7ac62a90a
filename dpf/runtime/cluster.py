"""A cluster as a process uses it: a client for writing and a cache for reading.

``cluster.cache[Pod]`` is the informer of a kind; the first mention registers it, and :meth:`Cache.run` keeps all that are
registered. Writes of the client are in the cache when they return.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import Any

from dpf.runtime.client import Client, UnreadableObject
from dpf.runtime.errors import Forbidden
from dpf.runtime.informer import Informer
from dpf.runtime.meta import Key, Object, T
from dpf.runtime.reflector import Reflector, Scope

SYNC_TIMEOUT = 120.0
"""Seconds in which the first lists must be in; controller-runtime's figure."""


class Cache:
    """The informers of one cluster."""

    def __init__(self, client: Client, *, namespace: str = "") -> None:
        self._client = client
        self._namespace = namespace
        self._scopes: dict[type[Object], Scope] = {}
        self._informers: dict[type[Object], Informer[Any]] = {}
        self.reflectors: dict[type[Object], Reflector[Any]] = {}
        self._group: asyncio.TaskGroup | None = None
        self.on_unreadable: Callable[[type[Object], Key, str, UnreadableObject], None] | None = None
        """Called once per version of an object that its model can't read, with kind, key, uid and error."""
        client.written.append(self._wrote)
        client.deleted.append(self._deleted)

    def configure(
        self, kind: type[Object], *, namespace: str | None = None, labels: str = "", fields: str = ""
    ) -> None:
        """Narrows what of a kind is cached. ``namespace`` None means the process's own scope, empty means all.

        :raises RuntimeError: if the kind is being cached already.
        """
        if kind in self._informers:
            raise RuntimeError(f"{kind.__name__} is cached already; configure it before its first use")
        self._scopes[kind] = Scope(self._namespace if namespace is None else namespace, labels, fields)

    def __getitem__(self, kind: type[T]) -> Informer[T]:
        informer = self._informers.get(kind)
        if informer is None:
            informer = self._informers[kind] = Informer(kind)
            informer.on_unreadable = partial(self._unreadable, kind)
            scope = self._scopes.get(kind) or Scope(self._namespace if kind.RESOURCE.namespaced else "")
            self.reflectors[kind] = Reflector(self._client, informer, scope)
            if self._group is not None:
                # Whoever mentions a kind first, a reconcile perhaps, is not who its reflector works for.
                context, name = Context(), f"reflector {kind.__name__}"
                self._group.create_task(self.reflectors[kind].run(), name=name, context=context)
        return informer

    def informers(self) -> list[Informer[Any]]:
        """All that are registered."""
        return list(self._informers.values())

    async def run(self) -> None:
        """Keeps every informer, those registered later too, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for kind, reflector in list(self.reflectors.items()):
                    group.create_task(reflector.run(), name=f"reflector {kind.__name__}")
                await asyncio.Event().wait()
        finally:
            self._group = None

    async def synced(self, *, timeout: float = SYNC_TIMEOUT) -> None:
        """Waits until every registered informer has its first list.

        :raises TimeoutError: naming the kinds that are still missing, for example for want of a CRD or of a right.
        """
        try:
            async with asyncio.timeout(timeout):
                for informer in self.informers():
                    await informer.synced.wait()
        except TimeoutError:
            missing = ", ".join(str(i.kind.RESOURCE) for i in self.informers() if not i.synced.is_set())
            raise TimeoutError(
                f"no list of {missing} within {timeout:g} s: is the API server there, "
                "are the CRDs installed, and may this account list and watch them?"
            ) from None

    def relist(self) -> None:
        """Has everything listed anew, see :meth:`Reflector.relist`."""
        for reflector in self.reflectors.values():
            reflector.relist()

    def resume(self) -> bool:
        """Has whoever waits out a back-off try again now, see :meth:`Reflector.resume`; whether any kind lags behind."""
        lagging = self._lagging()
        for reflector in lagging:
            reflector.resume()
        return bool(lagging)

    async def current(self, *, timeout: float) -> None:
        """Waits until all registered kinds are listed and watched.

        :raises Forbidden: if the server does not let one be, after ``timeout`` seconds.
        :raises TimeoutError: if one is not for another reason, which it tells.
        """
        try:
            async with asyncio.timeout(timeout):
                while lagging := self._lagging():
                    await lagging[0].current.wait()
        except TimeoutError:
            lagging = self._lagging()
            if refused := next((each.refused for each in lagging if each.refused), ""):
                raise Forbidden(403, "Forbidden", f"may this account list and watch? {refused}") from None
            kinds = ", ".join(str(kind.RESOURCE) for kind, each in self.reflectors.items() if each in lagging)
            why = next((f": {each.failure}" for each in lagging if each.failure), "")
            raise TimeoutError(f"no whole list and watch of {kinds} within {timeout:g} s{why}") from None

    def _lagging(self) -> list[Reflector[Any]]:
        return [reflector for reflector in self.reflectors.values() if not reflector.current.is_set()]

    def _unreadable(self, kind: type[Object], key: Key, uid: str, error: UnreadableObject) -> None:
        if self.on_unreadable is not None:
            self.on_unreadable(kind, key, uid, error)

    def _wrote(self, kind: type[Object], raw: bytes, obj: Object, based_on: str) -> None:
        informer = self._informers.get(kind)
        if informer is not None and self._covers(kind, obj):
            informer.wrote(raw, obj, based_on)

    def _deleted(self, kind: type[Object], obj: Object) -> None:
        informer = self._informers.get(kind)
        if informer is not None:
            informer.removed(obj)

    def _covers(self, kind: type[Object], obj: Object) -> bool:
        """Whether the watch would show the object: one that it won't must not get into the store by a write."""
        scope = self._scopes.get(kind) or Scope(self._namespace if kind.RESOURCE.namespaced else "")
        if scope.labels or scope.fields:
            return obj.key in self._informers[kind]
        return not scope.namespace or scope.namespace == obj.namespace


class Cluster:
    """One cluster: :attr:`client` to write, :attr:`cache` to read. ``name`` is for logs and metrics; ``namespace`` is what the
    process looks at, all if empty."""

    def __init__(self, name: str, client: Client, *, namespace: str = "") -> None:
        self.name = name
        self.client = client
        self.namespace = namespace
        self.cache = Cache(client, namespace=namespace)
