"""The Secrets that kubeconfigs of DPU clusters are read from.

Those of the namespace that the process looks at are in its cache. A DPUCluster elsewhere has a watch of its own, of the one Secret
that it names: no right to other Secrets of its namespace is needed, and none to those of namespaces without DPUClusters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass

from dpf.runtime.cluster import Cluster
from dpf.runtime.holder import TaskHolder
from dpf.runtime.informer import Informer
from dpf.runtime.k8s import Secret
from dpf.runtime.meta import Key
from dpf.runtime.reflector import Reflector, Scope
from dpf_api.dpucluster import DPUCluster

OPAQUE = "type=Opaque"
"""Kubeconfigs are of this type; the key pairs of DMS servers are not, and there are many of those."""

READER = "dpf-kubeconfig-reader"
"""The ClusterRole of config/rbac that lets its holder read them."""

FIRST_LOOK = 0.5
"""Seconds between looks while it is not known whether a Secret is there."""


class Unread(Exception):
    """It is not known yet whether the Secret is there."""


class Refused(Exception):
    """The server does not let this account see the Secret; with what it says."""


@dataclass
class _Watched:
    """The Secret of one DPUCluster."""

    name: str
    informer: Informer[Secret]
    reflector: Reflector[Secret]
    task: asyncio.Task[None]


class Kubeconfigs:
    """Finds the Secret of a DPUCluster, wherever that is. A runnable of the manager."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._cached = cluster.cache[Secret]
        self._watched: dict[Key, _Watched] = {}
        self._holder = TaskHolder("watches of kubeconfigs")
        self.wake: Callable[[Key], None] = lambda _: None
        """Called with a DPUCluster of another namespace whose Secret has changed."""

    async def run(self) -> None:
        """Keeps the watches until cancelled."""
        await self._holder.run()

    def get(self, cluster: DPUCluster) -> Secret | None:
        """The Secret that the cluster names, None if it is not there.

        :raises Unread: if that is not known yet.
        :raises Refused: if it may not be known.
        :raises RuntimeError: if a watch is needed and this is not being run.
        """
        name, namespace = cluster.spec.kubeconfig, cluster.namespace
        if self._cluster.namespace in ("", namespace):
            return self._cached.get(name, namespace)
        watched = self._watched.get(cluster.key)
        if watched is None or watched.name != name:
            self.forget(cluster.key)
            watched = self._watched[cluster.key] = self._watch(cluster.key, name)
        if watched.informer.synced.is_set():
            return watched.informer.get(name, namespace)
        if watched.reflector.refused:
            raise Refused(watched.reflector.refused)
        raise Unread

    def forget(self, cluster: Key) -> None:
        """Ends the watch of a cluster's Secret; that there is none is fine."""
        watched = self._watched.pop(cluster, None)
        if watched is not None:
            watched.task.cancel()

    def _watch(self, cluster: Key, name: str) -> _Watched:
        group = self._holder.group
        informer = Informer(Secret)
        informer.add_handler(lambda _: self.wake(cluster))
        scope = Scope(cluster.namespace, fields=f"metadata.name={name},{OPAQUE}")
        reflector = Reflector(self._cluster.client, informer, scope)
        # In no reconcile's name: its lines and spans end with it.
        keeping = self._keep(cluster, informer, reflector)
        task = group.create_task(keeping, name=f"kubeconfig of {cluster}", context=Context())
        return _Watched(name, informer, reflector, task)

    async def _keep(self, cluster: Key, informer: Informer[Secret], reflector: Reflector[Secret]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(reflector.run(), name=f"reflector of the kubeconfig of {cluster}")
            await informer.synced.wait()
            # That there is none is news as well, and no change tells it.
            self.wake(cluster)
