"""Admission of DPUs."""

from __future__ import annotations

from dpf.provisioning.admission import powercycle
from dpf.runtime.webhook import invalid
from dpf_api.dpu import DPU


def validate(old: DPU | None, new: DPU | None) -> None:
    """Refuses annotations that nobody could read later.

    :raises Denied: naming the annotation.
    """
    if new is None:
        return
    before = old.annotations if old is not None else {}
    if wrong := powercycle.causes("metadata.annotations", before, new.annotations):
        raise invalid(new, wrong)
