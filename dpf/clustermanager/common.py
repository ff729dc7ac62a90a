"""What cluster managers share: when they may act on a cluster, and how they say what they found.

Nothing they make needs to be undone by hand, so none puts a finalizer on: what is made is owned by its DPUCluster and goes with
it, by garbage collection. One that a manager of v24.10 put on is taken off, for nobody else would.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from dpf.runtime.client import Client
from dpf.runtime.conditions import find, set_condition
from dpf.runtime.controller import Result
from dpf.runtime.finalizers import remove
from dpf.runtime.meta import Condition
from dpf_api.dpucluster import ConditionType, DPUCluster, Phase
from dpf_api.names import FINALIZER_CLUSTER_MANAGER

CREATED = ConditionType.CREATED.value

MANAGED = frozenset({Phase.CREATING, Phase.READY, Phase.NOT_READY})
"""Phases in which a cluster manager may act."""


async def managed(client: Client, cluster: DPUCluster, kind: str) -> bool:
    """Whether the cluster is one of type ``kind`` that its manager may act on now."""
    if cluster.spec.type != kind:
        return False
    await remove(client, cluster, FINALIZER_CLUSTER_MANAGER)
    return cluster.status.phase in MANAGED


def let_go(cluster: DPUCluster, kind: str) -> Result | None:
    """What a manager answers to a deletion: the finalizer goes, but of another type's clusters it is their manager's."""
    return None if cluster.spec.type == kind else Result()


async def report(
    client: Client, cluster: DPUCluster, findings: Iterable[Condition], *, dropped: Collection[str] = ()
) -> list[Condition]:
    """Writes conditions to the cluster's status.

    :param dropped: types of conditions that are to go.
    :returns: those that are news: another status or reason than before.
    :raises Conflict: if the cluster has changed since it was read.
    """
    conditions = [each for each in cluster.status.conditions if each.type not in dropped]
    news = []
    for finding in findings:
        before = find(conditions, finding.type)
        if before is None or (before.status, before.reason) != (finding.status, finding.reason):
            news.append(finding)
        conditions = set_condition(conditions, finding)
    await client.status(cluster).set(cluster.status.model_copy(update={"conditions": conditions}))
    return news
