"""Admission of DPUs."""

from __future__ import annotations

from dpf.provisioning.admission import nodelabels, powercycle
from dpf.runtime.webhook import invalid
from dpf_api.dpu import DPU

LABELS = (NODE_LABELS := "spec.cluster.nodeLabels", CUSTOM_LABEL := "spec.nodeEffect.customLabel")
"""Paths of labels that Nodes are to bear."""


def validate(old: DPU | None, new: DPU | None) -> None:
    """Refuses annotations that nobody could read later, and labels that the Node of card or host can't have.

    :raises Denied: naming the annotation or label.
    """
    if new is None:
        return
    before = old if old is not None else DPU()
    was, spec = before.spec, new.spec
    wrong = powercycle.causes("metadata.annotations", before.annotations, new.annotations)
    wrong += nodelabels.causes(NODE_LABELS, was.cluster.node_labels, spec.cluster.node_labels)
    wrong += nodelabels.causes(CUSTOM_LABEL, was.node_effect.custom_label, spec.node_effect.custom_label)
    if wrong:
        raise invalid(new, wrong)
