"""Deleting: everything that was made for a DPU is taken back, in any order and as often as it takes; what is gone is fine.

The card itself is neither wiped nor switched off. Its Node goes from the DPU cluster. While that can't be done, for the cluster is
away, refuses it or holds the Node, the DPU stays and says so, but not for ever: after ``--deletion-timeout`` the rest is taken
back, an event says that the Node may be left, and the DPUCluster bears a record by which it is removed when that is possible
again. If the DPUCluster does not exist any more, or is to go as well, there is nothing to wait for. A cluster made anew under
the same name keeps its Nodes.

The shared volume is waited for no longer than the cluster: a bf.cfg that can't be removed is left there, and an event names it.

If the host was told to reboot for the card and has other DPUs, this one stays until the host has booted, or should have, for it is
by this one that they know: see ``turns``. Its DMS stays as long, which may be at the reboot, and what is done to the host's Node.
"""

from __future__ import annotations

from contextlib import suppress

from dpf.provisioning import leftnodes
from dpf.provisioning.dpu import bfcfgfile, effects, jointoken, turns
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.install import RebootFailed
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Hold, waits
from dpf.provisioning.dpu.waiting import HOST_BACK, PODS_END
from dpf.runtime.errors import ApiError, ClusterUnavailable, Conflict, NotFound
from dpf.runtime.k8s import Secret
from dpf.runtime.meta import Condition, Key, ObjectMeta
from dpf.runtime.options import written
from dpf_api import names
from dpf_api.certificate import Certificate
from dpf_api.dpu import DPU, ConditionType, Install
from dpf_api.dpucluster import Phase

READY = ConditionType.READY
LOOK = 60.0
"""Seconds between looks at what keeps something of the DPU: nobody tells when it does not any more."""


def unfinished(seen: Seen, refused: str = "", kept: str = "") -> Hold | None:
    """What deletion waits for, after everything was asked for that can be; None if nothing is left to wait for.

    :param refused: why the DPU cluster did not let the Node be removed.
    :param kept: why the volume did not let the bf.cfg be removed.
    """
    left = _left(seen)
    limit = (
        f"given up {written(seen.settings.deletion_timeout)} after the deletion" if _limited(seen) else "not given up"
    )
    if (goes_down := _host_goes_down(seen)) > 0:
        message = (
            f"waiting for node {seen.dpu.spec.node_name} to come back from its reboot, for which it was asked: else another of its "
            f"cards would be flashed when it goes down; not longer than {written(HOST_BACK)}"
        )
        return Hold(waits(READY, "Rebooting", message), after=goes_down)
    if kept and left > 0:
        return Hold(waits(READY, "DeletionFailed", f"{kept}; it is tried again; {limit}"), after=min(left, LOOK))
    if (problem := _node_stays(seen, refused)) and left > 0:
        if seen.away or refused:
            message = f"{problem}; goes on when the cluster answers or its DPUCluster is deleted; {limit}"
            reference = seen.dpu.spec.cluster
            away = "" if refused else f"{reference.namespace}/{reference.name}"
            return Hold(waits(READY, "DPUClusterUnreachable", message), after=min(left, LOOK), cluster=away)
        return Hold(waits(READY, "DPUNodeEnding", f"{problem}; {limit}"), after=left if _limited(seen) else None)
    pods = [pod.name for pod in (seen.dms_pod, seen.hostnetwork_pod) if pod is not None]
    node = seen.dpu.spec.node_name
    if not pods:
        return None
    if (left := PODS_END - _deleted(seen)) > 0:
        # Which of them is left is not said, or it would be written for each.
        return Hold(waits(READY, "PodsEnding", f"waiting for its pods on node {node} to end"), after=left)
    message = (
        f"waiting for {' and '.join(pods)} to end on node {node}. It takes longer than {written(PODS_END)}: "
        "if the host is gone for good, delete its Node, or the pods by force"
    )
    return Hold(waits(READY, "PodsDoNotEnd", message))


def _host_goes_down(seen: Seen) -> float:
    """Seconds for which the host's reboot is waited for; 0 if it is not."""
    others = any(not other.deleting for other in seen.siblings)
    return turns.resetting(seen, seen.dpu) if others else 0.0


def reset_failed(seen: Seen) -> Condition | None:
    """What is to be said before all else if DMS could not reset the host: then its record goes, and nobody waits for it."""
    job = seen.reboot_job
    if job is None or not isinstance(job.error, RebootFailed) or turns.resetting(seen, seen.dpu) <= 0:
        return None
    message = f"node {seen.dpu.spec.node_name} could not be rebooted: {job.error}"
    return waits(ConditionType.REBOOTED, turns.REBOOT_FAILED, message)


def _without_cluster(seen: Seen) -> bool:
    """Whether there is no cluster any more that the card's Node could be taken from: it does not exist, or another bears its
    name, or it is being deleted and is known not to answer; while it is only not connected yet it is waited for."""
    if seen.cluster is None or seen.replaced:
        return True
    return seen.cluster.deleting and seen.away != "" and seen.cluster.status.phase is not Phase.READY


def left_behind(seen: Seen, refused: str = "") -> str:
    """Why the Node may be left in its cluster, if it is not waited for any longer; empty if it is gone."""
    return _node_stays(seen, refused) if _left(seen) <= 0 else ""


async def take_back(hands: Hands, seen: Seen) -> str:
    """Asks for the removal of everything that is still there.

    :returns: why the DPU cluster does not let the Node be removed; empty if it does, or is away.
    """
    dpu = seen.dpu
    hands.jobs.cancel(dpu.key)
    if _host_goes_down(seen) > 0:
        if seen.reboot_job is None:
            hands.card.follow_reboot(dpu, HOST_BACK)
        return ""
    hands.reboots.cancel(dpu.key)
    if effects.to_undo(seen):
        await effects.undo(hands, seen)
    for pod in (seen.dms_pod, seen.hostnetwork_pod):
        if pod is not None and not pod.deleting:
            await hands.client.delete(pod)
    try:
        await _remove_node(hands, seen)
    except Conflict:
        raise
    except ApiError as error:
        return error.message
    return ""


async def remove_config(hands: Hands, seen: Seen) -> str:
    """Removes the bf.cfg that a DMS may have left on the volume. It comes last, for a silent volume takes its time.

    :returns: why it can't be removed; empty if it is gone.
    """
    if seen.install.started_at is None:
        # Before, a file of that name is a namesake's in another namespace.
        return ""
    try:
        await bfcfgfile.remove(hands.volume, seen.dpu.name)
    except OSError as error:
        return f"{names.bfcfg_file(seen.dpu.name)} can't be removed from the shared volume: {error.strerror or error}"
    return ""


def leave_config(hands: Hands, seen: Seen, why: str) -> None:
    """Says that the bf.cfg is left."""
    note = f"{why}. Not waited for any longer: remove it by hand, for a join token is in it"
    hands.events.warning(seen.dpu, "ConfigLeftBehind", note, action="Delete")


async def leave_node(hands: Hands, seen: Seen, why: str) -> None:
    """Puts on record that the Node may be left, and says so."""
    if seen.cluster is None:
        return
    await leftnodes.record(hands.client, seen.cluster, seen.dpu)
    note = f"{why}. Not waited for any longer: it is removed when the cluster lets it, else remove it by hand"
    hands.events.warning(seen.dpu, "NodeLeftBehind", note, action="Delete", related=seen.cluster)


async def last(hands: Hands, dpu: DPU) -> None:
    """Removes what no running pod needs any more; called once, when nothing else is left."""
    await hands.client.delete(Secret(metadata=ObjectMeta(name=names.dms_secret(dpu.name), namespace=dpu.namespace)))
    await _remove_token(hands, dpu)
    if hands.settings.certificates == "cert-manager":
        meta = ObjectMeta(name=names.dms_certificate(dpu.name), namespace=dpu.namespace)
        with suppress(NotFound):
            await hands.client.delete(Certificate(metadata=meta))


def _node_stays(seen: Seen, refused: str) -> str:
    """Why the Node can't be known to be gone; empty if it is."""
    reference, name = seen.dpu.spec.cluster, seen.dpu.name
    if not reference.name or _without_cluster(seen):
        return ""
    cluster = f"{reference.namespace}/{reference.name}"
    if seen.away or refused:
        return f"node {name} can't be removed from cluster {cluster}: {refused or seen.away}"
    if seen.dpu_node is None:
        return ""
    held = seen.dpu_node.metadata.finalizers
    return f"waiting for node {name} to go from cluster {cluster}" + (f"; finalizers {', '.join(held)}" if held else "")


def _limited(seen: Seen) -> bool:
    return seen.settings.deletion_timeout > 0


def _left(seen: Seen) -> float:
    """Seconds for which the Node and the bf.cfg are still waited for."""
    return seen.settings.deletion_timeout - _deleted(seen) if _limited(seen) else float("inf")


def _deleted(seen: Seen) -> float:
    """Seconds since deletion was asked for, or since its pods were told to end if that had to wait for the host's reset."""
    told = [
        pod.metadata.deletion_timestamp or seen.now for pod in (seen.dms_pod, seen.hostnetwork_pod) if pod is not None
    ]
    since = seen.dpu.metadata.deletion_timestamp
    return max(0.0, (seen.now - max([since, *told])).total_seconds()) if since is not None else 0.0


async def _remove_token(hands: Hands, dpu: DPU) -> None:
    """Takes the join token away before its day is over; where the cluster is gone, so is the token."""
    # The token is made before it is put on record that there is an installation.
    install, reference = dpu.status.install or Install(), dpu.spec.cluster
    if install.join_token_deleted or not reference.name:
        return
    # An attempt takes the one before it away when it begins, and makes its own before it is on record.
    attempts = [install.attempt, install.attempt + 1]
    if install.started_at is None:
        attempts.insert(0, install.attempt - 1)
    # One that can't be removed now goes with the Node that is left, or ends by itself.
    with suppress(ClusterUnavailable, ApiError):
        for attempt in attempts:
            if attempt >= 0:
                await jointoken.take_away(hands, dpu, attempt)


async def _remove_node(hands: Hands, seen: Seen) -> None:
    reference = seen.dpu.spec.cluster
    if _without_cluster(seen) or seen.away or seen.dpu_node is None or seen.dpu_node.deleting:
        return
    remote = hands.remotes.get(Key(reference.namespace, reference.name))
    await remote.client.delete(seen.dpu_node)
