"""The tree of what owns what: pure, from objects to lines.

    DPFOperatorConfig
      BFBs, DPUFlavors, DPUClusters
      DPUSets -> their DPUs -> their pods
      DPUs that no set made

Siblings in the same state can be drawn as one line (:func:`grouped`), as a fleet of a thousand is nothing to read one by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from dpf.ctl.kinds import age
from dpf.runtime.conditions import find
from dpf.runtime.k8s import Pod
from dpf.runtime.meta import Condition, Object, T
from dpf.runtime.podtrouble import trouble
from dpf_api.bfb import BFB
from dpf_api.dpu import DPU
from dpf_api.dpucluster import DPUCluster
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.dpuset import DPUSet

NAMED = 3
"""Names that the line of a group lists."""


@dataclass(frozen=True)
class Item:
    """An object in the tree, or a heading, which has no state."""

    kind: str
    name: str
    namespace: str = ""
    ready: str = ""
    """``True``, ``False`` or ``Unknown``; empty for what is neither."""
    phase: str = ""
    reason: str = ""
    message: str = ""
    since: datetime | None = None
    conditions: Sequence[Condition] = ()
    children: tuple[Item, ...] = ()

    def plain(self) -> dict[str, Any]:
        """For programs: what is empty is left out."""
        shown = {
            "kind": self.kind,
            "name": self.name,
            "namespace": self.namespace,
            "ready": self.ready,
            "phase": self.phase,
            "reason": self.reason,
            "message": self.message,
            "since": self.since.isoformat().replace("+00:00", "Z") if self.since is not None else "",
            "conditions": [each.model_dump(mode="json", by_alias=True) for each in self.conditions],
            "children": [child.plain() for child in self.children],
        }
        return {key: value for key, value in shown.items() if value}


@dataclass
class World:
    """The objects that a tree is made of."""

    configs: Sequence[Object] = ()
    bfbs: Sequence[BFB] = ()
    flavors: Sequence[DPUFlavor] = ()
    clusters: Sequence[DPUCluster] = ()
    dpusets: Sequence[DPUSet] = ()
    dpus: Sequence[DPU] = ()
    pods: Sequence[Pod] = ()


def build(world: World) -> Item:
    """The whole tree."""
    pods = _by_owner(world.pods)
    dpus = _by_owner(world.dpus)
    made = {each.uid for each in world.dpusets}
    orphans = [each for each in world.dpus if each.controller is None or each.controller.uid not in made]

    def dpu(each: DPU) -> Item:
        return stated(each, tuple(pod_item(pod) for pod in pods.get(each.uid, ())))

    headings = [
        ("BFBs", [stated(each) for each in world.bfbs]),
        ("DPUFlavors", [Item("DPUFlavor", each.name, each.namespace) for each in world.flavors]),
        ("DPUClusters", [stated(each) for each in world.clusters]),
        (
            "DPUSets",
            [stated(each, tuple(dpu(child) for child in dpus.get(each.uid, ()))) for each in world.dpusets],
        ),
        ("DPUs of no DPUSet", [dpu(each) for each in orphans]),
    ]
    children = tuple(Item("", title, children=tuple(items)) for title, items in headings if items)
    if not world.configs:
        return Item("", "DPF", children=children)
    config = world.configs[0]
    return Item("DPFOperatorConfig", config.name, config.namespace, children=children)


def _by_owner(objects: Iterable[T]) -> dict[str, list[T]]:
    owned: defaultdict[str, list[T]] = defaultdict(list)
    for each in objects:
        if (owner := each.controller) is not None:
            owned[owner.uid].append(each)
    return owned


def stated(obj: BFB | DPU | DPUCluster | DPUSet, children: tuple[Item, ...] = ()) -> Item:
    """An object that tells its state in ``status``: what it waits for, and for how long."""
    status = obj.status
    ready = find(status.conditions, "Ready")
    failed = [each for each in status.conditions if each.status != "True"]
    cause = next((each for each in failed if each.reason == status.reason), failed[-1] if failed else None)
    since = (cause or ready or Condition(type="", status="")).last_transition_time
    phase = "Deleting" if obj.deleting else str(getattr(status, "phase", ""))
    # Until its last step a DPU has no condition Ready; then it is not Ready all the same.
    word = ready.status if ready is not None else "False"
    reason = status.reason or (cause.reason if cause is not None else "")
    message = str(getattr(status, "message", "")) or (cause.message if cause is not None else "")
    if word == "True" and not obj.deleting:
        reason, message, since = "", "", ready.last_transition_time if ready is not None else None
    if isinstance(obj, DPUSet) and not message:
        # A set that is Ready may be told something all the same: that another one wants its cards too.
        told = f"; {ready.message}" if ready is not None and ready.message else ""
        message = f"{obj.status.ready_replicas} of {obj.status.replicas} DPUs are ready{told}"
    if isinstance(obj, DPUCluster) and not message:
        message = f"{obj.status.assigned_dpus} of at most {obj.spec.max_nodes} DPUs"
    kind = obj.RESOURCE.kind
    return Item(kind, obj.name, obj.namespace, word, phase, reason, message, since, status.conditions, children)


def pod_item(pod: Pod) -> Item:
    """A pod, with the first of its containers that is in trouble."""
    found = trouble(pod)
    reason, message = (found.reason, f"container {found.container}: {found.message}") if found is not None else ("", "")
    if not reason and (unscheduled := find(pod.status.conditions, "PodScheduled")) and unscheduled.status == "False":
        reason, message = unscheduled.reason, unscheduled.message
    ready = find(pod.status.conditions, "Ready")
    since = ready.last_transition_time if ready is not None else pod.metadata.creation_timestamp
    phase = "Deleting" if pod.deleting else pod.status.phase
    return Item("Pod", pod.name, pod.namespace, str(pod.ready), phase, reason, message, since, pod.status.conditions)


# Shown less of


def only(item: Item, kind: str, name: str = "") -> Item:
    """The tree with those branches alone that lead to objects of a kind, or to one of them; what hangs below stays."""

    def wanted(each: Item) -> Item | None:
        if each.kind == kind and name in ("", each.name):
            return each
        kept = tuple(found for child in each.children if (found := wanted(child)) is not None)
        return replace(each, children=kept) if kept else None

    return wanted(item) or replace(item, children=())


def grouped(item: Item, conditions: str = "none") -> Item:
    """The tree with DPUs of one parent in the same state as one line; a group shows no pods.

    :param conditions: as for :func:`lines`. A DPU stays by itself if conditions of it, or of its pods, are to be shown.
    """
    groups: dict[tuple[str, ...], list[Item]] = {}
    for child in item.children:
        alike = (child.kind, child.ready, child.phase, child.reason)
        single = (child.kind, child.namespace, child.name)
        together = child.kind == "DPU" and not any(_shown(each, conditions) for each in every(child))
        groups.setdefault(alike if together else single, []).append(child)
    children = tuple(_group(each) if len(each) > 1 else grouped(each[0], conditions) for each in groups.values())
    return replace(item, children=children)


def _group(items: list[Item]) -> Item:
    first = items[0]
    names = ", ".join(each.name for each in items[:NAMED]) + (", ..." if len(items) > NAMED else "")
    said = {each.message for each in items}
    message = f"{names}: {said.pop()}" if len(said) == 1 and first.message else names
    moments = [each.since for each in items if each.since is not None]
    since = min(moments, default=None)
    return Item("", f"{len(items)} DPUs", "", first.ready, first.phase, first.reason, message, since)


def every(item: Item) -> Iterator[Item]:
    """The item and all below it."""
    yield item
    for child in item.children:
        yield from every(child)


# Drawn


def lines(item: Item, conditions: str = "none") -> Iterator[dict[str, str]]:
    """The rows of the tree, to be printed as a table.

    :param conditions: whose conditions to show: ``none``, ``failed`` (those that are not True), ``all``, a kind such as
        ``DPU``, or ``DPU/name``.
    """
    yield from _lines(item, conditions, "", "")


def _lines(item: Item, conditions: str, mark: str, indent: str) -> Iterator[dict[str, str]]:
    title = f"{item.kind}/{item.name}" if item.kind else item.name
    yield _row(mark + title, item.namespace, item.ready, item.phase, item.reason, item.since, item.message)
    shown = _shown(item, conditions)
    last = len(shown) + len(item.children) - 1
    for number, each in enumerate(shown):
        corner = "└─" if number == last else "├─"
        yield _row(
            f"{indent}{corner}{each.type}", "", each.status, "", each.reason, each.last_transition_time, each.message
        )
    for number, child in enumerate(item.children, len(shown)):
        end = number == last
        yield from _lines(child, conditions, indent + ("└─" if end else "├─"), indent + ("  " if end else "│ "))


def _shown(item: Item, conditions: str) -> Sequence[Condition]:
    if conditions == "failed":
        return [each for each in item.conditions if each.status != "True"]
    kind, _, name = conditions.partition("/")
    return item.conditions if conditions == "all" or (item.kind == kind and name in ("", item.name)) else ()


def _row(
    title: str, namespace: str, ready: str, phase: str, reason: str, since: datetime | None, message: str
) -> dict[str, str]:
    return {
        "name": title,
        "namespace": namespace,
        "ready": ready,
        "phase": phase,
        "reason": reason,
        "since": age(since),
        "message": message,
    }
