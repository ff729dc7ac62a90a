"""Ready: the card is a healthy node of its cluster, and its host is tied to it. Watched, not polled: what changes is answered,
nothing else happens.

What takes Ready away is what takes the service away: the card's Node, or the host's network, through which the host's traffic
reaches the card. A DMS that does not run is said in its own condition: it is needed for the next flash, not for service. So is
what else the card's Node reports of itself.

The host is given back here: whatever effect it bore for this DPU is undone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dpf.provisioning.dpu import dmsserver, effects, needs, nodehealth, podhealth
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.phases import dpu_cluster_config, host_network
from dpf.provisioning.dpu.steps import Act, Advance, Changes, Hold, Step, done, waits
from dpf.runtime.conditions import find, is_true
from dpf.runtime.k8s import Pod
from dpf.runtime.meta import Condition
from dpf_api.dpu import ConditionType, Phase
from dpf_api.names import ANNOTATION_RETRY

READY = ConditionType.READY
RESTART = 15.0
"""Seconds that a DMS pod that ran has to be ready again before it is said that it is not: each reboot of its host stops it, and it
often comes back after its card."""
DMS, NETWORK, NODE = ConditionType.DMS_RUNNING, ConditionType.HOST_NETWORK_READY, ConditionType.DPU_NODE_HEALTHY


def decide(seen: Seen) -> Step:
    if effects.to_undo(seen):
        return Act(effects.undo, READY, "NodeEffectError")
    if ANNOTATION_RETRY in seen.dpu.annotations:
        return Act(nothing_to_retry, READY, "RetryFailed")
    state = _state(seen)
    return _mended(seen, state) or state if isinstance(state, Hold) else state


async def nothing_to_retry(hands: Hands, seen: Seen) -> Changes | None:
    """Takes a request away that nothing came of: kept, it would have the card flashed anew whenever something fails one day."""
    await hands.client.merge_patch(seen.dpu, {"metadata": {"annotations": {ANNOTATION_RETRY: None}}})
    return None


def _state(seen: Seen) -> Hold | Advance:
    """How the DPU is."""
    also, after = _also(seen)
    if (blocked := dpu_cluster_config.unreachable(seen)) is not None:
        return Hold(blocked.condition, also, after, cluster=blocked.cluster)
    name, node = seen.dpu.name, seen.dpu_node
    if node is None:
        message = (
            f"cluster {seen.dpu.spec.cluster.name} has no node {name} any more; if that is the right cluster (see the "
            "kubeconfig of its DPUCluster), delete the DPU to provision the card anew"
        )
        return Hold(waits(READY, "DPUNodeGetError", message), also, after)
    if not node.ready:
        message = f"node {name} is not ready in cluster {seen.dpu.spec.cluster.name}; look at its kubelet"
        return Hold(waits(READY, "DPUNodeNotReady", message), also, after)
    if dpu_cluster_config.drift(seen):
        return Advance(Phase.DPU_CLUSTER_CONFIG)
    return Hold(_cut_off(seen) or _healthy(seen), also, after, changes=dpu_cluster_config.joined(seen))


def _mended(seen: Seen, state: Hold) -> Act | None:
    """A pod that is missing is made, one that has ended is replaced, as far as the host is there. Whatever comes of that, the
    state of the DPU is told."""
    said = (*state.also, state.condition)
    if seen.node is None:
        return None
    # One at a time; first the one that service hangs on, in case that the other can't be made.
    for pod, missing, kind in (
        (seen.hostnetwork_pod, Act(host_network.create, READY, "HostNetworkPodMissing", said), NETWORK),
        (seen.dms_pod, Act(dmsserver.create, DMS, "DMSPodMissing", said), DMS),
    ):
        if pod is None:
            return missing
        if podhealth.ended(pod) and not pod.deleting and isinstance(step := podhealth.anew(seen, pod, kind), Act):
            return replace(step, also=said)
    return None


def _cut_off(seen: Seen) -> Condition | None:
    """What keeps the host's traffic from the card; None if nothing does."""
    if seen.node is None:
        return waits(READY, "NodeNotFound", needs.host_gone(seen.dpu))
    pod = seen.hostnetwork_pod
    if _works(pod):
        return None
    if seen.host_down:
        return waits(READY, "HostNotReady", f"node {seen.node.name} is not ready; goes on when it is back")
    return waits(READY, "HostNetworkNotReady", _network(pod))


def _also(seen: Seen) -> tuple[tuple[Condition, ...], float | None]:
    """The other conditions, as far as they change; and in how many seconds to look again, for one that has a deadline."""
    changed: list[Condition] = []
    after: float | None = None
    have = seen.dpu.status.conditions
    if _works(seen.hostnetwork_pod):
        changed += [] if is_true(have, NETWORK.value) else [done(NETWORK)]
    else:
        changed.append(waits(NETWORK, "HostNetworkNotReady", _network(seen.hostnetwork_pod)))
    if _works(seen.dms_pod):
        changed += [] if is_true(have, DMS.value) else [done(DMS)]
    else:
        condition, after = _dms(seen)
        changed += [condition] if condition is not None else []
    changed += _node(seen)
    if any(pod is not None and podhealth.ended(pod) for pod in (seen.dms_pod, seen.hostnetwork_pod)):
        after = podhealth.PAUSE
    return tuple(changed), after


def _dms(seen: Seen) -> tuple[Condition | None, float | None]:
    """What is said of a DMS that does not run: nothing for a moment of one that only starts again, and one that goes on starting is
    trouble after the time it has for that."""
    pod = seen.dms_pod
    if seen.node is None:
        return waits(DMS, "NodeNotFound", needs.host_gone(seen.dpu)), None
    if pod is None:
        return waits(DMS, "DMSPodMissing", "there is no DMS pod; one is made"), None
    if seen.host_down:
        return waits(DMS, "HostNotReady", f"node {seen.dpu.spec.node_name} is not ready"), None
    word, left = dmsserver.reason(pod), seen.settings.dms_pod_timeout - seen.waited(DMS, seen.host_since)
    if word != "DMSPodStarting":
        return waits(DMS, word, dmsserver.why(pod)), None
    if (pause := _restarting(seen, pod)) > 0:
        return None, pause
    if left > 0:
        return waits(DMS, word, dmsserver.why(pod)), left
    return waits(DMS, "DMSPodNotRunning", f"{dmsserver.why(pod)}; look at its events"), None


def _restarting(seen: Seen, pod: Pod) -> float:
    """Seconds left of those in which a DMS that ran may start again without being talked about."""
    said, ready = find(seen.dpu.status.conditions, DMS.value), find(pod.status.conditions, "Ready")
    if said is None or said.status != "True" or ready is None or ready.last_transition_time is None:
        return 0.0
    return RESTART - (seen.now - ready.last_transition_time).total_seconds()


def _node(seen: Seen) -> Iterator[Condition]:
    """What the card's Node says of itself besides Ready; nothing if it never had anything to say."""
    if seen.dpu_node is None:
        return
    version = seen.cluster.status.version if seen.cluster is not None else ""
    if found := nodehealth.problems(seen.dpu_node, version):
        yield waits(NODE, found[0].reason, "; ".join(each.message for each in found))
    elif (before := find(seen.dpu.status.conditions, NODE.value)) is not None and before.status != "True":
        yield done(NODE)


def _works(pod: Pod | None) -> bool:
    return pod is not None and pod.ready and not pod.deleting


def _network(pod: Pod | None) -> str:
    if pod is None:
        return "there is no pod that keeps up the host's network"
    otherwise = f"pod {pod.name} is {'being deleted' if pod.deleting else 'not ready'}; the host's network hangs on it"
    return podhealth.why(pod, otherwise)


def _healthy(seen: Seen) -> Condition:
    """Ready as it was, or again."""
    before = find(seen.dpu.status.conditions, READY.value)
    if before is not None and before.status == "True":
        return before
    return done(READY, f"node {seen.dpu.name} is healthy", reason="DPUNodeReady")
