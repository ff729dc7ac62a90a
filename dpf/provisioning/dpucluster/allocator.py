"""Which DPU cluster a DPU is given to: the first Ready one with room, in order of name.

How many DPUs a cluster has is counted from the DPUs themselves, so a restart forgets nothing; those whose assignment is just
being written are counted as well, so ``maxNodes`` holds with any number of workers. Between a look and the choice made
upon it nothing is awaited.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from dpf.provisioning.dpu import indexes
from dpf.runtime.cluster import Cluster
from dpf.runtime.errors import Waiting
from dpf_api.dpu import DPU
from dpf_api.dpucluster import DPUCluster, Phase

REASON = "DPUClusterNotReady"


def first_fitting(clusters: Iterable[DPUCluster], taken: Callable[[DPUCluster], int]) -> DPUCluster:
    """The first Ready cluster with room, by name and then namespace.

    :param taken: how many DPUs a cluster has.
    :raises Waiting: if there is none; the message says of each why not.
    """
    problems = []
    for cluster in sorted(clusters, key=lambda each: (each.name, each.namespace)):
        limit = cluster.spec.max_nodes
        if cluster.deleting:
            problems.append(f"{cluster.name} is being deleted")
        elif cluster.status.phase is not Phase.READY:
            problems.append(f"{cluster.name} is {cluster.status.phase.value}")
        elif taken(cluster) >= limit:
            problems.append(f"{cluster.name} is full (maxNodes {limit})")
        else:
            return cluster
    what = "; ".join(problems) if problems else "there is none"
    raise Waiting(REASON, f"no DPUCluster is available: {what}; create one, or wait for one to be Ready and have room")


class Allocator:
    """Chooses clusters from the caches."""

    def __init__(self, cluster: Cluster) -> None:
        self._clusters = cluster.cache[DPUCluster]
        self._dpus = cluster.cache[DPU]
        self._assumed: dict[str, str] = {}
        """Cluster by uid of the DPU whose assignment is being written."""
        indexes.add(cluster)

    def choose(self, dpu: DPU) -> DPUCluster:
        """The cluster for a DPU, of the namespace that it names if it does; its place is held until :meth:`settle`.

        :raises Waiting: if none has room.
        """
        assumed = Counter(self._assumed.values())
        clusters = self._clusters.list(dpu.spec.cluster.namespace or None)
        chosen = first_fitting(clusters, lambda each: self.assigned(each) + assumed[str(each.key)])
        self._assumed[dpu.uid] = str(chosen.key)
        return chosen

    def settle(self, dpu: DPU) -> None:
        """The DPU's assignment was written, and is in the cache; or it was not."""
        self._assumed.pop(dpu.uid, None)

    def assigned(self, cluster: DPUCluster) -> int:
        """How many DPUs were given to the cluster; those that are being deleted have left it."""
        return self._dpus.count_by(indexes.CLUSTER, str(cluster.key))
