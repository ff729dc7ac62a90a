"""What a DPU may see around it, for tests of its phases."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.volume import Volume, VolumeFile
from dpf.runtime.conditions import new
from dpf.runtime.k8s import Container, Node, Pod, PodSpec
from dpf.runtime.meta import Condition, now
from dpf_api.bfb import BFB
from dpf_api.dpu import DPU, ConditionType
from dpf_api.dpucluster import DPUCluster
from dpf_api.names import LABEL_DPU_PCI_ADDRESS, LABEL_OOB_BRIDGE_CONFIGURED

NOW = now().replace(microsecond=0)
BOOT = "boot-1"
IMAGE = VolumeFile(Volume(Path("/bfb")), Path("/bfb/image.bfb"))
"""Of an order; nobody reads it."""


def dpu(
    name: str = "d1",
    *,
    status: dict[str, Any] | None = None,
    namespace: str = "ns",
    made: datetime = NOW,
    uid: str = "",
    **spec: Any,
) -> DPU:
    """A DPU as the server would send it; the node effect is none unless given."""
    base = {"nodeName": "worker1", "bfb": "image", "nodeEffect": {"noEffect": True}, "pciAddress": "0000-04-00"}
    return DPU.model_validate(
        {
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": uid or f"uid-{name}",
                "creationTimestamp": made.isoformat(),
                "generation": 1,
                "labels": {LABEL_DPU_PCI_ADDRESS: "0000-04-00"},
            },
            "spec": base | spec,
            "status": {"phase": "Initializing"} | (status or {}),
        }
    )


def assigned(name: str = "d1", *, status: dict[str, Any] | None = None, **spec: Any) -> DPU:
    """A DPU that has its cluster."""
    return dpu(name, status=status, cluster={"name": "c", "namespace": "ns", "nodeLabels": {"a": "1"}}, **spec)


def host(boot: str = BOOT, *, annotations: dict[str, str] | None = None, **labels: str) -> Node:
    """The host's Node, prepared."""
    return Node.model_validate(
        {
            "metadata": {
                "name": "worker1",
                "labels": {LABEL_OOB_BRIDGE_CONFIGURED: "", **labels},
                "annotations": annotations or {},
            },
            "status": {
                "nodeInfo": {"bootID": boot},
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            },
        }
    )


def image(phase: str = "Ready", message: str = "", *, checksum: str = "", going: bool = False) -> BFB:
    """A BFB."""
    status = {"phase": phase, "message": message, "checksum": checksum}
    spec = {"url": "http://x/bf-bundle-2.9.1_prod.bfb", "fileName": "image.bfb"}
    meta = {"name": "image", "namespace": "ns"} | ({"deletionTimestamp": "2026-01-01T00:00:00Z"} if going else {})
    return BFB.model_validate({"metadata": meta, "spec": spec, "status": status})


def pod(name: str, *, ready: bool = True, phase: str = "Running", **status: Any) -> Pod:
    """A pod of the DPU."""
    conditions = [{"type": "Ready", "status": str(ready)}]
    body = {"phase": phase, "podIP": "10.0.0.1", "conditions": conditions, **status}
    spec = {"containers": [{"name": "dms", "ports": [{"containerPort": 9339}]}]}
    return Pod.model_validate({"metadata": {"name": name, "namespace": "ns"}, "spec": spec, "status": body})


def network(name: str = "d1", *, mtu: int = 1500, ready: bool = True, deleting: bool = False) -> Pod:
    """The host network pod of a DPU, made with an MTU."""
    made = pod(f"{name}-hostnetwork", ready=ready)
    container = Container(name="hostnetwork", env=[{"name": "vf_mtu", "value": str(mtu)}])
    meta = made.metadata.model_copy(update={"deletion_timestamp": NOW if deleting else None})
    return made.model_copy(update={"metadata": meta, "spec": PodSpec(containers=[container])})


def card_node(*, ready: bool = True, uid: str = "", **labels: str) -> Node:
    """The card's Node in its cluster."""
    status = {"conditions": [{"type": "Ready", "status": str(ready)}]}
    return Node.model_validate({"metadata": {"name": "d1", "uid": uid, "labels": labels}, "status": status})


def cluster(
    phase: str = "Ready",
    name: str = "c",
    max_nodes: int = 1000,
    namespace: str = "ns",
    *,
    uid: str = "",
    going: bool = False,
) -> DPUCluster:
    """A DPU cluster."""
    meta = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if going else {}
    return DPUCluster.model_validate(
        {
            "metadata": {"name": name, "namespace": namespace, "uid": uid or f"uid-{name}", **meta},
            "spec": {"type": "static", "version": "v1", "maxNodes": max_nodes},
            "status": {"phase": phase},
        }
    )


def condition(kind: ConditionType, status: bool, *, ago: float = 0.0) -> dict[str, Any]:
    """A condition that has been so for some seconds."""
    made: Condition = new(kind.value, status, "Because").model_copy(
        update={"last_transition_time": NOW - timedelta(seconds=ago)}
    )
    return made.model_dump(mode="json", by_alias=True)


def see(subject: DPU, **around: Any) -> Seen:
    """The DPU in a world where everything it needs is there, but for what is given."""
    world: dict[str, Any] = {"node": host(), "bfb": image(), "cluster": cluster(), "now": NOW}
    return Seen(dpu=subject, **(world | around))
