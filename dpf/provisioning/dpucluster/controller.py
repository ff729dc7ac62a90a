"""The DPUCluster controller: keeps the connection to a DPU cluster and says how it is.

    Pending -> Creating -> Ready <-> NotReady

A cluster manager makes the cluster while it is Creating, names the Secret with its kubeconfig and sets the condition Created.
From then on health is what the registry of remote clusters finds: it is told at once when a cluster goes or comes back. A
changed Secret changes the credentials under the running watches; while it is missing or can't be used the cluster is NotReady,
and what is connected goes on with the credentials that it has. A cluster that answers and that no card can join is NotReady too:
that is said here, before a host is drained for it.

Of a cluster's conditions those count that are of the contract with cluster managers (:data:`CONTRACT`). Whatever else others say
there is theirs, and changes nothing.

A cluster that is deleted stays until its DPUs are gone: they need it to take their Nodes back.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import Any

from dpf.provisioning import indexes, leftnodes
from dpf.provisioning.bfcfg import discovery
from dpf.provisioning.dpucluster.allocator import Allocator
from dpf.provisioning.dpucluster.kubeconfigs import FIRST_LOOK, READER, Kubeconfigs, Refused, Unread
from dpf.runtime.client import Client
from dpf.runtime.cluster import Cluster
from dpf.runtime.conditions import is_true, new, set_condition
from dpf.runtime.controller import Controller, Finalizing, For, Result, Watch, WatchRemoteHealth
from dpf.runtime.errors import ApiError, ConfigError, Waiting
from dpf.runtime.events import EventRecorder
from dpf.runtime.k8s import Secret
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import Condition, Key
from dpf.runtime.predicates import differs
from dpf.runtime.remote import Health, RemoteClusters
from dpf_api.dpu import DPU
from dpf_api.dpucluster import LONGEST_SECRET_NAME, SECRET_NAME, ConditionType, DPUCluster, DPUClusterStatus, Phase
from dpf_api.names import FINALIZER_DPUCLUSTER, KUBECONFIG_KEY

COUNT_INTERVAL = 1.0
"""Seconds between writes that only count DPUs."""

READY = ConditionType.READY.value
CREATED = ConditionType.CREATED.value

CONTRACT = (CREATED, ConditionType.KEEPALIVED_READY.value)
"""Conditions of cluster managers: the first must be there, and those that are there must be True."""

NOT_JOINABLE = discovery.REASON
IN_USE = "InUse"
SHOWN = 5
"""DPUs that a message names at most."""


class DPUClusterReconciler(Finalizing[DPUCluster]):
    """Connects a cluster, watches over it, and forgets it when it goes."""

    finalizer = FINALIZER_DPUCLUSTER

    def __init__(
        self,
        cluster: Cluster,
        remotes: RemoteClusters,
        kubeconfigs: Kubeconfigs,
        allocator: Allocator,
        events: EventRecorder,
    ) -> None:
        self._client = cluster.client
        self._kubeconfigs = kubeconfigs
        self._dpus = cluster.cache[DPU]
        self._remotes = remotes
        self._allocator = allocator
        self._events = events
        self._counted_at: dict[Key, float] = {}

    async def reconcile(self, cluster: DPUCluster) -> Result | None:
        return await self._say(cluster)

    async def finalize(self, cluster: DPUCluster) -> Result | None:
        await self._allocator.ready()
        # Both at one moment: what the cache shows is expected no more.
        expected = self._allocator.expects(cluster)
        if users := self._allocator.users(cluster):
            return await self._say(cluster, users) or Result()
        if expected:
            return Result(requeue_after=FIRST_LOOK)
        await self.gone(cluster.key)
        return None

    async def gone(self, key: Key) -> None:
        """Forgets it, whoever took its finalizer off."""
        await self._remotes.disconnect(key)
        self._kubeconfigs.forget(key)
        self._counted_at.pop(key, None)

    async def _say(self, cluster: DPUCluster, holders: Sequence[DPU] = ()) -> Result | None:
        """Connects the cluster and writes how it is.

        :param holders: DPUs that its deletion waits for.
        """
        try:
            health, endpoint = await self._connect(cluster)
        except Unread:
            return Result(requeue_after=FIRST_LOOK)
        if health is None:
            return None  # No answer yet, good or bad; the registry tells when there is one.
        unfit = await unjoinable(self._remotes.get(cluster.key).client, cluster) if health.ok else ""
        count = self._allocator.assigned(cluster)
        status = judge(cluster, health, unfit).model_copy(
            update={
                "assigned_dpus": count,
                "endpoint": endpoint,
                "version": health.version or cluster.status.version,
                "observed_generation": cluster.metadata.generation,
                **({"reason": IN_USE, "message": in_use(holders)} if holders else {}),
            }
        )
        if (wait := self._count_wait(cluster, status)) > 0:
            return Result(requeue_after=wait)
        if cluster.status.phase is Phase.READY and status.phase is Phase.NOT_READY:
            message = health.message or status.message
            self._events.warning(cluster, NOT_JOINABLE if unfit else "HealthCheckFailed", message)
        if holders and cluster.status.reason != IN_USE:
            self._events.normal(cluster, "InUse", status.message)
        if cluster.status.phase is not Phase.READY and status.phase is Phase.READY:
            self._events.normal(cluster, "Ready", f"{endpoint} answers; it runs {status.version}")
        stored = await self._client.status(cluster).set(status)
        if health.ok and not cluster.deleting:
            await self._remove_left_nodes(stored)
        # What is published there wakes nobody.
        return Result(requeue_after=discovery.RETRY) if unfit else None

    async def _remove_left_nodes(self, cluster: DPUCluster) -> None:
        if not any(leftnodes.recorded(cluster)):
            return
        remote = self._remotes.get(cluster.key).client
        if removed := await leftnodes.remove(self._client, remote, cluster, self._dpus):
            note = f"of deleted DPUs these Nodes were left, and are removed: {', '.join(removed)}"
            self._events.normal(cluster, "LeftNodesRemoved", note)

    def _count_wait(self, cluster: DPUCluster, status: DPUClusterStatus) -> float:
        """How long to wait before writing a status in which nothing but the count is new, or who is counted."""
        counted: dict[str, Any] = {"assigned_dpus": cluster.status.assigned_dpus}
        if status.reason == cluster.status.reason == IN_USE:
            counted |= {"message": cluster.status.message}
        if status.model_copy(update=counted) != cluster.status:
            return 0.0
        now = asyncio.get_running_loop().time()
        wait = self._counted_at.get(cluster.key, float("-inf")) + COUNT_INTERVAL - now
        if wait <= 0:
            self._counted_at[cluster.key] = now
        return wait

    async def _connect(self, cluster: DPUCluster) -> tuple[Health | None, str]:
        """What is known of the cluster's health, and its address; None while nothing is.

        :raises Unread: if it is not known yet whether its Secret is there.
        """
        name = cluster.spec.kubeconfig
        if why := names_no_secret(cluster):
            return Health(ok=False, message=why), ""
        where = f"Secret {name} (type Opaque) in namespace {cluster.namespace}"
        try:
            secret = self._kubeconfigs.get(cluster)
        except Refused as error:
            message = f"{where} may not be read: {error}; bind ClusterRole {READER} to that account in this namespace"
            return Health(ok=False, message=message), ""
        if secret is None:
            return Health(ok=False, message=f"no {where}; create it"), ""
        try:
            text = secret.value(KUBECONFIG_KEY)
            if not text:
                raise ConfigError(f"it has no key {KUBECONFIG_KEY}")
            kubeconfig = Kubeconfig.parse(text)
            await self._remotes.connect(cluster.key, cluster.uid, kubeconfig)
        except ConfigError as error:
            return Health(ok=False, message=f"the kubeconfig in Secret {name} can't be used: {error}"), ""
        health = self._remotes.health(cluster.key)
        return (health if health.heard else None), kubeconfig.server


def judge(cluster: DPUCluster, health: Health, unfit: str = "") -> DPUClusterStatus:
    """The status of a cluster: made, or being made; and when it is made, healthy or not.

    :param unfit: why no card can join it, though it answers; empty if they can.
    """
    status, conditions = cluster.status, cluster.status.conditions
    if not made(conditions):
        fallen = status.phase in (Phase.READY, Phase.NOT_READY)
        phase = Phase.NOT_READY if fallen else Phase.CREATING
        waiting = next((c for c in conditions if c.type in CONTRACT and c.status != "True"), None)
        message = waiting.message or waiting.reason if waiting is not None else unmanaged(cluster)
        reason = waiting.reason if waiting is not None else "NotCreated"
        changes: dict[str, Any] = {"phase": phase, "reason": reason, "message": message}
        if fallen:
            changes["conditions"] = set_condition(conditions, new(READY, False, reason, message))
        return status.model_copy(update=changes)
    generation = cluster.metadata.generation
    if unfit:
        ready = new(READY, False, NOT_JOINABLE, unfit, generation=generation)
    elif health.ok:
        ready = new(READY, True, "HealthCheckPassed", generation=generation)
    else:
        ready = new(READY, False, "HealthCheckFailed", health.message, generation=generation)
    passed = ready.status == "True"
    return status.model_copy(
        update={
            "phase": Phase.READY if passed else Phase.NOT_READY,
            "reason": "" if passed else ready.reason,
            "message": ready.message,
            "conditions": set_condition(conditions, ready),
        }
    )


async def unjoinable(client: Client, cluster: DPUCluster) -> str:
    """Why no card can join a cluster that answers; empty if they can. While that can't be found out one that is Ready stays so.

    :param client: of the cluster.
    """
    try:
        await discovery.way(client, client.transport.kubeconfig)
    except Waiting as error:
        return error.message
    except ApiError as error:
        ready = cluster.status.phase is Phase.READY
        return "" if ready else f"how cards can join it can't be found out: {error}; it is tried again"
    return ""


def names_no_secret(cluster: DPUCluster) -> str:
    """Why no Secret can be looked for; empty if one can.

    A name that no Secret can have is from before the API server refused it, and would be part of a field selector.
    """
    name = cluster.spec.kubeconfig
    if not name:
        return "waiting for a cluster manager to set spec.kubeconfig"
    if len(name) <= LONGEST_SECRET_NAME and re.fullmatch(SECRET_NAME, name):
        return ""
    return (
        f"spec.kubeconfig {name[:40]!r} is no name that a Secret can have, and can't be changed: delete the DPUCluster and create"
        " it anew"
    )


def unmanaged(cluster: DPUCluster) -> str:
    """What to look for while no cluster manager has said anything."""
    where = f"of type {cluster.spec.type} run, and look at namespace {cluster.namespace}"
    return f"waiting for its cluster manager: does the one {where}?"


def made(conditions: Sequence[Condition]) -> bool:
    """Whether the cluster manager says that the cluster is there: Created, and no other condition of the contract is amiss."""
    return is_true(conditions, CREATED) and all(c.status == "True" for c in conditions if c.type in CONTRACT)


def in_use(users: Sequence[DPU]) -> str:
    """Why a cluster that is being deleted is still there."""
    shown = ", ".join(dpu.name for dpu in users[:SHOWN]) + (" ..." if len(users) > SHOWN else "")
    return f"its deletion waits for {len(users)} DPUs that were given to it: {shown}; delete their DPUSets, or them"


def dpucluster_controller(
    cluster: Cluster, remotes: RemoteClusters, kubeconfigs: Kubeconfigs, allocator: Allocator, events: EventRecorder
) -> Controller[DPUCluster]:
    """The controller of DPU clusters."""
    clusters = cluster.cache[DPUCluster]

    def using(secret: Secret) -> Iterable[Key]:
        return [each.key for each in clusters.list(secret.namespace) if each.spec.kubeconfig == secret.name]

    def given_to(dpu: DPU) -> Iterable[Key]:
        reference = dpu.spec.cluster
        return (Key(reference.namespace, reference.name),) if reference.name else ()

    def counted(dpu: DPU) -> object:
        return indexes.cluster_of(dpu), indexes.bound_uid(dpu), dpu.deleting

    controller = Controller(
        "dpucluster",
        DPUClusterReconciler(cluster, remotes, kubeconfigs, allocator, events),
        watches=[
            For(DPUCluster),
            Watch(Secret, to=using, when=differs(lambda secret: secret.data)),
            Watch(DPU, to=given_to, when=differs(counted)),
            WatchRemoteHealth(remotes),
        ],
        workers=2,
    )
    kubeconfigs.wake = controller.enqueue
    return controller
