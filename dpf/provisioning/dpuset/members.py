"""The DPUs of a set: how one is made, what of an edit reaches it as it is, and how it is found by what it is like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpf.provisioning.cards import Card
from dpf.provisioning.dpuset.rollout import Member
from dpf.runtime.conditions import is_true
from dpf.runtime.informer import Index
from dpf.runtime.meta import ObjectMeta, owner_reference, to_wire
from dpf_api import names
from dpf_api.dpu import DPU, ClusterReference, ConditionType, DPUSpec, Phase
from dpf_api.dpuset import DPUSet, DPUTemplateSpec

RESERVED_LABELS = frozenset(
    {
        names.LABEL_DPUSET_NAME,
        names.LABEL_DPUSET_NAMESPACE,
        names.LABEL_DPU_PCI_ADDRESS,
        names.LABEL_DPU_PF_NAME,
        names.LABEL_DPU_HOST_IP,
    }
)


def build(dpuset: DPUSet, card: Card) -> DPU:
    """The DPU of a card, with its finalizer on it from the start."""
    template = template_spec(dpuset)
    labels = {
        **own_labels(dpuset),
        names.LABEL_DPUSET_NAME: dpuset.name,
        names.LABEL_DPUSET_NAMESPACE: dpuset.namespace,
        names.LABEL_DPU_PCI_ADDRESS: card.pci,
        **labels_of(card),
    }
    spec: dict[str, object] = {
        "node_name": card.node,
        "bfb": template.bfb.name,
        "pci_address": card.pci,
        "node_effect": template.node_effect,
        "automatic_node_reboot": template.automatic_node_reboot,
    }
    if template.dpu_flavor:
        spec["dpu_flavor"] = template.dpu_flavor
    if labels_there := node_labels(dpuset):
        spec["cluster"] = ClusterReference(node_labels=labels_there)
    meta = ObjectMeta(
        name=card.name,
        namespace=dpuset.namespace,
        labels=labels,
        annotations=dict(dpuset.spec.dpu_template.annotations),
        owner_references=[owner_reference(dpuset)],
        finalizers=[names.FINALIZER_DPU],
    )
    return DPU(metadata=meta, spec=DPUSpec(**spec))


def left(dpuset: DPUSet, dpu: DPU) -> bool:
    """Whether the DPU was left behind by a set of that name (``kubectl delete dpuset --cascade=orphan``): its labels name the set,
    and nobody has it."""
    named = dpu.labels.get(names.LABEL_DPUSET_NAME), dpu.labels.get(names.LABEL_DPUSET_NAMESPACE)
    return named == (dpuset.name, dpuset.namespace) and dpu.controller is None and not dpu.deleting


def labels_of(card: Card) -> dict[str, str]:
    """Labels that tell what may change of a card, as far as it is known."""
    told = {names.LABEL_DPU_PF_NAME: card.pf0, names.LABEL_DPU_HOST_IP: names.host_ip(card.host_ip)}
    return {key: value for key, value in told.items() if value}


def drift(dpuset: DPUSet, dpu: DPU, card: Card | None = None) -> dict[str, Any]:
    """The merge patch that brings the DPU up to the template where no flash is needed; empty if nothing differs.

    Labels and annotations are set, never taken away: a user or another program may have put them there.

    :param card: the DPU's card as its host's Node tells of it now, if it does.
    """
    template = template_spec(dpuset)
    told = labels_of(card) if card is not None else {}
    metadata = {
        "labels": lacking({**own_labels(dpuset), **told}, dpu.labels),
        "annotations": lacking(dpuset.spec.dpu_template.annotations, dpu.annotations),
    }
    spec: dict[str, Any] = {}
    if labels := lacking(node_labels(dpuset), dpu.spec.cluster.node_labels):
        spec["cluster"] = {"nodeLabels": labels}
    if dpu.spec.node_effect != template.node_effect:
        spec["nodeEffect"] = _replacing(to_wire(dpu.spec.node_effect), to_wire(template.node_effect))
    if dpu.spec.automatic_node_reboot != template.automatic_node_reboot:
        spec["automaticNodeReboot"] = template.automatic_node_reboot
    parts = {"metadata": {key: value for key, value in metadata.items() if value}, "spec": spec}
    return {key: value for key, value in parts.items() if value}


def lacking(wanted: Mapping[str, str], have: Mapping[str, str]) -> dict[str, str]:
    """Of the wanted entries those that are missing or have another value."""
    return {key: value for key, value in wanted.items() if have.get(key) != value}


def _replacing(have: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch after which nothing is left of what is there but what is wanted, at any depth."""

    def entry(key: str) -> Any:
        old, new = have.get(key), wanted.get(key)
        return _replacing(old, new) if isinstance(old, Mapping) and isinstance(new, Mapping) else new

    return {key: entry(key) for key in {**have, **wanted}}


def own_labels(dpuset: DPUSet) -> dict[str, str]:
    """The set's labels that its DPUs bear too: all but those that say where a DPU belongs."""
    return {key: value for key, value in dpuset.labels.items() if key not in RESERVED_LABELS}


def template_spec(dpuset: DPUSet) -> DPUTemplateSpec:
    """The template, or an empty one."""
    return dpuset.spec.dpu_template.spec or DPUTemplateSpec()


def node_labels(dpuset: DPUSet) -> dict[str, str]:
    """The template's labels for Nodes in the DPU cluster."""
    cluster = template_spec(dpuset).cluster
    return cluster.node_labels if cluster is not None else {}


# Finding them


def _owner(dpu: DPU) -> str:
    owner = dpu.controller
    return owner.uid if owner is not None and owner.kind == "DPUSet" else ""


def _of_set(dpu: DPU) -> tuple[str, ...]:
    return (_owner(dpu),) if _owner(dpu) else ()


def _in_phase(dpu: DPU) -> tuple[str, ...]:
    return (in_phase(_owner(dpu), dpu.status.phase),) if _owner(dpu) else ()


def _like(dpu: DPU) -> tuple[str, ...]:
    if dpu.deleting:
        return ()
    return tuple(_likeness(owner, dpu.spec.bfb, dpu.spec.dpu_flavor) for owner in _of_set(dpu))


def in_phase(uid: str, phase: Phase) -> str:
    """The value of :data:`PHASE` for a set's DPUs in a phase."""
    return f"{uid}/{phase.value}"


def _likeness(uid: str, bfb: str, flavor: str) -> str:
    return f"{uid}/{bfb}/{flavor}"


def template_of(dpuset: DPUSet) -> str:
    """The value of :data:`LIKE` for DPUs that are as the template says."""
    template = template_spec(dpuset)
    return _likeness(dpuset.uid, template.bfb.name, template.dpu_flavor)


OF_SET: Index[DPU] = Index("of-set", _of_set)
PHASE: Index[DPU] = Index("of-set-in-phase", _in_phase)
LIKE: Index[DPU] = Index("of-set-like", _like)
"""By BFB and flavor, those that stay."""
UNDER_WAY: Index[DPU] = Index("of-set-under-way", lambda dpu: () if available(dpu) else _like(dpu))
"""Of :data:`LIKE` those that are not available."""
AVAILABLE: Index[DPU] = Index("of-set-available", lambda dpu: _of_set(dpu) if available(dpu) else ())
LEAVING: Index[DPU] = Index("of-set-leaving", lambda dpu: _of_set(dpu) if dpu.deleting else ())
INDEXES = (OF_SET, PHASE, LIKE, UNDER_WAY, AVAILABLE, LEAVING)


# How they stand


def available(dpu: DPU) -> bool:
    """Whether the DPU is of use now."""
    return is_true(dpu.status.conditions, ConditionType.READY.value) and not dpu.deleting


def outdated(dpuset: DPUSet, dpu: DPU) -> bool:
    """Whether the DPU must be provisioned anew to be as the template says."""
    template = template_spec(dpuset)
    return (dpu.spec.bfb, dpu.spec.dpu_flavor) != (template.bfb.name, template.dpu_flavor)


def state(dpuset: DPUSet, dpu: DPU, *, selected: bool = True) -> Member:
    """The DPU as a rollout looks at it."""
    return Member(
        dpu.name,
        available=available(dpu),
        outdated=outdated(dpuset, dpu),
        failed=dpu.status.phase is Phase.ERROR,
        leaving=dpu.deleting,
        selected=selected,
    )


def stands(dpu: DPU) -> object:
    """What of a DPU concerns its set."""
    return _owner(dpu), dpu.status.phase, available(dpu), dpu.deleting, dpu.spec.bfb, dpu.spec.dpu_flavor
