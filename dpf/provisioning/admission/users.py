"""Who uses a BFB or a flavor: it may not be deleted from under them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dpf.provisioning.dpuset.members import template_spec
from dpf.runtime.informer import Index, Informer
from dpf.runtime.meta import Key, Object
from dpf.runtime.webhook import Denied
from dpf_api.dpu import DPU
from dpf_api.dpuset import DPUSet

SHOWN = 5
"""Users that a refusal names; of more it says how many."""


# A reference is a name only: to an object of the referrer's own namespace.
DPUSET_BY_BFB: Index[DPUSet] = Index("bfb", lambda each: (str(Key(each.namespace, template_spec(each).bfb.name)),))
DPUSET_BY_FLAVOR: Index[DPUSet] = Index(
    "flavor", lambda each: (str(Key(each.namespace, template_spec(each).dpu_flavor)),)
)


class Users:
    """The DPUSets and DPUs that refer to objects of one kind."""

    def __init__(
        self, dpusets: Informer[DPUSet], by_dpuset: Index[DPUSet], dpus: Informer[DPU], by_dpu: Index[DPU]
    ) -> None:
        self._dpusets, self._by_dpuset = dpusets, by_dpuset
        self._dpus, self._by_dpu = dpus, by_dpu
        dpusets.add_index(by_dpuset)
        dpus.add_index(by_dpu)

    def refuse_deletion(self, obj: Object) -> None:
        """Refuses to delete what is used.

        :raises Denied: naming the users; or with 503 while it is not known yet who they are.
        """
        settled(self._dpusets, self._dpus)
        if obj.deleting:
            return
        users = _named("DPUSet", self._dpusets.keys_by(self._by_dpuset, str(obj.key)))
        users += _named("DPU", self._dpus.keys_by(self._by_dpu, str(obj.key)))
        if users:
            kind = obj.RESOURCE.kind
            raise Denied(f"{kind} {obj.key} is in use by {' and '.join(users)}; delete those first")


def settled(*informers: Informer[Any]) -> None:
    """Refuses to judge by a cache that is not filled.

    :raises Denied: with 503: the request may be made again.
    """
    if not all(informer.synced.is_set() for informer in informers):
        raise Denied("the webhook has just started and does not know all objects yet; try again", code=503)


def _named(kind: str, keys: Sequence[Key]) -> list[str]:
    if not keys:
        return []
    names = ", ".join(key.name for key in keys[:SHOWN])
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return [f"{kind}{'s' if len(keys) > 1 else ''} {names}{more}"]
