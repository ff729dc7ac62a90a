"""Objects as a cluster would send them, for tests of ``dpfctl``."""

from __future__ import annotations

from typing import Any

from dpf.runtime.k8s import Node, Pod
from dpf_api.dpu import DPU
from dpf_api.dpuset import DPUSet
from dpf_api.names import FEATURE_PREFIX

NAMESPACE = "ns"
PCI = "0000-04-00"
SINCE = "2026-01-01T00:00:00Z"


def condition(kind: str, status: bool, reason: str = "Because", message: str = "") -> dict[str, Any]:
    """A condition."""
    return {"type": kind, "status": str(status), "reason": reason, "message": message, "lastTransitionTime": SINCE}


def dpuset(
    name: str = "set", *, bfb: str = "old", uid: str = "set-uid", labels: dict[str, str] | None = None, **spec: Any
) -> DPUSet:
    """A DPUSet of all first cards, rolled out one at a time unless ``strategy`` says otherwise."""
    template: dict[str, Any] = {"bfb": {"name": bfb}, "dpuFlavor": "flavor"}
    template |= {"cluster": {"nodeLabels": labels}} if labels else {}
    base = {"strategy": {"type": "RollingUpdate"}, "dpuTemplate": {"spec": template}}
    return DPUSet.model_validate({"metadata": {"name": name, "namespace": NAMESPACE, "uid": uid}, "spec": base | spec})


def node(name: str, **labels: str) -> Node:
    """A host with one card."""
    found = {f"{FEATURE_PREFIX}dpu-0-pci-address": PCI} | labels
    return Node.model_validate({"metadata": {"name": name, "labels": found}})


def dpu(
    host: str,
    *,
    ready: bool = True,
    bfb: str = "old",
    owner: str = "set-uid",
    labels: dict[str, str] | None = None,
    status: dict[str, Any] | None = None,
    **meta: Any,
) -> DPU:
    """The DPU of a host's card, made by a set."""
    name = f"{host}-{PCI}"
    reference = {"apiVersion": "v1", "kind": "DPUSet", "name": "set", "uid": owner, "controller": True}
    metadata = {
        "name": name,
        "namespace": NAMESPACE,
        "uid": f"uid-{name}",
        "ownerReferences": [reference] if owner else [],
    }
    spec = {
        "nodeName": host,
        "bfb": bfb,
        "dpuFlavor": "flavor",
        "pciAddress": PCI,
        "cluster": {"nodeLabels": labels or {}},
    }
    stands = {"phase": "Ready" if ready else "Pending", "conditions": [condition("Ready", ready)]}
    return DPU.model_validate(
        {"metadata": metadata | meta, "spec": spec, "status": stands if status is None else status}
    )


def pod(owner: DPU, name: str, **status: Any) -> Pod:
    """A pod of a DPU."""
    reference = {"apiVersion": "v1", "kind": "DPU", "name": owner.name, "uid": owner.uid, "controller": True}
    metadata = {"name": name, "namespace": NAMESPACE, "ownerReferences": [reference]}
    return Pod.model_validate({"metadata": metadata, "status": {"phase": "Running"} | status})
