"""The static cluster manager: for DPU clusters that somebody else made and whose kubeconfig a user hands over.

There is nothing to make, so there is nothing to undo: once the user has named the Secret with the kubeconfig the cluster counts
as Created. Whether that Secret is there, can be read and leads to an API server that answers is the provisioning manager's to
say, in condition Ready and in no other place: it holds the connection. Neither version nor endpoint of the spec are checked;
what runs there is its owner's business, and the version that does run is shown in the status.

An earlier manager of this kind puts a finalizer on its clusters. None is needed here, and one that is there is taken off.
"""

from __future__ import annotations

from dpf.runtime.cluster import Cluster
from dpf.runtime.conditions import find, new, set_condition
from dpf.runtime.controller import Controller, For, Result
from dpf.runtime.finalizers import remove
from dpf.runtime.log import get_logger
from dpf.runtime.meta import Condition
from dpf_api.dpucluster import TYPE_STATIC, ConditionType, DPUCluster, Phase
from dpf_api.names import FINALIZER_CLUSTER_MANAGER

log = get_logger(__name__)

CREATED = ConditionType.CREATED.value

MANAGED = frozenset({Phase.CREATING, Phase.READY, Phase.NOT_READY})
"""Phases in which a cluster manager may act."""


def created(cluster: DPUCluster) -> Condition:
    """What there is to say of a cluster that a user brought."""
    generation = cluster.metadata.generation
    if cluster.spec.kubeconfig:
        return new(CREATED, True, "Created", generation=generation)
    message = "set spec.kubeconfig to the name of a Secret with the cluster's kubeconfig under the key admin.conf"
    return new(CREATED, False, "EmptyKubeconfig", message, generation=generation)


class StaticClusterReconciler:
    """Says of static clusters that they are there, and leaves all others alone."""

    finalizer = FINALIZER_CLUSTER_MANAGER
    puts_finalizer_on = False

    def __init__(self, cluster: Cluster) -> None:
        self._client = cluster.client

    async def reconcile(self, cluster: DPUCluster) -> Result | None:
        if cluster.spec.type != TYPE_STATIC:
            return None
        await remove(self._client, cluster, FINALIZER_CLUSTER_MANAGER)
        if cluster.status.phase in MANAGED:
            await self._say(cluster, created(cluster))
        return None

    async def finalize(self, cluster: DPUCluster) -> Result | None:
        # Of another type's clusters the finalizer is its manager's.
        return None if cluster.spec.type == TYPE_STATIC else Result()

    async def _say(self, cluster: DPUCluster, finding: Condition) -> None:
        before = find(cluster.status.conditions, CREATED)
        if before is None or before.reason != finding.reason:
            log.info("cluster_found", reason=finding.reason, message=finding.message)
        conditions = set_condition(cluster.status.conditions, finding)
        await self._client.status(cluster).set(cluster.status.model_copy(update={"conditions": conditions}))


def static_cluster_controller(cluster: Cluster) -> Controller[DPUCluster]:
    """The controller of static clusters."""
    return Controller("static-cluster", StaticClusterReconciler(cluster), watches=[For(DPUCluster)])
