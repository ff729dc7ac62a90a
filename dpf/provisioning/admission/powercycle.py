"""The annotation that asks for a power cycle of the host, on DPUs and in the template of DPUSets."""

from __future__ import annotations

from collections.abc import Mapping

from dpf.runtime.webhook import Cause
from dpf_api.names import ANNOTATION_HOST_POWER_CYCLE_REQUIRED, parse_bool


def causes(path: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[Cause]:
    """What is wrong with the annotation: nothing, or that it is no boolean.

    A value that was stored before somebody checked it is let pass, so that the object can still be changed and deleted.

    :param path: of the annotations in their object.
    """
    text = new.get(ANNOTATION_HOST_POWER_CYCLE_REQUIRED)
    if text is None or text == old.get(ANNOTATION_HOST_POWER_CYCLE_REQUIRED):
        return []
    try:
        parse_bool(text)
    except ValueError as error:
        return [Cause(f"{path}[{ANNOTATION_HOST_POWER_CYCLE_REQUIRED}]", str(error))]
    return []
