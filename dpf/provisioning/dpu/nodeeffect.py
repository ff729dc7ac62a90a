"""What happens to a host while one of its cards is provisioned: nothing, a taint, labels, or a drain; and how it is undone.

Taints and labels are remembered in an annotation of the Node itself, written in the same patch: who (DPU uid) holds what, and
what was there before. So only what DPUs put there is ever taken away; a taint or label that was there already stays; and of
several DPUs of one host the last one to let go undoes it. A holder that is no DPU any more, for its finalizer was taken off by
hand or it was restored under another uid, does not keep it: whichever DPU of the host lets go next, lets go for it too.

A drain is a NodeMaintenance named after the host, in the namespace of the DPU. DPUs of that namespace share it the same way: we
are one of its requestors for as long as a DPU of the host needs it. Of one that a DPU made, the owners are the DPUs that need it,
the one that made it as its controller; so the garbage collector keeps it until the last of them is gone. One that others made
has no owner from us.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from dpf.runtime.conditions import is_true
from dpf.runtime.k8s import Node, Taint
from dpf.runtime.meta import ObjectMeta, owner_reference, to_wire
from dpf_api.dpu import DPU, Phase
from dpf_api.names import GROUP, MAINTENANCE_OWNER, REQUESTOR
from dpf_api.nodeeffect import NodeEffect
from dpf_api.nodemaintenance import DrainSpec, NodeMaintenance, NodeMaintenanceSpec

ANNOTATION = f"{GROUP}/node-effects"
"""Of a host Node: JSON, ``{"<kind>/<what>": {"holders": [uid, ...], "before": ..., "namespaces": {uid: namespace}}}``; kind is
``taint`` or ``label``. An earlier version knew no namespaces."""

Ledger = dict[str, dict[str, Any]]

HOLDS_UNTIL = frozenset({Phase.READY, Phase.ERROR, Phase.DELETING})
"""Phases in which a DPU has let go of its host."""


def none(effect: NodeEffect) -> bool:
    """Whether nothing is to happen to the host."""
    return effect.no_effect or not (effect.custom_label or effect.taint or effect.drain)


def marks(effect: NodeEffect) -> bool:
    """Whether the effect is a mark on the Node: labels or a taint."""
    return not effect.no_effect and bool(effect.custom_label or effect.taint)


def drains(effect: NodeEffect) -> bool:
    """Whether the effect is a drain; labels and taint come first where several are set."""
    return not none(effect) and not marks(effect)


def held(node: Node, uid: str) -> bool:
    """Whether the DPU holds anything on the Node."""
    return any(uid in entry["holders"] for entry in ledger(node).values())


def ledger(node: Node) -> Ledger:
    """Who holds what on the Node; what can't be read counts as nothing."""
    try:
        found = json.loads(node.annotations.get(ANNOTATION, "{}"))
        return {
            key: {
                "holders": list(entry["holders"]),
                "before": entry.get("before"),
                "namespaces": dict(entry.get("namespaces") or {}),
            }
            for key, entry in found.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def lost(node: Node, known: Collection[str], watched: str) -> set[str]:
    """The uids of holders that are no DPUs any more.

    :param known: uids of the host's DPUs in the watched namespace.
    :param watched: the namespace that this process looks at, all if empty; of DPUs of others it can't know.
    """
    return {
        uid
        for entry in ledger(node).values()
        for uid in entry["holders"]
        if uid not in known and watched in ("", entry["namespaces"].get(uid))
    }


def marked(node: Node, uid: str, effect: NodeEffect) -> bool:
    """Whether the Node bears the effect on behalf of the DPU."""
    return apply(node, uid, effect) is None


def apply(node: Node, uid: str, effect: NodeEffect, namespace: str = "") -> dict[str, Any] | None:
    """The merge patch that puts labels or taint on the Node for the DPU of a namespace; None if they are there."""
    book, labels, taints = ledger(node), dict(node.labels), list(node.spec.taints)
    if effect.custom_label:
        for key, value in effect.custom_label.items():
            _take(book, f"label/{key}", uid, namespace, before=labels.get(key))
            labels[key] = value
    elif effect.taint is not None:
        wanted = effect.taint
        same = next((t for t in taints if (t.key, t.effect) == (wanted.key, wanted.effect)), None)
        before = "there" if same is not None else None
        _take(book, f"taint/{wanted.key}:{wanted.effect}", uid, namespace, before=before)
        if same is None:
            taints.append(Taint(key=wanted.key, value=wanted.value, effect=wanted.effect))
    return _patch(node, book, labels, taints)


def undo(node: Node, *uids: str) -> dict[str, Any] | None:
    """The merge patch that takes from the Node what the DPUs hold and nobody else does; None if they hold nothing."""
    book, labels, taints = ledger(node), dict(node.labels), list(node.spec.taints)
    for mark, entry in list(book.items()):
        left = [uid for uid in entry["holders"] if uid not in uids]
        if left == entry["holders"]:
            continue
        if left:
            namespaces = {uid: namespace for uid, namespace in entry["namespaces"].items() if uid in left}
            book[mark] = entry | {"holders": left, "namespaces": namespaces}
            continue
        del book[mark]
        kind, _, what = mark.partition("/")
        if kind == "label":
            labels.pop(what, None)
            if entry["before"] is not None:
                labels[what] = entry["before"]
        elif entry["before"] is None:
            key, _, effect = what.rpartition(":")
            taints = [taint for taint in taints if (taint.key, taint.effect) != (key, effect)]
    return _patch(node, book, labels, taints)


def _take(book: Ledger, mark: str, uid: str, namespace: str, *, before: str | None) -> None:
    entry = book.setdefault(mark, {"holders": [], "before": before, "namespaces": {}})
    if uid not in entry["holders"]:
        entry["holders"].append(uid)
        entry["namespaces"][uid] = namespace


def _patch(node: Node, book: Ledger, labels: Mapping[str, str], taints: list[Taint]) -> dict[str, Any] | None:
    patch: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    if book != ledger(node):
        metadata["annotations"] = {ANNOTATION: json.dumps(book, sort_keys=True) if book else None}
    changed: dict[str, str | None] = {k: v for k, v in labels.items() if node.labels.get(k) != v}
    changed |= {key: None for key in node.labels if key not in labels}
    if changed:
        metadata["labels"] = changed
    if metadata:
        patch["metadata"] = metadata
    if taints != node.spec.taints:
        patch["spec"] = {"taints": [to_wire(taint) for taint in taints] or None}
    return patch or None


def maintenance_for(dpu: DPU) -> NodeMaintenance:
    """The request to drain the DPU's host."""
    return NodeMaintenance(
        metadata=ObjectMeta(name=dpu.spec.node_name, namespace=dpu.namespace, owner_references=[owner_reference(dpu)]),
        spec=NodeMaintenanceSpec(
            requestor_id=MAINTENANCE_OWNER,
            node_name=dpu.spec.node_name,
            additional_requestors=[REQUESTOR],
            drain_spec=DrainSpec(force=True, delete_empty_dir=True),
        ),
    )


def ours(maintenance: NodeMaintenance) -> bool:
    """Whether it was made for a DPU, and not by others."""
    return maintenance.spec.requestor_id == MAINTENANCE_OWNER


def requested(maintenance: NodeMaintenance) -> bool:
    """Whether we are one of those who need it."""
    return REQUESTOR in maintenance.spec.additional_requestors


def owned(maintenance: NodeMaintenance, uid: str) -> bool:
    """Whether the DPU is among its owners."""
    return any(owner.uid == uid for owner in maintenance.metadata.owner_references)


def joined(maintenance: NodeMaintenance, uid: str) -> bool:
    """Whether it is held for the DPU."""
    return requested(maintenance) and (owned(maintenance, uid) or not ours(maintenance))


def drained(maintenance: NodeMaintenance) -> bool:
    """Whether the host is empty, and kept so for us."""
    return requested(maintenance) and is_true(maintenance.status.conditions, "Ready")


def evicting(maintenance: NodeMaintenance) -> list[Any]:
    """The pods that the maintenance operator still waits for."""
    return (maintenance.status.drain or {}).get("waitForEviction") or []


def stands(maintenance: NodeMaintenance) -> object:
    """What of a drain concerns the DPUs of its host, and is named to who waits for it."""
    conditions, finalizers = maintenance.status.conditions, maintenance.metadata.finalizers
    return maintenance.deleting, maintenance.spec, conditions, evicting(maintenance), finalizers


def join(maintenance: NodeMaintenance, dpu: DPU) -> dict[str, Any]:
    """The merge patch, to be locked, by which a drain that is there is held for the DPU too."""
    patch: dict[str, Any] = {}
    if not requested(maintenance):
        patch["spec"] = {"additionalRequestors": [*maintenance.spec.additional_requestors, REQUESTOR]}
    if ours(maintenance) and not owned(maintenance, dpu.uid):
        owners = [*maintenance.metadata.owner_references, owner_reference(dpu, controller=False, block=False)]
        patch["metadata"] = {"ownerReferences": [to_wire(owner) for owner in owners]}
    return patch


def leave(maintenance: NodeMaintenance, uid: str, siblings: Iterable[DPU]) -> dict[str, Any]:
    """The merge patch, to be locked, by which the DPU lets go of a drain: it gives up its ownership while others need the
    drain, and our request when nobody does. The ownership stays then until the object is gone, so that it can't be forgotten."""
    if needed_by_others(maintenance, siblings):
        owners = [owner for owner in maintenance.metadata.owner_references if owner.uid != uid]
        return (
            {"metadata": {"ownerReferences": [to_wire(owner) for owner in owners]}} if owned(maintenance, uid) else {}
        )
    if requested(maintenance):
        others = [name for name in maintenance.spec.additional_requestors if name != REQUESTOR]
        return {"spec": {"additionalRequestors": others}}
    return {}


def needed_by_others(maintenance: NodeMaintenance, siblings: Iterable[DPU]) -> bool:
    """Whether another DPU of the same host and namespace still needs it drained: it is among the owners, or far enough on
    its way to have asked. One of another namespace has a drain of its own."""
    return any(
        not other.deleting
        and other.namespace == maintenance.namespace
        and other.status.phase not in HOLDS_UNTIL
        and (
            owned(maintenance, other.uid)
            or (drains(other.spec.node_effect) and other.status.phase is not Phase.INITIALIZING)
        )
        for other in siblings
    )
