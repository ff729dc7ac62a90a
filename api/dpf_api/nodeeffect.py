"""NodeEffect: what happens to a host while one of its cards is provisioned. Part of DPU and of DPUSet's template."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dpf.runtime.meta import Model, Timestamp
from dpf_api.labels import KEY, KEY_RULE, LONGEST, LONGEST_PREFIX, VALUE, VALUE_RULE
from dpf_api.schema import AS_BEFORE, Rule, Schema

TAINT_KEY = Rule(
    f"{AS_BEFORE} || self.size() <= {LONGEST_PREFIX + 1 + LONGEST} && self.matches('^{KEY}$')",
    f"must be like a label's: {KEY_RULE}",
    optional_old_self=True,
)
TAINT_VALUE = Rule(
    f"{AS_BEFORE} || self.size() <= {LONGEST} && self.matches('^{VALUE}$')",
    f"must be like a label's: {VALUE_RULE}",
    optional_old_self=True,
)
TAINT_EFFECT = Rule(
    f"{AS_BEFORE} || self in ['NoSchedule', 'PreferNoSchedule', 'NoExecute']",
    "must be NoSchedule, PreferNoSchedule or NoExecute",
    optional_old_self=True,
)


class Taint(Model):
    """A taint as a Node bears it."""

    key: Annotated[str, Schema(required=True, rules=(TAINT_KEY,))] = ""
    """Key of the taint."""

    value: Annotated[str, Schema(rules=(TAINT_VALUE,))] = ""
    """Value of the taint."""

    effect: Annotated[str, Schema(required=True, rules=(TAINT_EFFECT,))] = ""
    """What it does to pods that don't tolerate it: NoSchedule, PreferNoSchedule or NoExecute."""

    time_added: Timestamp | None = None
    """When the taint was added; for NoExecute."""


class Drain(Model):
    """Emptying the host before its card is touched."""

    automatic_node_reboot: Annotated[bool, Schema(default=True)] = True
    """Whether the host, once empty, may be rebooted without asking."""


ONE_EFFECT = Rule(
    "[has(self.taint), has(self.noEffect) && self.noEffect, has(self.customLabel) && size(self.customLabel) > 0,"
    " has(self.drain)].filter(chosen, chosen).size() <= 1",
    "at most one of taint, noEffect, customLabel and drain may be set",
)


class NodeEffect(Model):
    """At most one of the four; none means that nothing happens to the host."""

    taint: Taint | None = None
    """Taint that the host Node bears until the DPU is Ready."""

    no_effect: bool = False
    """Nothing happens to the host."""

    custom_label: dict[str, str] = Field(default_factory=dict)
    """Labels that the host Node bears until the DPU is Ready."""

    drain: Drain | None = None
    """The host is drained by the maintenance operator until the DPU is Ready."""


def default_node_effect() -> NodeEffect:
    """What the server fills in where no node effect is given: drain."""
    return NodeEffect(drain=Drain(automatic_node_reboot=True))


NODE_EFFECT = Schema(default={"drain": {"automaticNodeReboot": True}}, rules=(ONE_EFFECT,))
