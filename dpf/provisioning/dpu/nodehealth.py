"""What is amiss with a card's Node although it is Ready. It is said of the DPU and takes no service away."""

from __future__ import annotations

import re
from typing import NamedTuple

from dpf.runtime.k8s import Node, NodeCondition

PROBLEMS = ("DiskPressure", "MemoryPressure", "PIDPressure", "NetworkUnavailable")
"""Conditions of a Node that are True when something is amiss."""

OLDEST = 3
"""Minor versions by which a kubelet may be older than its API server, by Kubernetes' version skew policy. It may never be newer."""

_VERSION = re.compile(r"v?(\d+)\.(\d+)")


class Problem(NamedTuple):
    """What is amiss: a word for the condition, and a sentence."""

    reason: str
    message: str


def problems(node: Node, server: str) -> list[Problem]:
    """All that is amiss.

    :param server: version of the cluster's API server; empty if it is not known.
    """
    found = [Problem("DPUNodeUnhealthy", _sentence(node, each)) for each in troubled(node)]
    if skew := kubelet_skew(node.status.node_info.kubelet_version, server):
        found.append(Problem("KubeletVersionSkew", skew))
    return found


def troubled(node: Node) -> list[NodeCondition]:
    """The Node's conditions that say something is amiss."""
    return [each for each in node.status.conditions if each.type in PROBLEMS and each.status == "True"]


def stands(node: Node) -> object:
    """What of a Node is worth a look at its DPU: no heartbeat changes it."""
    amiss = tuple(each.type for each in troubled(node))
    return node.ready, node.labels, amiss, node.status.node_info.kubelet_version


def kubelet_skew(kubelet: str, server: str) -> str:
    """What is wrong with a kubelet's version at an API server of that version; empty if nothing is, or one can't be read."""
    have, wanted = _VERSION.match(kubelet), _VERSION.match(server)
    if have is None or wanted is None:
        return ""
    ours, theirs = (int(have[1]), int(have[2])), (int(wanted[1]), int(wanted[2]))
    if ours > theirs:
        return f"kubelet {kubelet} is newer than the cluster's API server {server}; upgrade the cluster"
    if ours[0] != theirs[0] or theirs[1] - ours[1] > OLDEST:
        return (
            f"kubelet {kubelet} is more than {OLDEST} minor versions older than the cluster's API server {server}; "
            "provision the card with a newer BFB"
        )
    return ""


def _sentence(node: Node, condition: NodeCondition) -> str:
    return f"node {node.name} reports {condition.type}: {condition.message or condition.reason or 'no reason given'}"
