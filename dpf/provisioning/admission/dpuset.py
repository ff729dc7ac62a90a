"""Admission of DPUSets."""

from __future__ import annotations

from dpf.provisioning.admission import nodelabels, powercycle
from dpf.provisioning.dpuset.members import node_labels, template_spec
from dpf.provisioning.dpuset.rollout import MAX_UNAVAILABLE
from dpf.runtime.webhook import invalid
from dpf_api.dpuset import DPUSet, RollingUpdate, Strategy, StrategyType
from dpf_api.nodeeffect import default_node_effect

LABELS = (
    NODE_LABELS := "spec.dpuTemplate.spec.cluster.nodeLabels",
    CUSTOM_LABEL := "spec.dpuTemplate.spec.nodeEffect.customLabel",
)
"""Paths of labels that Nodes are to bear."""


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
    before = old if old is not None else DPUSet()
    was, template = before.spec.dpu_template, new.spec.dpu_template
    wrong = powercycle.causes("spec.dpuTemplate.annotations", was.annotations, template.annotations)
    wrong += nodelabels.causes(NODE_LABELS, node_labels(before), node_labels(new))
    old_effect, effect = template_spec(before).node_effect, template_spec(new).node_effect
    wrong += nodelabels.causes(CUSTOM_LABEL, old_effect.custom_label, effect.custom_label)
    if wrong:
        raise invalid(new, wrong)
