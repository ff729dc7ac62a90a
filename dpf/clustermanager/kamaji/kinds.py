"""Kamaji's kinds, which may be installed later than this process starts, or be gone one day.

The definition of TenantControlPlane is watched by its name; once it is served, control planes and the DataStore are watched too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dpf.clustermanager.kamaji.placement import clusters_of
from dpf.runtime.cluster import Cluster
from dpf.runtime.errors import Waiting
from dpf.runtime.informer import Change
from dpf.runtime.k8s import CustomResourceDefinition
from dpf.runtime.meta import Key
from dpf.runtime.predicates import differs
from dpf_api import kamaji
from dpf_api.dpucluster import TYPE_KAMAJI, DPUCluster
from dpf_api.kamaji import DataStore, TenantControlPlane

DEFINITION = str(TenantControlPlane.RESOURCE)
LISTED_WITHIN = 5.0
"""Seconds that the first list of DataStores is waited for."""

looks_different = differs(
    lambda each: (each.metadata.generation, each.labels, each.metadata.owner_references, each.deleting, each.status)
)


class KamajiKinds:
    """Says whether Kamaji is installed, and wakes clusters when something of Kamaji's changes."""

    def __init__(self, cluster: Cluster, data_store: str) -> None:
        self._cache = cluster.cache
        self._data_store = data_store
        self._opened = False
        self.wake: Callable[[Key], None] = lambda _: None
        """Called with a cluster for which something of Kamaji's has changed."""
        self._cache.configure(CustomResourceDefinition, namespace="", fields=f"metadata.name={DEFINITION}")
        self._cache.configure(DataStore, namespace="", fields=f"metadata.name={data_store}")

    def require(self) -> None:
        """Checks that Kamaji is installed; the first time it is, its kinds begin to be watched.

        :raises Waiting: if it is not.
        """
        definition = self._cache[CustomResourceDefinition].get(DEFINITION)
        if definition is None or not definition.serves(kamaji.VERSION):
            message = f"the host cluster does not serve {DEFINITION} {kamaji.VERSION}: install Kamaji"
            raise Waiting("KamajiNotInstalled", message)
        if not self._opened:
            self._opened = True
            self._cache[TenantControlPlane].add_handler(self._control_plane_changed)
            self._cache[DataStore].add_handler(self._data_store_changed)

    async def has_data_store(self) -> bool:
        """Whether the DataStore exists; that its list is late is no reason to say that it does not."""
        stores = self._cache[DataStore]
        try:
            async with asyncio.timeout(LISTED_WITHIN):
                await stores.synced.wait()
        except TimeoutError:
            return True
        return Key("", self._data_store) in stores

    def clusters(self, _: object) -> list[Key]:
        """All clusters of the type."""
        return [each.key for each in self._cache[DPUCluster].list() if each.spec.type == TYPE_KAMAJI]

    def _control_plane_changed(self, change: Change[TenantControlPlane]) -> None:
        if looks_different(change):
            # Label and owner may have been edited away at once.
            for key in {key for obj in (change.old, change.new) if obj is not None for key in clusters_of(obj)}:
                self.wake(key)

    def _data_store_changed(self, change: Change[DataStore]) -> None:
        if change.type != "MODIFIED":
            for key in self.clusters(change):
                self.wake(key)
