"""The kinds that ``dpfctl`` knows: their names on the command line, and the cells of their printer columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from dpf.runtime.errors import ConfigError
from dpf.runtime.meta import Object, now
from dpf_api import bfb, dpu, dpucluster, dpuset
from dpf_api.bfb import BFB
from dpf_api.dpu import DPU
from dpf_api.dpucluster import DPUCluster
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.dpuset import DPUSet
from dpf_api.operatorconfig import DPFOperatorConfig
from dpf_api.schema import Column

KINDS: Mapping[str, type[Object]] = {
    each.RESOURCE.plural: each for each in (DPUSet, DPU, BFB, DPUFlavor, DPUCluster, DPFOperatorConfig)
}
"""By plural."""
PHASES: Mapping[type[Object], type[StrEnum]] = {DPU: dpu.Phase, BFB: bfb.Phase, DPUCluster: dpucluster.Phase}
"""Of kinds that have a phase."""
CONDITIONS: Mapping[type[Object], type[StrEnum]] = {
    DPUSet: dpuset.ConditionType,
    DPU: dpu.ConditionType,
    BFB: bfb.ConditionType,
    DPUCluster: dpucluster.ConditionType,
}
"""Types of the conditions that DPF's controllers set, of kinds that have some."""

_PART = re.compile(r"\.(\w+)|\[\?\(@\.(\w+)==['\"](\w+)['\"]\)\]")


def kind_of(word: str) -> type[Object]:
    """The kind that a user means: ``dpu``, ``dpus``, ``DPU`` or ``dpus.provisioning.dpu.nvidia.com``.

    :raises ConfigError: if there is none; the message lists those that there are.
    """
    short = word.partition(".")[0].lower()
    for plural, kind in KINDS.items():
        if short in (plural, plural.removesuffix("s")):
            return kind
    raise ConfigError(f"there is no kind {word!r}; choose from {', '.join(KINDS)}")


def asked_for(first: str, names: Sequence[str]) -> list[tuple[type[Object], list[str]]]:
    """The objects that a user means by ``KIND NAME...`` or ``KIND/NAME...``: their names by kind.

    :raises ConfigError: if there is no such kind, or the two are mixed.
    """
    if "/" not in first:
        return [(kind_of(first), list(names))]
    found: dict[type[Object], list[str]] = {}
    for word in (first, *names):
        kind, _, name = word.partition("/")
        if not name:
            raise ConfigError(f"{word!r} is no KIND/NAME: write KIND NAME ..., or KIND/NAME for each object")
        found.setdefault(kind_of(kind), []).append(name)
    return list(found.items())


def of_one_kind(first: str, names: Sequence[str]) -> tuple[type[Object], list[str]]:
    """As :func:`asked_for`, for a command that is about one kind.

    :raises ConfigError: as there, or if they are of several kinds.
    """
    (kind, found), *others = asked_for(first, names)
    if others:
        several = ", ".join(each.RESOURCE.plural for each in (kind, *(other for other, _ in others)))
        raise ConfigError(f"these are of several kinds ({several}): give those of one kind at a time")
    return kind, found


def row(obj: Object, *, wide: bool, namespace: bool) -> dict[str, str]:
    """The object's printer columns, as ``kubectl get`` shows them."""
    plain = obj.model_dump(mode="json", by_alias=True)
    cells = {"namespace": obj.namespace} if namespace else {}
    cells["name"] = obj.name
    columns: Sequence[Column] = getattr(obj, "COLUMNS", ())
    for column in columns:
        if wide or not column.wide:
            cells[column.name] = cell(plain, column)
    return cells


def cell(plain: Mapping[str, Any], column: Column) -> str:
    """What a column shows of an object; empty if there is nothing there."""
    value: Any = plain
    for field, key, wanted in _PART.findall(column.path):
        if field:
            value = value.get(field) if isinstance(value, Mapping) else None
        else:
            value = next((each for each in value or () if each.get(key) == wanted), None)
    if value is None:
        return ""
    return age(datetime.fromisoformat(value)) if column.type == "date" else str(value)


def age(since: datetime | None) -> str:
    """How long ago, in the one or two units that kubectl would use; empty for None."""
    if since is None:
        return ""
    seconds = max(0, int((now() - since).total_seconds()))
    if seconds < 120:
        return f"{seconds}s"
    if seconds < 600:
        return f"{seconds // 60}m{seconds % 60}s" if seconds % 60 else f"{seconds // 60}m"
    if seconds < 7200:
        return f"{seconds // 60}m"
    if seconds < 172800:
        return f"{seconds // 3600}h"
    return f"{seconds // 86400}d"
