"""Bodies of Nodes and Leases, of host nodes as of cards'."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

LEASE_NAMESPACE = "kube-node-lease"
KUBELET_VERSION = "v1.37.2"


def lease_path(name: str = "") -> str:
    """The path of a node's Lease, or of the collection."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{LEASE_NAMESPACE}/leases"
    return f"{path}/{name}" if name else path


def timestamp() -> str:
    """The current time as metav1.Time is written."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def node_ready(*, ready: bool) -> dict[str, str]:
    """A node's Ready condition; not ready is ``Unknown``, as a host that is switched off looks."""
    at = timestamp()
    return {
        "type": "Ready",
        "status": "True" if ready else "Unknown",
        "reason": "KubeletReady" if ready else "NodeStatusUnknown",
        "message": "kubelet is posting ready status" if ready else "Kubelet stopped posting node status.",
        "lastHeartbeatTime": at,
        "lastTransitionTime": at,
    }


def node(
    name: str,
    address: str,
    *,
    boot_id: str,
    image: str = "Debian GNU/Linux 12 (simulated)",
    architecture: str = "amd64",
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A Node with its status, as a kubelet registers it."""
    resources = {"cpu": "16", "memory": "32Gi", "pods": "110", "ephemeral-storage": "40Gi"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": architecture,
                **(labels or {}),
            },
        },
        "status": {
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
            "capacity": resources,
            "allocatable": resources,
            "conditions": [node_ready(ready=True)],
            "nodeInfo": {
                "bootID": boot_id,
                "machineID": name,
                "systemUUID": name,
                "kernelVersion": "6.1.0-simulated",
                "osImage": image,
                "containerRuntimeVersion": "simulated://1.0",
                "kubeletVersion": KUBELET_VERSION,
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": architecture,
            },
        },
    }


def lease(name: str, uid: str, duration: int) -> dict[str, Any]:
    """A node's Lease, owned by its Node so that both go together.

    :param duration: seconds.
    """
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "namespace": LEASE_NAMESPACE,
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}],
        },
        "spec": {
            "holderIdentity": name,
            "leaseDurationSeconds": duration,
            "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        },
    }
