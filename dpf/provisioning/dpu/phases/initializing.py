"""Initializing: the host is there and prepared, and the DPU gets the cluster that its card will join."""

from __future__ import annotations

import re
from typing import Any

from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Act, Advance, Changes, Hold, Step, done, waits
from dpf_api.bfb import BFB
from dpf_api.dpu import DPU, ConditionType, Phase
from dpf_api.names import LABEL_DOCA_BFB_VERSION, LABEL_HOST, LABEL_OOB_BRIDGE_CONFIGURED

INITIALIZED = ConditionType.INITIALIZED


def decide(seen: Seen) -> Step:
    name = seen.dpu.spec.node_name
    if seen.node is None:
        message = f"no node {name!r} in the host cluster; waiting for it to register"
        return Hold(waits(INITIALIZED, "NodeNotFound", message))
    if LABEL_OOB_BRIDGE_CONFIGURED not in seen.node.labels:
        message = (
            f"node {name} has no label {LABEL_OOB_BRIDGE_CONFIGURED}: set up bridge br-dpu on the host; "
            "the detector labels the node then"
        )
        return Hold(waits(INITIALIZED, "DPUOOBBridgeNotConfigured", message))
    if not seen.dpu.spec.cluster.name:
        return Act(assign, INITIALIZED, "DPUClusterNotReady")
    return Advance(Phase.NODE_EFFECT, (done(INITIALIZED),))


async def assign(hands: Hands, seen: Seen) -> Changes | None:
    """Gives the DPU its cluster and, as far as they are known, the labels of its Node there: one write."""
    dpu = seen.dpu
    cluster = hands.allocator.choose(dpu)
    try:
        patch: dict[str, Any] = {"name": cluster.name, "namespace": cluster.namespace}
        if labels := missing_node_labels(dpu, seen.bfb):
            patch["nodeLabels"] = labels
        await hands.client.merge_patch(dpu, {"spec": {"cluster": patch}})
        hands.events.normal(dpu, "ClusterAssigned", f"the card joins cluster {cluster.key}", related=cluster)
    finally:
        hands.allocator.settle(dpu)
    return None


def missing_node_labels(dpu: DPU, bfb: BFB | None) -> dict[str, str]:
    """What the DPU's spec does not say yet of its Node's labels: the host, and the version of the image if it is known."""
    wanted = {LABEL_HOST: dpu.spec.node_name}
    if bfb is not None:
        wanted[LABEL_DOCA_BFB_VERSION] = bfb_version(bfb.spec.url)
    return {key: value for key, value in wanted.items() if dpu.spec.cluster.node_labels.get(key) != value}


def bfb_version(url: str) -> str:
    """The version that an image's URL tells, as a label value: its file name without the extension, made to fit."""
    stem = url.rpartition("/")[2].rpartition(".")[0]
    return re.sub(r"[^A-Za-z0-9._-]", "-", stem)[:63].strip("._-")
