"""DPU Cluster Config: the card has joined its cluster, is healthy there and bears its labels."""

from __future__ import annotations

from typing import Any

from dpf.provisioning.dpu import jointoken
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Act, Advance, Changes, Hold, Step, done, waits
from dpf.provisioning.dpu.waiting import wait
from dpf.runtime.conditions import find
from dpf.runtime.meta import Key
from dpf_api.dpu import ConditionType, Phase

READY = ConditionType.READY


def decide(seen: Seen) -> Step:
    if (blocked := unreachable(seen)) is not None:
        return blocked
    name, node = seen.dpu.name, seen.dpu_node
    if node is None or not node.ready:
        return _joining(seen)
    if drift(seen) or _token_left(seen):
        return Act(label, READY)
    return Advance(Phase.READY, (done(READY, f"node {name} has joined and is configured"),), joined(seen))


def _joining(seen: Seen) -> Hold:
    """The wait for the card. It can't have joined while its cluster was away, nor before its host's network was there."""
    ready = find(seen.cluster.status.conditions if seen.cluster is not None else (), "Ready")
    network = find(seen.dpu.status.conditions, ConditionType.HOST_NETWORK_READY.value)
    return wait(
        seen,
        READY,
        "DPUNodeNotReady",
        f"waiting for the card to join cluster {seen.dpu.spec.cluster.name} as node {seen.dpu.name} and be healthy; "
        "if it does not, look at kubeadm-join.service and kubelet on the card's console",
        limit=seen.settings.join_timeout,
        overdue="JoinOverdue",
        then="it is waited for while its join token holds; to flash it anew at once, delete the DPU",
        since=[each.last_transition_time for each in (ready, network) if each is not None],
    )


def unreachable(seen: Seen) -> Hold | None:
    """The wait for the DPU cluster, if it can't be looked into."""
    reference = seen.dpu.spec.cluster
    if seen.cluster is None:
        message = f"DPUCluster {reference.namespace}/{reference.name} does not exist; create it, or delete the DPU"
        return Hold(waits(READY, "DPUClusterNotFound", message))
    if seen.away:
        message = f"cluster {reference.name} can't be reached: {seen.away}; goes on when it answers"
        cluster = f"{reference.namespace}/{reference.name}"
        return Hold(waits(READY, "DPUClusterClientGetError", message), cluster=cluster)
    if seen.replaced:
        message = (
            f"DPUCluster {reference.namespace}/{reference.name} was deleted and made anew; the card belongs to the former one: "
            "delete the DPU to provision the card for the new one"
        )
        return Hold(waits(READY, "DPUClusterReplaced", message))
    return None


def joined(seen: Seen) -> Changes:
    """What the status keeps of a card that is a healthy Node of its cluster; nothing where it says so already."""
    changes: dict[str, Any] = {}
    if seen.dpu_node is not None and seen.dpu_node.uid != seen.dpu.status.node_uid:
        changes["node_uid"] = seen.dpu_node.uid
    if (
        seen.cluster is not None
        and seen.dpu.status.install is not None
        and seen.install.cluster_uid != seen.cluster.uid
    ):
        # The same cluster behind an object that was made anew.
        changes["install"] = seen.install.model_copy(update={"cluster_uid": seen.cluster.uid})
    return changes


def drift(seen: Seen) -> dict[str, str]:
    """Labels that the card's Node should have and does not."""
    have = seen.dpu_node.labels if seen.dpu_node is not None else {}
    return {key: value for key, value in seen.dpu.spec.cluster.node_labels.items() if have.get(key) != value}


def _token_left(seen: Seen) -> bool:
    """Whether the card's join token may still hold: a Node that is left of the card's earlier life bears its labels already."""
    return seen.install.started_at is not None and not seen.install.join_token_deleted


async def label(hands: Hands, seen: Seen) -> Changes | None:
    """Puts the missing labels on the card's Node; none is ever taken away.

    The join token goes first: the card needs it no more, and who had it could join too.
    """
    if seen.dpu_node is None:
        return None
    reference, left = seen.dpu.spec.cluster, _token_left(seen)
    if left:
        await jointoken.take_away(hands, seen.dpu, seen.install.attempt, used=True)
    if labels := drift(seen):
        remote = hands.remotes.get(Key(reference.namespace, reference.name))
        await remote.client.merge_patch(seen.dpu_node, {"metadata": {"labels": labels}})
    return {"install": seen.install.model_copy(update={"join_token_deleted": True})} if left else None
