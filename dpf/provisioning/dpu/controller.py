"""The DPU controller: what wakes a DPU, and in which order DPUs that are awake get their turn.

Everything a phase waits for in an API server is watched, in the host cluster as in DPU clusters; at rest a DPU costs nothing.
What is nearly done goes first, so of a thousand DPUs the first is Ready soon.
"""

from __future__ import annotations

from collections.abc import Iterable

from dpf.provisioning.dpu import deleting, hostnetworkpod, indexes, nodehealth, podparts
from dpf.provisioning.dpu.deciding import deciding
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.machine import Pass
from dpf.provisioning.dpu.observe import Observer
from dpf.provisioning.dpu.steps import waits
from dpf.runtime import podtrouble
from dpf.runtime.cluster import Cluster
from dpf.runtime.controller import Controller, For, Owns, Result, Watch, WatchRemote
from dpf.runtime.errors import ApiError, Conflict, NotFound
from dpf.runtime.informer import Change
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


class DPUReconciler:
    """Takes one DPU as far as it can go now."""

    finalizer = FINALIZER_DPU

    def __init__(self, observer: Observer, hands: Hands) -> None:
        self._observer = observer
        self._hands = hands

    async def reconcile(self, dpu: DPU) -> Result | None:
        turn = Pass(dpu, self._observer, self._hands)
        result = await turn.run(deciding)
        if turn.phase is not Phase.OS_INSTALLING:
            self._hands.jobs.take(dpu.key, dpu.uid)
        if turn.phase is not Phase.REBOOTING:
            self._hands.reboots.cancel(dpu.key)
        return result

    async def finalize(self, dpu: DPU) -> Result | None:
        try:
            refused = await deleting.take_back(self._hands, self._observer.look(dpu))
        except (Conflict, NotFound):
            raise  # Somebody was faster: nothing to report.
        except (ApiError, OSError) as error:
            await self._deleting(dpu, waits(ConditionType.READY, "DeletionFailed", f"{error}; it is tried again"))
            raise
        seen = self._observer.look(dpu)
        if (hold := deleting.unfinished(seen, refused)) is not None:
            await self._deleting(dpu, hold.condition)
            return Result(requeue_after=hold.after)
        if why := deleting.left_behind(seen, refused):
            await deleting.leave_node(self._hands, seen, why)
        await deleting.last(self._hands, dpu)
        return None

    async def _deleting(self, dpu: DPU, condition: Condition) -> None:
        turn = Pass(dpu, self._observer, self._hands)
        turn.enter(Phase.DELETING)
        turn.say(condition)
        await turn.write()


def priority(dpu: DPU) -> int:
    """The further on its way, the sooner its turn; what is Ready, broken or leaving comes in between."""
    phase = dpu.status.phase
    return 0 if phase in (Phase.READY, Phase.ERROR, Phase.DELETING) else _ORDER.index(phase)


def pod_matters(change: Change[Pod]) -> bool:
    """Whether a pod came, went, or changed in what a phase looks at."""
    return differs(lambda pod: (pod.ready, pod.status.phase, pod.status.pod_ip, pod.deleting, podtrouble.trouble(pod)))(
        change
    )


def host_stands(node: Node) -> object:
    """What of a host concerns its DPUs: no heartbeat changes it."""
    return node.labels, node.annotations, node.status.node_info.boot_id, node.ready, podparts.host_address(node)


def cluster_stands(cluster: DPUCluster) -> object:
    """What of a DPU cluster concerns its DPUs: not how many there are."""
    return cluster.status.phase, cluster.status.version, cluster.spec.max_nodes, cluster.deleting


def dpu_controller(
    cluster: Cluster, remotes: RemoteClusters, observer: Observer, hands: Hands, workers: int
) -> Controller[DPU]:
    """The controller of DPUs."""
    dpus = cluster.cache[DPU]

    def on_host(node: Node) -> Iterable[Key]:
        return dpus.keys_by(indexes.HOST, node.name)

    def siblings(dpu: DPU) -> Iterable[Key]:
        return (key for key in dpus.keys_by(indexes.HOST, dpu.spec.node_name) if key != dpu.key)

    def beside(pod: Pod) -> Iterable[Key]:
        """The other DPUs of the host that a host network pod is of: one after the other is given a new one."""
        owner = pod.controller
        dpu = dpus.get(owner.name, pod.namespace) if owner is not None and owner.kind == "DPU" else None
        return siblings(dpu) if dpu is not None and pod.name == names.hostnetwork_pod(dpu.name) else ()

    def with_bfb(bfb: BFB) -> Iterable[Key]:
        return dpus.keys_by(indexes.BFB_NAME, f"{bfb.namespace}/{bfb.name}")

    def with_flavor(flavor: DPUFlavor) -> Iterable[Key]:
        return dpus.keys_by(indexes.FLAVOR, f"{flavor.namespace}/{flavor.name}")

    def without_cluster(_: object) -> Iterable[Key]:
        return dpus.keys_by(indexes.CLUSTER, indexes.UNASSIGNED)

    def of_cluster(cluster: DPUCluster) -> Iterable[Key]:
        waiting = dpus.keys_by(indexes.CLUSTER, indexes.UNASSIGNED)
        return [*waiting, *dpus.keys_by(indexes.IN_CLUSTER, f"{cluster.namespace}/{cluster.name}")]

    def drained(maintenance: NodeMaintenance) -> Iterable[Key]:
        return dpus.keys_by(indexes.HOST, maintenance.spec.node_name)

    def card(key: Key, node: Node) -> Iterable[Key]:
        return [dpu.key for dpu in dpus.by(indexes.NODE, f"{key}/{node.name}")]

    return Controller(
        "dpu",
        DPUReconciler(observer, hands),
        watches=[
            For(DPU, when=any_of(spec_or_deletion_changed, labels_changed)),
            Owns(Pod, when=pod_matters),
            Watch(Node, to=on_host, when=differs(host_stands)),
            Watch(DPU, to=siblings, when=differs(lambda dpu: dpu.status.phase)),
            Watch(DPU, to=without_cluster, when=lambda change: change.new is None or change.new.deleting),
            Watch(BFB, to=with_bfb, when=differs(lambda bfb: (bfb.status.phase, bfb.deleting))),
            Watch(DPUFlavor, to=with_flavor, when=lambda change: change.type == "ADDED"),
            Watch(DPUCluster, to=of_cluster, when=differs(cluster_stands)),
            Watch(NodeMaintenance, to=drained, when=differs(lambda m: (m.deleting, m.spec, m.status.conditions))),
            # Who has a pod of another MTU is all that it concerns, and that is any of them.
            Watch(DPFOperatorConfig, to=lambda _: dpus.keys(), when=differs(hostnetworkpod.mtu)),
            Watch(Pod, to=beside, when=differs(lambda pod: (pod.ready, pod.deleting))),
            WatchRemote(Node, remotes, to=card, when=differs(nodehealth.stands)),
        ],
        workers=workers,
        priority=priority,
    )
