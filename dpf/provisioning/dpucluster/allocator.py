"""Which DPU cluster a DPU is given to: the first Ready one with room, in order of name.

How many DPUs a cluster has is counted from the DPUs themselves, so a restart forgets nothing. ``maxNodes`` holds with any number
of workers, when answers are lost and when another manager takes over:

* A place is held from the choice until the cache is past the version that the assignment was locked on. Then either the cache
  shows the assignment, or it can't happen any more. A write whose answer was lost keeps its place for so long.
* Whoever begins to lead reads the DPUs from the server once before the first choice: its cache may be behind what the manager
  before it wrote last.
* Between a look and the choice made upon it nothing is awaited.

A cluster that is deleted is chosen no more, and stays while a place in it is held: a DPU can't be given to another one later.

A DPU that names its cluster by hand is counted as well, even beyond ``maxNodes``: that is its author's business.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dpf.provisioning import indexes
from dpf.runtime.cluster import Cluster
from dpf.runtime.errors import Waiting
from dpf.runtime.meta import Key
from dpf.runtime.wire import version_of
from dpf_api.dpu import DPU
from dpf_api.dpucluster import DPUCluster, Phase

REASON = "DPUClusterNotReady"
HELD_RETRY = 5.0
"""Seconds after which a DPU that found only held places looks again: one may have been held for nothing."""


@dataclass(frozen=True)
class Held:
    """A place that is held for a DPU until the cache is past a version of it."""

    key: Key
    uid: str
    cluster: str
    version: int
    restored: int
    """How often the server had been restored then: versions of before mean nothing after."""


def first_fitting(clusters: Iterable[DPUCluster], taken: Callable[[DPUCluster], int]) -> DPUCluster:
    """The first Ready cluster with room, by name and then namespace.

    :param taken: how many DPUs a cluster has.
    :raises Waiting: if there is none; the message says of each why not.
    """
    problems = []
    candidates = sorted(clusters, key=lambda each: (each.name, each.namespace))
    scattered = len({each.namespace for each in candidates}) > 1
    for cluster in candidates:
        limit = cluster.spec.max_nodes
        what = str(cluster.key) if scattered else cluster.name
        if cluster.deleting:
            problems.append(f"{what} is being deleted")
        elif cluster.status.phase is not Phase.READY:
            problems.append(f"{what} is {cluster.status.phase.value}")
        elif taken(cluster) >= limit:
            problems.append(f"{what} is full (maxNodes {limit})")
        else:
            return cluster
    why = "; ".join(problems) if problems else "there is none"
    raise Waiting(REASON, f"no DPUCluster is available: {why}; create one, or wait for one to be Ready and have room")


class Allocator:
    """Chooses clusters from the caches."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._clusters = cluster.cache[DPUCluster]
        self._dpus = cluster.cache[DPU]
        self._held: set[Held] = set()
        self._counted = False
        self._counting = asyncio.Lock()
        indexes.add(cluster)

    async def ready(self) -> None:
        """Returns when everything is known that was given away before this process began to give; awaited before
        :meth:`choose`. The first one asks the server.

        :raises ApiError: if it can't be asked.
        """
        async with self._counting:
            if not self._counted:
                for dpu in await self._cluster.client.list(DPU, self._cluster.namespace):
                    if dpu.spec.cluster.name and not dpu.deleting:
                        version = version_of(dpu.metadata.resource_version) - 1
                        self._hold(dpu, indexes.cluster_of(dpu), version)
                self._counted = True

    def choose(self, dpu: DPU) -> DPUCluster:
        """The cluster for a DPU, of the namespace that it names if it does.

        Its place is held: the assignment must be locked on this version of the DPU.

        :raises Waiting: if none has room.
        """
        held = Counter(each.cluster for each in self._standing() if each.uid != dpu.uid)
        clusters = self._clusters.list(dpu.spec.cluster.namespace or None)
        try:
            chosen = first_fitting(clusters, lambda each: self.assigned(each) + held[str(each.key)])
        except Waiting as error:
            raise Waiting(error.reason, error.message, retry_after=HELD_RETRY if held else None) from None
        self._hold(dpu, str(chosen.key), version_of(dpu.metadata.resource_version))
        return chosen

    def _hold(self, dpu: DPU, cluster: str, version: int) -> None:
        self._held.add(Held(dpu.key, dpu.uid, cluster, version, self._dpus.restored))

    def release(self, dpu: DPU) -> None:
        """The server has refused the assignment: it has not happened, and it won't."""
        self._held = {each for each in self._held if each.uid != dpu.uid}

    def assigned(self, cluster: DPUCluster) -> int:
        """How many DPUs were given to the cluster; those that are being deleted have left it."""
        key = str(cluster.key)
        bound = self._dpus.count_by(indexes.CLUSTER, indexes.bound_to(key, cluster.uid))
        return self._dpus.count_by(indexes.CLUSTER, key) + bound

    def users(self, cluster: DPUCluster) -> list[DPU]:
        """The DPUs that were given to the cluster, those that are being deleted too, in order of name."""
        return [
            dpu
            for dpu in self._dpus.by(indexes.IN_CLUSTER, str(cluster.key))
            if indexes.bound_uid(dpu) in ("", cluster.uid)
        ]

    def expects(self, cluster: DPUCluster) -> bool:
        """Whether a DPU may have been given to the cluster that the cache does not show there yet."""
        return any(each.cluster == str(cluster.key) for each in self._standing())

    def _standing(self) -> set[Held]:
        """Places that the cache does not show as taken yet, or as free."""
        self._held = {
            each
            for each in self._held
            if each.restored == self._dpus.restored and not self._dpus.past(each.key, each.uid, each.version)
        }
        return self._held
