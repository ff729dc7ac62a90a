"""The DPU controller: what wakes a DPU, and in which order DPUs that are awake get their turn.

Everything a phase waits for in an API server is watched, in the host cluster as in DPU clusters; at rest a DPU costs nothing.
What is nearly done goes first, so of a thousand DPUs the first is Ready soon.
"""

from __future__ import annotations

from collections.abc import Iterable

from dpf.provisioning import indexes
from dpf.provisioning.bfcfg import discovery
from dpf.provisioning.dpu import cardowner, deleting, hostnetworkpod, nodeeffect, nodehealth, podparts, turns
from dpf.provisioning.dpu.deciding import deciding
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.machine import Pass
from dpf.provisioning.dpu.observe import Observer
from dpf.provisioning.dpu.steps import Changes, waits
from dpf.runtime import podtrouble
from dpf.runtime.cluster import Cluster
from dpf.runtime.controller import Controller, Finalizing, For, Owns, Result, Watch, WatchRemote
from dpf.runtime.errors import ApiError, ClusterUnavailable, Conflict, NotFound
from dpf.runtime.informer import Change, Informer
from dpf.runtime.k8s import Node, Pod
from dpf.runtime.meta import Condition, Key
from dpf.runtime.predicates import any_of, differs, labels_changed, spec_or_deletion_changed
from dpf.runtime.remote import RemoteClusters
from dpf_api import names
from dpf_api.bfb import BFB
from dpf_api.dpu import DPU, ConditionType, Phase
from dpf_api.dpucluster import DPUCluster
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.names import FINALIZER_DPU
from dpf_api.nodemaintenance import NodeMaintenance
from dpf_api.operatorconfig import DPFOperatorConfig

_ORDER = list(Phase)


class DPUReconciler(Finalizing[DPU]):
    """Takes one DPU as far as it can go now."""

    finalizer = FINALIZER_DPU

    def __init__(self, observer: Observer, hands: Hands) -> None:
        self._observer = observer
        self._hands = hands
        self._config_gone: dict[Key, str] = {}
        """Of DPUs that are being deleted, the uids of those whose bf.cfg is gone for good, as is the DMS that writes it. The
        volume is not asked again: one that is silent by then would be taken to keep what is not there."""

    async def reconcile(self, dpu: DPU) -> Result | None:
        turn = Pass(dpu, self._observer, self._hands)
        result = await turn.run(deciding)
        if turn.phase is not Phase.OS_INSTALLING:
            self._hands.jobs.take(dpu.key, dpu.uid)
        if turn.phase is not Phase.REBOOTING:
            self._hands.reboots.cancel(dpu.key)
        return result

    async def finalize(self, dpu: DPU) -> Result | None:
        seen = self._observer.look(dpu)
        if (failed := deleting.reset_failed(seen)) is not None:
            await self._deleting(dpu, failed, {"reboot": None})
            self._hands.events.warning(dpu, failed.reason, failed.message, action="Delete")
            return Result(requeue_after=0.0)
        try:
            refused = await deleting.take_back(self._hands, seen)
        except (Conflict, NotFound):
            raise  # Somebody was faster: nothing to report.
        except (ApiError, OSError) as error:
            await self._deleting(dpu, waits(ConditionType.READY, "DeletionFailed", f"{error}; it is tried again"))
            raise
        kept = ""
        if self._config_gone.get(dpu.key) != dpu.uid:
            kept = await deleting.remove_config(self._hands, seen)
            if not kept and seen.dms_pod is None:
                self._config_gone[dpu.key] = dpu.uid
        seen = self._observer.look(dpu)
        if (hold := deleting.unfinished(seen, refused, kept)) is not None:
            await self._deleting(dpu, hold.condition)
            if hold.cluster:
                raise ClusterUnavailable(hold.cluster, hold.condition.message, retry_after=hold.after)
            return Result(requeue_after=hold.after)
        if why := deleting.left_behind(seen, refused):
            await deleting.leave_node(self._hands, seen, why)
        if kept:
            deleting.leave_config(self._hands, seen, kept)
        await deleting.last(self._hands, dpu)
        return None

    async def gone(self, key: Key) -> None:
        """Lets go of it, also if somebody took its finalizer off."""
        self._hands.jobs.cancel(key)
        self._hands.reboots.cancel(key)
        self._config_gone.pop(key, None)

    async def _deleting(self, dpu: DPU, condition: Condition, changes: Changes | None = None) -> None:
        turn = Pass(dpu, self._observer, self._hands)
        if dpu.status.phase not in (Phase.REBOOTING, Phase.DELETING) and not turns.issued(dpu):
            # A reset that is on record for another try is asked for no more, and nobody is to wait for it.
            changes = {"reboot": None}
        turn.enter(Phase.DELETING, changes or {})
        turn.say(condition)
        await turn.write()


def priority(dpu: DPU) -> int:
    """The further on its way, the sooner its turn; what is Ready, broken or leaving comes in between."""
    phase = dpu.status.phase
    return 0 if phase in (Phase.READY, Phase.ERROR, Phase.DELETING) else _ORDER.index(phase)


def pod_matters(change: Change[Pod]) -> bool:
    """Whether a pod came, went, or changed in what a phase looks at."""
    return differs(pod_stands)(change)


def pod_stands(pod: Pod) -> object:
    """What of a pod a phase looks at."""
    why = podtrouble.trouble(pod), podtrouble.unschedulable(pod)
    return pod.ready, pod.status.phase, pod.status.pod_ip, pod.deleting, why


def host_stands(node: Node) -> object:
    """What of a host concerns its DPUs: no heartbeat changes it."""
    return node.labels, node.annotations, node.status.node_info.boot_id, node.ready, podparts.host_address(node)


def dpu_stands(dpu: DPU) -> object:
    """What of a DPU concerns the others of its host: how far it is, whether it has the card, what it does to the host. On its way
    that changes with its phase and with the record of its reset, so it costs them few wakes."""
    spec, status = dpu.spec, dpu.status
    touches = spec.node_effect, spec.automatic_node_reboot
    turn = turns.stuck(dpu), turns.announced(dpu)
    return status.phase, dpu.deleting, indexes.pci_of(dpu), cardowner.begun(dpu), turn, touches


def cluster_stands(cluster: DPUCluster) -> object:
    """What of a DPU cluster concerns its DPUs: not how many there are, and of why it is not Ready what they repeat."""
    status = cluster.status
    why = status.message if status.reason == discovery.REASON else ""
    return status.phase, status.version, cluster.spec.max_nodes, cluster.deleting, why


class Wakes:
    """Which DPUs a change elsewhere concerns."""

    def __init__(self, dpus: Informer[DPU]) -> None:
        self._dpus = dpus

    def on_host(self, node: Node) -> Iterable[Key]:
        """The DPUs of a host."""
        return self._dpus.keys_by(indexes.HOST, node.name)

    def siblings(self, dpu: DPU) -> Iterable[Key]:
        """The other DPUs of a DPU's host."""
        return (key for key in self._dpus.keys_by(indexes.HOST, dpu.spec.node_name) if key != dpu.key)

    def beside(self, pod: Pod) -> Iterable[Key]:
        """The other DPUs of the host that a host network pod is of: one after the other is given a new one."""
        owner = pod.controller
        dpu = self._dpus.get(owner.name, pod.namespace) if owner is not None and owner.kind == "DPU" else None
        return self.siblings(dpu) if dpu is not None and pod.name == names.hostnetwork_pod(dpu.name) else ()

    def with_bfb(self, bfb: BFB) -> Iterable[Key]:
        """The DPUs that name an image."""
        return self._dpus.keys_by(indexes.BFB_NAME, f"{bfb.namespace}/{bfb.name}")

    def with_flavor(self, flavor: DPUFlavor) -> Iterable[Key]:
        """The DPUs that name a flavor."""
        return self._dpus.keys_by(indexes.FLAVOR, f"{flavor.namespace}/{flavor.name}")

    def without_cluster(self, _: object) -> Iterable[Key]:
        """The DPUs that wait for a place in a DPU cluster."""
        return self._dpus.keys_by(indexes.CLUSTER, indexes.UNASSIGNED)

    def of_cluster(self, cluster: DPUCluster) -> Iterable[Key]:
        """The DPUs of a DPU cluster, and those that may be given a place in it."""
        waiting = self._dpus.keys_by(indexes.CLUSTER, indexes.UNASSIGNED)
        return [*waiting, *self._dpus.keys_by(indexes.IN_CLUSTER, f"{cluster.namespace}/{cluster.name}")]

    def drained(self, maintenance: NodeMaintenance) -> Iterable[Key]:
        """The DPUs of the host that is to be drained."""
        return self._dpus.keys_by(indexes.HOST, maintenance.spec.node_name)

    def card(self, key: Key, node: Node) -> Iterable[Key]:
        """The DPU that is a Node of a DPU cluster."""
        return [dpu.key for dpu in self._dpus.by(indexes.NODE, f"{key}/{node.name}")]

    def all(self, _: object) -> Iterable[Key]:
        """Every DPU."""
        return self._dpus.keys()


def dpu_controller(
    cluster: Cluster, remotes: RemoteClusters, observer: Observer, hands: Hands, workers: int
) -> Controller[DPU]:
    """The controller of DPUs."""
    wakes = Wakes(cluster.cache[DPU])
    return Controller(
        "dpu",
        DPUReconciler(observer, hands),
        watches=[
            # Its phase too: it is this controller's, and somebody else's hand in it is answered.
            For(DPU, when=any_of(spec_or_deletion_changed, labels_changed, differs(lambda dpu: dpu.status.phase))),
            Owns(Pod, when=pod_matters),
            Watch(Node, to=wakes.on_host, when=differs(host_stands)),
            Watch(DPU, to=wakes.siblings, when=differs(dpu_stands)),
            Watch(DPU, to=wakes.without_cluster, when=lambda change: change.new is None or change.new.deleting),
            Watch(BFB, to=wakes.with_bfb, when=differs(lambda bfb: (bfb.status.phase, bfb.deleting))),
            Watch(DPUFlavor, to=wakes.with_flavor, when=lambda change: change.type == "ADDED"),
            Watch(DPUCluster, to=wakes.of_cluster, when=differs(cluster_stands)),
            Watch(NodeMaintenance, to=wakes.drained, when=differs(nodeeffect.stands)),
            # Who has a pod of another MTU is all that it concerns, and that is any of them.
            Watch(DPFOperatorConfig, to=wakes.all, when=differs(hostnetworkpod.mtu)),
            Watch(Pod, to=wakes.beside, when=differs(lambda pod: (pod.ready, pod.deleting))),
            WatchRemote(Node, remotes, to=wakes.card, when=differs(nodehealth.stands)),
        ],
        workers=workers,
        priority=priority,
    )
