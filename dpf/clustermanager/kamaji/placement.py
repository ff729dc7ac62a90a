"""What all objects of a cluster share: whose they are, and on which nodes their pods run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dpf.runtime.errors import Waiting
from dpf.runtime.meta import Key, Object, ObjectMeta, owner_reference
from dpf_api.dpucluster import DPUCluster
from dpf_api.names import LABEL_CLUSTER, LABEL_TENANT

_ROLES = ("node-role.kubernetes.io/master", "node-role.kubernetes.io/control-plane")

IN_THE_WAY = frozenset({"EarlierClusterLeaving", "NameTaken"})
"""Why, if an object that must go first has the name of one of the cluster's. What is not labelled as a cluster's is in no cache,
so that it is gone is found by asking again."""

ON_CONTROL_PLANES: dict[str, Any] = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": role, "operator": "Exists"}]} for role in _ROLES]
        }
    }
}
"""Affinity to nodes that bear one of the two labels of a control-plane node."""

TOLERATIONS: list[dict[str, Any]] = [{"key": role, "operator": "Exists", "effect": "NoSchedule"} for role in _ROLES]


def meta(cluster: DPUCluster, name: str, *, annotations: dict[str, str] | None = None) -> ObjectMeta:
    """Metadata of an object of the cluster.

    The cluster is a plain owner, not the controller: Kamaji makes its own object the controller of the Service, and an object
    has one at most.
    """
    fields: dict[str, Any] = {"annotations": annotations} if annotations else {}
    return ObjectMeta(
        name=name,
        namespace=cluster.namespace,
        labels=labels_of(cluster),
        owner_references=[owner_reference(cluster, controller=False, block=False)],
        **fields,
    )


def labels_of(cluster: DPUCluster) -> dict[str, str]:
    """Labels of all objects of the cluster."""
    return {LABEL_CLUSTER: cluster.name, LABEL_TENANT: cluster.name}


def clusters_of(obj: Object) -> Iterable[Key]:
    """The DPUClusters that an object belongs to, by owner and by label: one of them may have been edited away."""
    resource = DPUCluster.RESOURCE
    names = {owner.name for owner in obj.metadata.owner_references if _is_cluster(owner.api_version, owner.kind)}
    if LABEL_CLUSTER in obj.labels:
        names.add(obj.labels[LABEL_CLUSTER])
    return [Key(obj.namespace if resource.namespaced else "", name) for name in sorted(names)]


def claim(cluster: DPUCluster, obj: Object | None, *, leftover: bool = False) -> None:
    """Checks that an object which has the name of one of the cluster's is the cluster's, or may become so.

    :param leftover: whether it looks like one that v24.10 left without an owner.
    :raises Waiting: if it is an earlier cluster's, or has nothing to do with DPU clusters.
    """
    if obj is None:
        return
    what = f"{obj.RESOURCE.kind} {obj.name}"
    owners = {o.uid for o in obj.metadata.owner_references if _is_cluster(o.api_version, o.kind)}
    if (owners and cluster.uid not in owners) or obj.deleting:
        message = f"waiting for {what} to go, which is of an earlier cluster of that name or was deleted"
        raise Waiting("EarlierClusterLeaving", message)
    if not owners and not leftover and obj.labels.get(LABEL_CLUSTER) != cluster.name:
        message = f"{what} exists and is not of this cluster; remove it, or give the DPUCluster another name"
        raise Waiting("NameTaken", message)


def _is_cluster(api_version: str, kind: str) -> bool:
    resource = DPUCluster.RESOURCE
    return kind == resource.kind and api_version.rpartition("/")[0] == resource.group
