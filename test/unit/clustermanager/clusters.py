"""DPUClusters for tests."""

from __future__ import annotations

from typing import Any

from dpf.runtime.meta import Condition
from dpf_api.dpucluster import DPUCluster, Keepalived

VIP = Keepalived(vip="192.0.2.10", virtual_router_id=7, interface="br-ex", node_selector={"zone": "a"})


def cluster(name: str = "c", *, annotations: dict[str, str] | None = None, **spec: Any) -> DPUCluster:
    """A stored cluster of type kamaji."""
    meta = {"name": name, "namespace": "n", "uid": "uid-1", "annotations": annotations or {}, "generation": 3}
    return DPUCluster.model_validate({"metadata": meta, "spec": {"type": "kamaji", "version": "v1.30.2", **spec}})


def with_vip(name: str = "c", **changes: Any) -> DPUCluster:
    """One with a virtual IP."""
    keepalived = VIP.model_copy(update=changes).model_dump(by_alias=True)
    return cluster(name, clusterEndpoint={"keepalived": keepalived})


def saying(obj: DPUCluster, *conditions: Condition) -> DPUCluster:
    """The cluster with conditions."""
    return obj.model_copy(update={"status": obj.status.model_copy(update={"conditions": list(conditions)})})
