"""The DPUs of a set: how one is made, how it is found by what it is like, and what they come to together."""

from __future__ import annotations

from dpf.provisioning.dpuset.rollout import Member
from dpf.provisioning.dpuset.select import Card
from dpf.runtime.conditions import is_true, new, set_condition
from dpf.runtime.informer import Index, Informer
from dpf.runtime.meta import ObjectMeta, owner_reference
from dpf_api import names
from dpf_api.dpu import DPU, ClusterReference, ConditionType, DPUSpec, Phase
from dpf_api.dpuset import ConditionType as SetCondition
from dpf_api.dpuset import DPUSet, DPUSetStatus, DPUTemplateSpec


def build(dpuset: DPUSet, card: Card) -> DPU:
    """The DPU of a card, with its finalizer on it from the start."""
    template = template_spec(dpuset)
    labels = {
        **dpuset.labels,
        names.LABEL_DPUSET_NAME: dpuset.name,
        names.LABEL_DPUSET_NAMESPACE: dpuset.namespace,
        names.LABEL_DPU_PCI_ADDRESS: card.pci,
    }
    labels |= {names.LABEL_DPU_PF_NAME: card.pf0} if card.pf0 else {}
    labels |= {names.LABEL_DPU_HOST_IP: card.host_ip} if card.host_ip else {}
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
    return tuple(_likeness(_owner(dpu), dpu.spec.bfb, dpu.spec.dpu_flavor) for _ in _of_set(dpu))


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
AVAILABLE: Index[DPU] = Index("of-set-available", lambda dpu: _of_set(dpu) if available(dpu) else ())
INDEXES = (OF_SET, PHASE, LIKE, AVAILABLE)


# How they stand


def available(dpu: DPU) -> bool:
    """Whether the DPU is of use now."""
    return is_true(dpu.status.conditions, ConditionType.READY.value) and not dpu.deleting


def outdated(dpuset: DPUSet, dpu: DPU) -> bool:
    """Whether the DPU must be provisioned anew to be as the template says."""
    template = template_spec(dpuset)
    return (dpu.spec.bfb, dpu.spec.dpu_flavor) != (template.bfb.name, template.dpu_flavor)


def state(dpuset: DPUSet, dpu: DPU) -> Member:
    """The DPU as a rollout looks at it."""
    return Member(dpu.name, available(dpu), outdated(dpuset, dpu))


def stands(dpu: DPU) -> object:
    """What of a DPU concerns its set."""
    return dpu.status.phase, available(dpu), dpu.deleting, dpu.spec.bfb, dpu.spec.dpu_flavor


def summary(dpuset: DPUSet, wanted: int, dpus: Informer[DPU]) -> DPUSetStatus:
    """The set's status, from counts alone."""
    counts = {phase.value: dpus.count_by(PHASE, in_phase(dpuset.uid, phase)) for phase in Phase}
    ready = dpus.count_by(AVAILABLE, dpuset.uid)
    generation = dpuset.metadata.generation
    if wanted == 0:
        condition = new(
            SetCondition.READY.value, False, "NothingSelected", "no card is selected", generation=generation
        )
    elif ready >= wanted:
        condition = new(SetCondition.READY.value, True, "AllReady", generation=generation)
    else:
        what = "Failed" if counts[Phase.ERROR.value] else "Provisioning"
        message = f"{ready} of {wanted} DPUs are ready, {counts[Phase.ERROR.value]} failed"
        condition = new(SetCondition.READY.value, False, what, message, generation=generation)
    return dpuset.status.model_copy(
        update={
            "dpu_statistics": {phase: count for phase, count in counts.items() if count},
            "replicas": wanted,
            "ready_replicas": ready,
            "reason": "" if condition.status == "True" else condition.reason,
            "observed_generation": generation,
            "conditions": set_condition(dpuset.status.conditions, condition),
        }
    )
