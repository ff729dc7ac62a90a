"""Labels for the card's Node in the DPU cluster, of DPUs and in the template of DPUSets."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from dpf.provisioning.dpu import nodelabels
from dpf.runtime.webhook import Cause

SHOWN = 5
"""Labels that a refusal names."""


def causes(path: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[Cause]:
    """What is wrong with the labels, of which a person would otherwise hear when the card has been flashed and wants to join.

    What was stored before somebody checked it is let pass, so that the object can still be changed and deleted.

    :param path: of the labels in their object.
    """
    fresh = {key: value for key, value in new.items() if old.get(key) != value}
    return [Cause(nodelabels.path(path, key), rule) for key, rule in islice(nodelabels.broken(fresh), SHOWN)]
