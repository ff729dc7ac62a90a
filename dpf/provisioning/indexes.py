"""How DPUs are found by what they refer to, so that a change elsewhere wakes only those it concerns."""

from __future__ import annotations

from dpf.runtime.cluster import Cluster
from dpf.runtime.informer import Index
from dpf_api.dpu import DPU
from dpf_api.names import LABEL_DPU_PCI_ADDRESS

HOST: Index[DPU] = Index("host", lambda dpu: (dpu.spec.node_name,) if dpu.spec.node_name else ())
"""By name of the host's Node."""

BFB_NAME: Index[DPU] = Index("bfb", lambda dpu: (f"{dpu.namespace}/{dpu.spec.bfb}",))
"""By namespace and name of the BFB."""

FLAVOR: Index[DPU] = Index("flavor", lambda dpu: (f"{dpu.namespace}/{dpu.spec.dpu_flavor}",))
"""By namespace and name of the flavor."""

UNASSIGNED = ""
CLUSTER: Index[DPU] = Index("cluster", lambda dpu: () if dpu.deleting else (bound_to(cluster_of(dpu), bound_uid(dpu)),))
"""By the DPU cluster that a DPU is given to, :data:`UNASSIGNED` if none: namespace and name, and once its card was told to join
the uid too, see :func:`bound_to`. One that is being deleted is in none: its place is free."""

IN_CLUSTER: Index[DPU] = Index("in-cluster", lambda dpu: (cluster_of(dpu),) if dpu.spec.cluster.name else ())
"""By DPU cluster, those that are being deleted too."""

NODE: Index[DPU] = Index("node", lambda dpu: (f"{cluster_of(dpu)}/{dpu.name}",))
"""By DPU cluster and name of the card's Node in it."""

CARD: Index[DPU] = Index("card", lambda dpu: (place(dpu),))
"""By host and PCI address, across namespaces."""


def cluster_of(dpu: DPU) -> str:
    """The value of :data:`CLUSTER` for a DPU."""
    reference = dpu.spec.cluster
    return f"{reference.namespace}/{reference.name}" if reference.name else UNASSIGNED


def bound_uid(dpu: DPU) -> str:
    """The uid of the DPUCluster that the card was told to join; empty if it was told nothing yet."""
    return dpu.status.install.cluster_uid if dpu.status.install is not None else ""


def bound_to(cluster: str, uid: str) -> str:
    """The value of :data:`CLUSTER` for DPUs whose cards were told to join the cluster with that uid; a namesake has another."""
    return f"{cluster}@{uid}" if cluster and uid else cluster


def pci_of(dpu: DPU) -> str:
    """The card's PCI address in the form of a label, ``0000-04-00``; empty if the DPU does not say it."""
    return dpu.labels.get(LABEL_DPU_PCI_ADDRESS, "") or dpu.spec.pci_address.replace(":", "-")


def place(dpu: DPU) -> str:
    """The value of :data:`CARD` for a DPU."""
    return card_of(dpu.spec.node_name, pci_of(dpu))


def card_of(node: str, pci: str) -> str:
    """The value of :data:`CARD` for a card."""
    return f"{node}/{pci.replace(':', '-')}"


def add(cluster: Cluster) -> None:
    """Makes the cluster's cache keep these indexes."""
    for index in (HOST, BFB_NAME, FLAVOR, CLUSTER, IN_CLUSTER, NODE, CARD):
        cluster.cache[DPU].add_index(index)
