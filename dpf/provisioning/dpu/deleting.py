"""Deleting: everything that was made for a DPU is taken back, in any order and as often as it takes; what is gone is fine.

The card itself is neither wiped nor switched off. Its Node goes from the DPU cluster: while that cluster can't be reached the DPU
stays, with a condition that says so; if the DPUCluster does not exist any more, or is to go as well, there is nothing to wait
for. A cluster made anew under the same name keeps its Nodes.
"""

from __future__ import annotations

from contextlib import suppress

from dpf.provisioning.bfcfg import join
from dpf.provisioning.dpu import effects
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import waits
from dpf.runtime.errors import ClusterUnavailable, NotFound
from dpf.runtime.k8s import Secret
from dpf.runtime.meta import Condition, Key, ObjectMeta
from dpf_api import names
from dpf_api.certificate import Certificate
from dpf_api.dpu import DPU, ConditionType
from dpf_api.dpucluster import Phase

READY = ConditionType.READY
UNREACHABLE = "DPUClusterUnreachable"


def unfinished(seen: Seen) -> Condition | None:
    """What deletion waits for, after everything was asked for that can be; None if nothing is left."""
    if seen.dpu.spec.cluster.name and not _without_cluster(seen):
        name = f"{seen.dpu.spec.cluster.namespace}/{seen.dpu.spec.cluster.name}"
        if seen.away:
            message = (
                f"node {seen.dpu.name} can't be removed from cluster {name}: {seen.away}; goes on when the cluster answers, "
                "or when its DPUCluster is deleted"
            )
            return waits(READY, UNREACHABLE, message)
        if seen.dpu_node is not None:
            return waits(READY, "DPUNodeEnding", f"waiting for node {seen.dpu.name} to go from cluster {name}")
    pods = [pod.name for pod in (seen.dms_pod, seen.hostnetwork_pod) if pod is not None]
    if pods:
        return waits(READY, "PodsEnding", f"waiting for {' and '.join(pods)} to end on node {seen.dpu.spec.node_name}")
    return None


def _without_cluster(seen: Seen) -> bool:
    """Whether there is no cluster any more that the card's Node could be taken from: it does not exist, or another bears its
    name, or it is being deleted and is known not to answer; while it is only not connected yet it is waited for."""
    if seen.cluster is None or seen.replaced:
        return True
    return seen.cluster.deleting and seen.away != "" and seen.cluster.status.phase is not Phase.READY


async def take_back(hands: Hands, seen: Seen) -> None:
    """Asks for the removal of everything that is still there."""
    dpu = seen.dpu
    hands.jobs.cancel(dpu.key)
    if effects.to_undo(seen):
        await effects.undo(hands, seen)
    with suppress(FileNotFoundError):
        (hands.settings.bfb_dir / names.bfcfg_file(dpu.name)).unlink()
    for pod in (seen.dms_pod, seen.hostnetwork_pod):
        if pod is not None and not pod.deleting:
            await hands.client.delete(pod)
    await _remove_node(hands, seen)


async def last(hands: Hands, dpu: DPU) -> None:
    """Removes what no running pod needs any more; called once, when nothing else is left."""
    await hands.client.delete(Secret(metadata=ObjectMeta(name=names.dms_secret(dpu.name), namespace=dpu.namespace)))
    await _remove_token(hands, dpu)
    if hands.settings.certificates == "cert-manager":
        meta = ObjectMeta(name=names.dms_certificate(dpu.name), namespace=dpu.namespace)
        with suppress(NotFound):
            await hands.client.delete(Certificate(metadata=meta))


async def _remove_token(hands: Hands, dpu: DPU) -> None:
    """Takes the join token away before its day is over; where the cluster is gone, so is the token."""
    install, reference = dpu.status.install, dpu.spec.cluster
    if install is None or not reference.name:
        return
    with suppress(ClusterUnavailable):
        remote = hands.remotes.get(Key(reference.namespace, reference.name))
        await join.delete_token(remote.client, join.token_id(dpu.uid, install.attempt))


async def _remove_node(hands: Hands, seen: Seen) -> None:
    reference = seen.dpu.spec.cluster
    if _without_cluster(seen) or seen.away or seen.dpu_node is None or seen.dpu_node.deleting:
        return
    remote = hands.remotes.get(Key(reference.namespace, reference.name))
    await remote.client.delete(seen.dpu_node)
