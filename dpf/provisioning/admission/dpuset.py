"""Admission of DPUSets."""

from __future__ import annotations

from dpf.provisioning.admission import nodelabels, powercycle
from dpf.provisioning.dpuset.members import node_labels
from dpf.provisioning.dpuset.rollout import MAX_UNAVAILABLE
from dpf.runtime.webhook import invalid
from dpf_api.dpuset import DPUSet, RollingUpdate, Strategy, StrategyType
from dpf_api.nodeeffect import default_node_effect


def default(dpuset: DPUSet) -> DPUSet:
    """Fills in the strategy, the pace of a rolling update, and the node effect that the schema would fill in."""
    template = dpuset.spec.dpu_template
    changes: dict[str, object] = {}
    if (strategy := _strategy(dpuset.spec.strategy)) != dpuset.spec.strategy:
        changes["strategy"] = strategy
    if template.spec is not None and "node_effect" not in template.spec.model_fields_set:
        filled = template.spec.model_copy(update={"node_effect": default_node_effect()})
        changes["dpu_template"] = template.model_copy(update={"spec": filled})
    return dpuset.model_copy(update={"spec": dpuset.spec.model_copy(update=changes)}) if changes else dpuset


def _strategy(given: Strategy | None) -> Strategy:
    if given is None:
        return Strategy(type=StrategyType.RECREATE)
    if given.type is not StrategyType.ROLLING_UPDATE:
        return given
    if given.rolling_update is not None and given.rolling_update.max_unavailable is not None:
        return given
    return given.model_copy(update={"rolling_update": RollingUpdate(max_unavailable=MAX_UNAVAILABLE)})


def validate(old: DPUSet | None, new: DPUSet | None) -> None:
    """Refuses annotations and labels that the DPUs of the set would be refused for.

    :raises Denied: naming the annotation or label.
    """
    if new is None:
        return
    before = old.spec.dpu_template.annotations if old is not None else {}
    labels = node_labels(old) if old is not None else {}
    wrong = powercycle.causes("spec.dpuTemplate.annotations", before, new.spec.dpu_template.annotations)
    wrong += nodelabels.causes("spec.dpuTemplate.spec.cluster.nodeLabels", labels, node_labels(new))
    if wrong:
        raise invalid(new, wrong)
