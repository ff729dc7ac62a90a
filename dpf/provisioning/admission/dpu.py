"""Admission of DPUs."""

from __future__ import annotations

from dpf.provisioning.admission import nodelabels, powercycle
from dpf.runtime.webhook import invalid
from dpf_api.dpu import DPU


def validate(old: DPU | None, new: DPU | None) -> None:
    """Refuses annotations that nobody could read later, and labels that the card's Node can't have.

    :raises Denied: naming the annotation or label.
    """
    if new is None:
        return
    before = old.annotations if old is not None else {}
    labels = old.spec.cluster.node_labels if old is not None else {}
    wrong = powercycle.causes("metadata.annotations", before, new.annotations)
    wrong += nodelabels.causes("spec.cluster.nodeLabels", labels, new.spec.cluster.node_labels)
    if wrong:
        raise invalid(new, wrong)
