"""What is seen of a DPU's world: one snapshot of the caches per look. Nothing here makes a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from dpf.provisioning import indexes
from dpf.provisioning.cards import index_of
from dpf.provisioning.dpu.outcome import Outcome
from dpf.provisioning.settings import Settings
from dpf.runtime import conditions
from dpf.runtime.cluster import Cluster
from dpf.runtime.errors import ClusterUnavailable
from dpf.runtime.jobs import Jobs
from dpf.runtime.k8s import Node, NodeCondition, Pod
from dpf.runtime.meta import Key, Object, now
from dpf.runtime.remote import RemoteClusters
from dpf_api import names
from dpf_api.bfb import BFB
from dpf_api.dpu import DPU, ConditionType, Install, Reboot
from dpf_api.dpucluster import DPUCluster
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.nodemaintenance import NodeMaintenance
from dpf_api.operatorconfig import DPFOperatorConfig


@dataclass(frozen=True)
class Seen:
    """A DPU and what it depends on. None stands for what does not exist.

    :param node: the host's Node.
    :param dpu_node: the card's Node in its DPU cluster.
    :param away: why the DPU cluster can't be looked into; empty if it can.
    :param siblings: the other DPUs of the same host.
    :param watched: the namespace whose DPUs are seen; all if empty.
    :param networks: the host network pods of those that have one, by the DPU's uid.
    :param config: the settings of the whole system: of several the oldest.
    :param ignored: the other ones.
    :param full: whether an installation that is begun now has to wait for its turn.
    :param job: the installation of the card, if one was begun by this process.
    :param reboot_job: the eye kept on the host's reboot, likewise.
    :param authorities: fingerprints of those whose certificates are trusted of a DMS, the one that signs first; empty if not known.
    """

    dpu: DPU
    settings: Settings = field(default_factory=Settings)
    now: datetime = field(default_factory=now)
    node: Node | None = None
    bfb: BFB | None = None
    flavor: DPUFlavor | None = None
    cluster: DPUCluster | None = None
    maintenance: NodeMaintenance | None = None
    dms_pod: Pod | None = None
    hostnetwork_pod: Pod | None = None
    dpu_node: Node | None = None
    away: str = ""
    siblings: tuple[DPU, ...] = ()
    watched: str = ""
    networks: Mapping[str, Pod] = field(default_factory=dict)
    config: DPFOperatorConfig | None = None
    ignored: tuple[DPFOperatorConfig, ...] = ()
    full: bool = False
    job: Outcome | None = None
    reboot_job: Outcome | None = None
    authorities: Sequence[str] = ()

    @property
    def boot_id(self) -> str:
        """The host's boot id now; empty if it is not known."""
        return self.node.status.node_info.boot_id if self.node is not None else ""

    @property
    def host_down(self) -> bool:
        """Whether the host is known not to be ready: its kubelet says so, or nothing any more."""
        ready = self._host_ready
        return ready is not None and ready.status != "True"

    @property
    def host_since(self) -> datetime | None:
        """Since when the host has been ready, or not; None if it never said."""
        return self._host_ready.last_transition_time if self._host_ready is not None else None

    @property
    def _host_ready(self) -> NodeCondition | None:
        conditions = self.node.status.conditions if self.node is not None else ()
        return next((each for each in conditions if each.type == "Ready"), None)

    @property
    def install(self) -> Install:
        return self.dpu.status.install or Install()

    @property
    def reboot(self) -> Reboot:
        return self.dpu.status.reboot or Reboot()

    @property
    def replaced(self) -> bool:
        """Whether the DPUCluster that the card was told to join was made anew, and is not the same cluster behind a new object:
        then it would have the card's very Node."""
        bound = self.install.cluster_uid
        if self.cluster is None or bound in ("", self.cluster.uid):
            return False
        return self.dpu_node is None or self.dpu_node.uid != self.dpu.status.node_uid

    @property
    def pci(self) -> str:
        """Label form of the card's PCI address; empty if the DPU does not name it."""
        return indexes.pci_of(self.dpu)

    @cached_property
    def dms_port(self) -> int:
        """Port of the card's DMS on its host."""
        return names.DMS_PORT + index_of(self.node, self.pci)

    def waited(self, kind: ConditionType, *since: datetime | None) -> float:
        """Seconds for which the condition has been False, whatever its reason was meanwhile; 0 if it is not.

        :param since: moments before which it could not have become True, so that the time before does not count.
        """
        condition = conditions.find(self.dpu.status.conditions, kind.value)
        if condition is None or condition.status != "False" or condition.last_transition_time is None:
            return 0.0
        began = max(moment for moment in (condition.last_transition_time, *since) if moment is not None)
        return max(0.0, (self.now - began).total_seconds())


def by_age(obj: Object) -> tuple[bool, datetime | None, str]:
    """Orders objects from the oldest to the youngest; the server's clock ticks in seconds, so uids decide within one."""
    made = obj.metadata.creation_timestamp
    return made is None, made, obj.uid


class Observer:
    """Looks things up for a DPU."""

    def __init__(
        self,
        cluster: Cluster,
        remotes: RemoteClusters,
        jobs: Jobs[Any],
        reboots: Jobs[Any],
        settings: Settings,
        authorities: Callable[[str], Sequence[str]],
    ) -> None:
        self._cache = cluster.cache
        self._watched = cluster.namespace
        self._remotes = remotes
        self._jobs = jobs
        self._reboots = reboots
        self._settings = settings
        self._authorities = authorities
        indexes.add(cluster)

    def current(self, key: Key) -> DPU | None:
        """The DPU as the cache has it, our own last write included."""
        return self._cache[DPU].get(key.name, key.namespace)

    def look(self, dpu: DPU) -> Seen:
        """The world around the DPU now."""
        cache, spec, namespace = self._cache, dpu.spec, dpu.namespace
        dpu_node, away = self._dpu_node(dpu)
        siblings = [d for d in cache[DPU].by(indexes.HOST, spec.node_name) if spec.node_name and d.uid != dpu.uid]
        networks = {other.uid: self._pod(other, names.hostnetwork_pod(other.name)) for other in siblings}
        configs = sorted(cache[DPFOperatorConfig].list(), key=by_age)
        return Seen(
            dpu=dpu,
            settings=self._settings,
            node=cache[Node].get(spec.node_name) if spec.node_name else None,
            bfb=cache[BFB].get(spec.bfb, namespace),
            flavor=cache[DPUFlavor].get(spec.dpu_flavor, namespace),
            cluster=cache[DPUCluster].get(spec.cluster.name, spec.cluster.namespace),
            maintenance=cache[NodeMaintenance].get(spec.node_name, namespace),
            dms_pod=self._pod(dpu, names.dms_pod(dpu.name)),
            hostnetwork_pod=self._pod(dpu, names.hostnetwork_pod(dpu.name)),
            dpu_node=dpu_node,
            away=away,
            siblings=tuple(siblings),
            watched=self._watched,
            networks={uid: pod for uid, pod in networks.items() if pod is not None},
            config=configs[0] if configs else None,
            ignored=tuple(configs[1:]),
            full=self._jobs.full,
            job=Outcome.of(self._jobs.get(dpu.key, dpu.uid)),
            reboot_job=Outcome.of(self._reboots.get(dpu.key, dpu.uid)),
            authorities=self._authorities(namespace),
        )

    def _pod(self, dpu: DPU, name: str) -> Pod | None:
        """The DPU's pod of that name; one left by an earlier DPU of the same name is none."""
        pod = self._cache[Pod].get(name, dpu.namespace)
        return pod if pod is not None and pod.owned_by(dpu) else None

    def _dpu_node(self, dpu: DPU) -> tuple[Node | None, str]:
        reference = dpu.spec.cluster
        if not reference.name:
            return None, ""
        try:
            remote = self._remotes.get(Key(reference.namespace, reference.name))
        except ClusterUnavailable as error:
            return None, error.message
        return remote.cache[Node].get(dpu.name), ""
