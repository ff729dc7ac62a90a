"""The controller of Kamaji's clusters: applies what a cluster should have, and says what it found.

    Service (a node port) -> TenantControlPlane -> spec.kubeconfig -> Created
                          -> keepalived -> KeepalivedReady

Each pass does all of it. An apply that changes nothing is no write, and a cluster is woken by changes of what is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from dpf.clustermanager.common import CREATED, let_go, managed, report
from dpf.clustermanager.kamaji import controlplane, keepalived
from dpf.clustermanager.kamaji.judge import (
    KEEPALIVED_READY,
    REFUSED,
    TOLD,
    created,
    held,
    keepalived_ready,
    trouble,
    without_data_store,
)
from dpf.clustermanager.kamaji.kinds import KamajiKinds, looks_different
from dpf.clustermanager.kamaji.patience import Patience
from dpf.clustermanager.kamaji.placement import IN_THE_WAY, claim, clusters_of
from dpf.clustermanager.kamaji.settings import Settings
from dpf.clustermanager.kamaji.waits import Kept
from dpf.runtime.cluster import Cluster
from dpf.runtime.conditions import find, is_true
from dpf.runtime.controller import Controller, Finalizing, For, Result, Watch
from dpf.runtime.errors import BadRequest, Forbidden, Invalid, NotFound, Waiting
from dpf.runtime.events import EventRecorder
from dpf.runtime.k8s import ConfigMap, CustomResourceDefinition, DaemonSet, Pod, Service
from dpf.runtime.meta import Condition, Key, Object, T, now, to_wire
from dpf.runtime.predicates import differs
from dpf_api import names
from dpf_api.dpucluster import TYPE_KAMAJI, DPUCluster, Keepalived
from dpf_api.kamaji import TenantControlPlane

REFUSED_FIRST, REFUSED_AGAIN = 2.0, 60.0
"""Seconds after which what was refused is tried again: a port may have been about to become free, and a webhook may think
differently later."""
IN_THE_WAY_AGAIN = 10.0
"""Seconds after which it is looked whether what has the name of one of the cluster's objects is gone."""


class KamajiClusterReconciler(Finalizing[DPUCluster]):
    """Makes clusters of type kamaji real, and leaves all others alone."""

    finalizer = names.FINALIZER_CLUSTER_MANAGER
    puts_finalizer_on = False

    def __init__(
        self, cluster: Cluster, events: EventRecorder, settings: Settings, clock: Callable[[], datetime]
    ) -> None:
        self.kinds = KamajiKinds(cluster, settings.data_store)
        self._client = cluster.client
        self._cache = cluster.cache
        self._events = events
        self._settings = settings
        self._patience = Patience(settings.control_plane_timeout, clock)

    async def reconcile(self, cluster: DPUCluster) -> Result | None:
        if not await managed(self._client, cluster, TYPE_KAMAJI):
            self._patience.forget(cluster.key)
            return None
        address = controlplane.keepalived_of(cluster)
        findings = []
        again = None
        try:
            port = await self._port(cluster, address)
        except Waiting as waiting:
            findings.append(held(cluster, waiting))
        else:
            cluster, finding, again = await self._control_plane(cluster, port)
            findings.append(finding)
            if address is not None:
                findings.append(await self._keepalived(cluster, address, port))
        dropped = () if address is not None else (KEEPALIVED_READY,)
        if dropped and self._may_have_keepalived(cluster):
            await self._remove_keepalived(cluster)
        news = await report(self._client, cluster, findings, dropped=dropped)
        for finding in news:
            self._tell(cluster, finding)
        refused = [finding for finding in findings if finding.reason == REFUSED]
        if refused:
            soon = REFUSED_FIRST if any(each in news for each in refused) else REFUSED_AGAIN
            again = soon if again is None else min(soon, again)
        if any(finding.reason in IN_THE_WAY for finding in findings):
            again = IN_THE_WAY_AGAIN if again is None else min(IN_THE_WAY_AGAIN, again)
        return Result(requeue_after=again) if again is not None else None

    async def finalize(self, cluster: DPUCluster) -> Result | None:
        return let_go(cluster, TYPE_KAMAJI)

    async def gone(self, key: Key) -> None:
        """Waits for its control plane no more."""
        self._patience.forget(key)

    async def _port(self, cluster: DPUCluster, address: Keepalived | None) -> int:
        """Applies the Service and returns the port that it has on the nodes.

        :raises Waiting: if somebody must act first.
        """
        controlplane.require_name_and_version(cluster)
        if address is not None:
            keepalived.require_endpoint(cluster, address)
        self.kinds.require()
        service = await self._get(Service, cluster.name, cluster)
        control_plane = await self._get(TenantControlPlane, cluster.name, cluster)
        claim(cluster, service, leftover=controlplane.is_leftover(cluster, service))
        claim(cluster, control_plane)
        port = controlplane.port_of(cluster, service, control_plane)
        wanted = controlplane.wanted_service(cluster, port)
        if service is not None and controlplane.ports_in_the_way(service, port):
            await self._replace_ports(service, wanted)
        service = await self._apply(wanted)
        return port or controlplane.node_port(service)

    async def _replace_ports(self, service: Service, wanted: Service) -> None:
        """
        :raises Kept: if the API server refuses it; with what it says.
        """
        patch = {"spec": {"ports": to_wire(wanted)["spec"]["ports"]}}
        with refusals(service):
            await self._client.merge_patch(service, patch, resource_version=service.metadata.resource_version)

    async def _control_plane(self, cluster: DPUCluster, port: int) -> tuple[DPUCluster, Condition, float | None]:
        """Applies the TenantControlPlane.

        :returns: the cluster, with its kubeconfig named if it is made; how far it is; and in how many seconds that is overdue.
        """
        try:
            found = await self._apply(controlplane.wanted_control_plane(cluster, port, self._settings))
        except Waiting as refused:
            # Kamaji's webhook refuses what it has no DataStore for; of one that runs what it says is told in its own words.
            lacking = not is_true(cluster.status.conditions, CREATED) and not await self.kinds.has_data_store()
            return cluster, held(cluster, without_data_store(self._settings.data_store) if lacking else refused), None
        finding = created(cluster, found, data_store=await self.kinds.has_data_store())
        finding, again = self._patience.judge(cluster, found, finding)
        if finding.status == "True" and not cluster.spec.kubeconfig:
            patch = {"spec": {"kubeconfig": found.status.kubeconfig.admin.secret_name}}
            version = cluster.metadata.resource_version
            cluster = await self._client.merge_patch(cluster, patch, resource_version=version)
        return cluster, finding, again

    async def _keepalived(self, cluster: DPUCluster, address: Keepalived, port: int) -> Condition:
        name = names.keepalived(cluster.name)
        try:
            claim(cluster, await self._get(ConfigMap, name, cluster))
            claim(cluster, await self._get(DaemonSet, name, cluster))
            await self._apply(keepalived.wanted_config_map(cluster, address, port))
            daemon_set = await self._apply(keepalived.wanted_daemon_set(cluster, address, port, self._settings))
        except Waiting as waiting:
            return held(cluster, waiting, KEEPALIVED_READY)
        pods = self._cache[Pod].matching({keepalived.LABEL: name}, cluster.namespace)
        return keepalived_ready(cluster, daemon_set, pods)

    def _may_have_keepalived(self, cluster: DPUCluster) -> bool:
        """Whether it was made at some time: it says so, or, if whoever made it was killed before saying it, it is there."""
        name, namespace = names.keepalived(cluster.name), cluster.namespace
        said = find(cluster.status.conditions, KEEPALIVED_READY) is not None
        return said or any(self._cache[kind].get(name, namespace) is not None for kind in (DaemonSet, ConfigMap))

    async def _remove_keepalived(self, cluster: DPUCluster) -> None:
        """Takes away what held a virtual IP that is not asked for any more, and nothing that merely has its name."""
        for kind in (DaemonSet, ConfigMap):
            found = await self._get(kind, names.keepalived(cluster.name), cluster)
            if found is not None and cluster.key in clusters_of(found):
                await self._client.delete(found)

    async def _get(self, kind: type[T], name: str, cluster: DPUCluster) -> T | None:
        # Asked of the server: one that lost its label, or never had it, is in no cache of ours.
        try:
            return await self._client.get(kind, name, cluster.namespace)
        except NotFound:
            return None

    async def _apply(self, obj: T) -> T:
        """
        :raises Kept: if the API server refuses it; with what it says.
        """
        with refusals(obj):
            return await self._client.apply(obj)

    def _tell(self, cluster: DPUCluster, news: Condition) -> None:
        kind = TOLD.get(news.reason)
        if kind == "Warning":
            self._events.warning(cluster, news.reason, news.message)
        elif kind == "Normal":
            self._events.normal(cluster, news.reason, news.message)


@contextmanager
def refusals(obj: Object) -> Iterator[None]:
    """
    :raises Kept: if what is done in the block is refused by the API server.
    """
    try:
        yield
    except (BadRequest, Forbidden, Invalid) as error:
        raise Kept(REFUSED, f"{obj.RESOURCE.kind} {obj.name}: {error.message}") from error


def kamaji_cluster_controller(
    cluster: Cluster, events: EventRecorder, settings: Settings, *, clock: Callable[[], datetime] = now
) -> Controller[DPUCluster]:
    """The controller of Kamaji's clusters."""
    for kind in (Service, ConfigMap, DaemonSet, Pod):
        cluster.cache.configure(kind, labels=names.LABEL_CLUSTER)
    reconciler = KamajiClusterReconciler(cluster, events, settings, clock)
    controller = Controller(
        "kamaji-cluster",
        reconciler,
        watches=[
            For(DPUCluster, when=differs(_what_counts)),
            Watch(Service, to=clusters_of),
            Watch(ConfigMap, to=clusters_of),
            Watch(DaemonSet, to=clusters_of, when=looks_different),
            Watch(Pod, to=clusters_of, when=differs(lambda pod: (pod.ready, trouble(pod)))),
            Watch(CustomResourceDefinition, to=reconciler.kinds.clusters),
        ],
        workers=2,
    )
    reconciler.kinds.wake = controller.enqueue
    return controller


def _what_counts(cluster: DPUCluster) -> object:
    """What of a cluster concerns its manager: not how many cards it has, nor whether it is healthy."""
    own = [find(cluster.status.conditions, kind) for kind in ("Created", KEEPALIVED_READY)]
    meta = cluster.metadata
    return meta.generation, meta.finalizers, meta.annotations, meta.deletion_timestamp, cluster.status.phase, own
