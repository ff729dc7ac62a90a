"""Labels, annotations, finalizers and object names that DPF's parts agree on."""

from __future__ import annotations

from typing import Final

GROUP: Final = "provisioning.dpu.nvidia.com"
VERSION: Final = "v1alpha1"

# Labels of a DPU.
LABEL_DPUSET_NAME: Final = f"{GROUP}/dpuset-name"
LABEL_DPUSET_NAMESPACE: Final = f"{GROUP}/dpuset-namespace"
LABEL_DPU_PCI_ADDRESS: Final = f"{GROUP}/dpu-pciAddress"  # 0000-04-00: domain, bus, device; no function
LABEL_DPU_PF_NAME: Final = f"{GROUP}/dpu-pf-name"
LABEL_DPU_HOST_IP: Final = f"{GROUP}/dpu-host-ip"

# Labels of a Node in the DPU cluster.
LABEL_DOCA_BFB_VERSION: Final = f"{GROUP}/DOCA-BFB-version"
LABEL_HOST: Final = f"{GROUP}/host"

# Labels of a Node in the host cluster, as node feature discovery writes them.
FEATURE_PREFIX: Final = "feature.node.kubernetes.io/"
LABEL_DPU_ENABLED: Final = f"{FEATURE_PREFIX}dpu-enabled"  # "true"
LABEL_OOB_BRIDGE_CONFIGURED: Final = f"{FEATURE_PREFIX}dpu-oob-bridge-configured"  # present or not; the value is empty

# Labels around a kamaji control plane.
LABEL_CLUSTER: Final = "dpu.nvidia.com/cluster"
LABEL_TENANT: Final = "tenant.clastix.io"

# Annotations.
ANNOTATION_HOST_POWER_CYCLE_REQUIRED: Final = f"{GROUP}/host-power-cycle-required"  # of a DPU: a boolean
ANNOTATION_POWERCYCLE_COMMAND: Final = f"{GROUP}/powercycle-command"  # of a host Node: cycle (default), reset, skip
ANNOTATION_REBOOT_COMMAND: Final = f"{GROUP}/reboot-command"  # of a host Node: reset (default), cycle, skip
ANNOTATION_RETRY: Final = f"{GROUP}/retry"  # of a BFB or DPU in Error: try again now; any value
ANNOTATION_CHECKSUM: Final = f"{GROUP}/checksum"  # of a BFB: what its image must hash to, as spec.checksum
ANNOTATION_NODE_PORT: Final = (
    f"{GROUP}/node-port"  # of a kamaji DPUCluster: which port its API server gets on the nodes
)

LEFT_NODE: Final = f"left-node.{GROUP}"
"""Prefix of a DPUCluster's annotations that name Nodes which could not be removed there: ``left-node.../NODE``."""

# Finalizers.
FINALIZER_BFB: Final = f"{GROUP}/bfb-protection"
FINALIZER_DPU: Final = f"{GROUP}/dpu-protection"
FINALIZER_DPUSET: Final = f"{GROUP}/dpuset-protection"
FINALIZER_DPUCLUSTER: Final = f"{GROUP}/cluster-manager-internal-clean-up"
FINALIZER_CLUSTER_MANAGER: Final = f"{GROUP}/cluster-manager-clean-up"

# Objects with one fixed name.
CLIENT_SECRET: Final = "dpf-provisioning-client-secret"  # noqa: S105 - the name of a Secret
CA_ISSUER: Final = "dpf-provisioning-issuer"
CA_SECRET: Final = "dpf-provisioning-ca-secret"  # noqa: S105 - the name of a Secret

KUBECONFIG_KEY: Final = "admin.conf"
"""Key of a kubeconfig in its Secret."""

DMS_PORT: Final = 9339
"""Port of the first card's DMS on a host, IANA's for gNMI and gNOI; the card's index is added."""

REQUESTOR: Final = GROUP
"""Who we are among the requestors of a NodeMaintenance."""
MAINTENANCE_OWNER: Final = "dpu.nvidia.com"
"""The requestor that a NodeMaintenance made by us names as its owner."""

_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})
BOOLEANS: Final = sorted(_TRUE | _FALSE)
"""The spellings of a boolean that an annotation may have."""


def parse_bool(text: str) -> bool:
    """The boolean that an annotation spells.

    :raises ValueError: if it is none of :data:`BOOLEANS`.
    """
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"{text!r} is not a boolean; write one of {', '.join(BOOLEANS)}")


def label_card(index: int, what: str) -> str:
    """Label of a host Node that tells something of its card ``index``: ``pci-address``, such as ``0000-04-00``, ``pf0-name`` or
    ``ps-id``."""
    return f"{FEATURE_PREFIX}dpu-{index}-{what}"


def host_ip(address: str) -> str:
    """The value of :data:`LABEL_DPU_HOST_IP` for a host's address; empty for one of IPv6, as no label can have colons."""
    return "" if ":" in address else address


def dms_pod(dpu: str) -> str:
    """Pod that serves DMS for a DPU."""
    return f"{dpu}-dms"


def hostnetwork_pod(dpu: str) -> str:
    """Pod that sets up the host's network for a DPU."""
    return f"{dpu}-hostnetwork"


def dms_certificate(dpu: str) -> str:
    """Certificate that a DPU's DMS serves with."""
    return f"{dpu}-dms-server-cert"


def dms_secret(dpu: str) -> str:
    """Secret with the key pair that a DPU's DMS serves with."""
    return f"{dpu}-server-secret"


def keepalived(cluster: str) -> str:
    """DaemonSet, and its ConfigMap, that hold a cluster's virtual IP."""
    return f"{cluster}-keepalived"


def bfb_file(namespace: str, name: str) -> str:
    """File name that a BFB gets when it names none."""
    return f"{namespace}-{name}.bfb"


def bfcfg_file(dpu: str) -> str:
    """File name of a DPU's bf.cfg on the shared volume."""
    return f"{dpu}.cfg"
