"""What the two pods of a DPU share: where they run and what they tolerate."""

from __future__ import annotations

from typing import Any

from dpf.provisioning import indexes
from dpf.provisioning.settings import Settings
from dpf.runtime.errors import Waiting
from dpf.runtime.k8s import Container, Node, Pod, PodSpec
from dpf.runtime.meta import ObjectMeta, owner_reference
from dpf_api.dpu import DPU
from dpf_api.names import LABEL_DPU_PCI_ADDRESS

PRIVILEGED: dict[str, Any] = {"privileged": True, "runAsUser": 0, "runAsGroup": 0}
"""Root, whatever user the image names: sysfs and ``/dev`` are root's, and a privileged process of another user may not write."""
DEV = {"name": "dev", "hostPath": {"path": "/dev", "type": "Directory"}}
DEV_MOUNT = {"name": "dev", "mountPath": "/dev"}

_TOLERATIONS: list[dict[str, Any]] = [
    {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
    {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoSchedule"},
    {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"},
    {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"},
]

NO_HOST = "the DPU names no host, and spec.nodeName can't be set later; delete it and make one that has it"
NO_ADDRESS = f"the DPU has no label {LABEL_DPU_PCI_ADDRESS}; label it with the card's address, like 0000-04-00"


def on_host(
    dpu: DPU,
    name: str,
    settings: Settings,
    *,
    containers: list[Container],
    init_containers: list[Container] | None = None,
    volumes: list[dict[str, Any]],
) -> Pod:
    """A pod of the DPU on its host, in the host's network, tied to the node by affinity so that the scheduler knows of it.

    :raises Waiting: if the DPU names no host.
    """
    if not dpu.spec.node_name:
        raise Waiting("NodeNameMissing", NO_HOST)
    spec: dict[str, Any] = {
        "host_network": True,
        "affinity": _pinned(dpu.spec.node_name),
        "tolerations": _tolerations(dpu),
        "volumes": volumes,
        "containers": containers,
        "automount_service_account_token": False,
    }
    if init_containers:
        spec["init_containers"] = init_containers
    if settings.image_pull_secrets:
        spec["image_pull_secrets"] = [{"name": secret} for secret in settings.image_pull_secrets]
    meta = ObjectMeta(name=name, namespace=dpu.namespace, owner_references=[owner_reference(dpu)])
    return Pod(metadata=meta, spec=PodSpec(**spec))


def pci_label(dpu: DPU) -> str:
    """The card's PCI address as a label has it, such as ``0000-04-00``.

    :raises Waiting: if the DPU does not say it.
    """
    if not (label := indexes.pci_of(dpu)):
        raise Waiting("PCIAddressMissing", NO_ADDRESS)
    return label


def host_address(node: Node) -> str:
    """Where pods in the host's network are reached; empty if the Node reports no address. A pod's own ``podIP`` stays what it was
    when the host's address changes."""
    return node.internal_ip or next((a.address for a in node.status.addresses), "")


def _pinned(node: str) -> dict[str, Any]:
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}


def _tolerations(dpu: DPU) -> list[dict[str, Any]]:
    taint = dpu.spec.node_effect.taint
    if taint is None:
        return _TOLERATIONS
    own = {"key": taint.key, "operator": "Equal", "value": taint.value, "effect": taint.effect}
    return [*_TOLERATIONS, own]
