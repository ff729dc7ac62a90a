"""The static cluster manager: for DPU clusters that somebody else made and whose kubeconfig a user hands over.

There is nothing to make: once the user has named the Secret with the kubeconfig the cluster counts as Created. Whether that
Secret is there, can be read and leads to an API server that answers is the provisioning manager's to say, in condition Ready
and in no other place: it holds the connection. Neither version nor endpoint of the spec are checked; what runs there is its
owner's business, and the version that does run is shown in the status.
"""

from __future__ import annotations

from dpf.clustermanager.common import CREATED, let_go, managed, report
from dpf.runtime.cluster import Cluster
from dpf.runtime.conditions import new
from dpf.runtime.controller import Controller, Finalizing, For, Result
from dpf.runtime.log import get_logger
from dpf.runtime.meta import Condition
from dpf_api.dpucluster import TYPE_STATIC, DPUCluster
from dpf_api.names import FINALIZER_CLUSTER_MANAGER

log = get_logger(__name__)


def created(cluster: DPUCluster) -> Condition:
    """What there is to say of a cluster that a user brought."""
    generation = cluster.metadata.generation
    if cluster.spec.kubeconfig:
        return new(CREATED, True, "Created", generation=generation)
    message = "set spec.kubeconfig to the name of a Secret with the cluster's kubeconfig under the key admin.conf"
    return new(CREATED, False, "EmptyKubeconfig", message, generation=generation)


class StaticClusterReconciler(Finalizing[DPUCluster]):
    """Says of static clusters that they are there, and leaves all others alone."""

    finalizer = FINALIZER_CLUSTER_MANAGER
    puts_finalizer_on = False

    def __init__(self, cluster: Cluster) -> None:
        self._client = cluster.client

    async def reconcile(self, cluster: DPUCluster) -> Result | None:
        if await managed(self._client, cluster, TYPE_STATIC):
            for news in await report(self._client, cluster, [created(cluster)]):
                log.info("cluster_found", reason=news.reason, message=news.message)
        return None

    async def finalize(self, cluster: DPUCluster) -> Result | None:
        return let_go(cluster, TYPE_STATIC)


def static_cluster_controller(cluster: Cluster) -> Controller[DPUCluster]:
    """The controller of static clusters."""
    return Controller("static-cluster", StaticClusterReconciler(cluster), watches=[For(DPUCluster)])
