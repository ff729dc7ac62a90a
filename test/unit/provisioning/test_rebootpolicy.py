"""How a host is rebooted."""

from __future__ import annotations

from typing import Any

import pytest

from dpf.provisioning.dpu.rebootpolicy import Policy, Power, authorised, policy, resets_itself
from dpf.runtime.k8s import Node
from dpf_api.dpu import DPU
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.names import (
    ANNOTATION_HOST_POWER_CYCLE_REQUIRED,
    ANNOTATION_POWERCYCLE_COMMAND,
    ANNOTATION_REBOOT_COMMAND,
)
from test.unit.provisioning.worlds import dpu, host


def subject(required: str | None) -> DPU:
    made = dpu()
    annotations = {} if required is None else {ANNOTATION_HOST_POWER_CYCLE_REQUIRED: required}
    return made.model_copy(update={"metadata": made.metadata.model_copy(update={"annotations": annotations})})


def node(power_cycle: str | None = None, reboot: str | None = None) -> Node:
    found = {ANNOTATION_POWERCYCLE_COMMAND: power_cycle, ANNOTATION_REBOOT_COMMAND: reboot}
    return host(annotations={key: value for key, value in found.items() if value is not None})


@pytest.mark.parametrize(
    ("required", "power_cycle", "reboot", "expected"),
    [
        (None, None, None, Policy("WARM", Power.RESET)),
        (None, "skip", "cycle", Policy("WARM", Power.CYCLE)),
        (None, None, "skip", Policy("WARM", None)),
        ("false", "cycle", "reset", Policy("WARM", Power.RESET)),
        ("maybe", None, None, Policy("WARM", Power.RESET)),
        ("true", None, "skip", Policy("COLD", Power.CYCLE)),
        ("T", "reset", None, Policy("COLD", Power.RESET)),
        ("1", "skip", None, Policy("COLD", None)),
    ],
)
def test_annotations_decide(
    required: str | None, power_cycle: str | None, reboot: str | None, expected: Policy
) -> None:
    assert policy(subject(required), node(power_cycle, reboot), None) == expected


@pytest.mark.parametrize(
    ("nvconfig", "method"),
    [([], "WARM"), ([{"parameters": ["A=1"]}], "WARM"), ([{"hostPowerCycleRequired": True}], "COLD")],
)
@pytest.mark.parametrize("required", [None, "false"])
def test_a_flavor_may_ask_for_a_power_cycle_as_an_annotation_does(
    required: str | None, nvconfig: list[dict[str, object]], method: str
) -> None:
    flavor = DPUFlavor.model_validate({"spec": {"nvconfig": nvconfig}})
    assert policy(subject(required), node(), flavor).method == method


@pytest.mark.parametrize(("required", "name"), [("true", "powercycle-command"), (None, "reboot-command")])
def test_what_has_no_meaning_is_named(required: str | None, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        policy(subject(required), node("kick", "kick"), None)


@pytest.mark.parametrize(
    ("own", "drain", "may"),
    [
        (True, None, True),
        (False, None, False),
        (False, {"automaticNodeReboot": True}, True),
        (False, {"automaticNodeReboot": False}, False),
        (True, {"automaticNodeReboot": False}, True),
    ],
)
def test_either_side_may_allow_a_reboot(own: bool, drain: dict[str, bool] | None, may: bool) -> None:
    effect = {"noEffect": True} if drain is None else {"drain": drain}
    assert authorised(dpu(automaticNodeReboot=own, nodeEffect=effect)) is may


@pytest.mark.parametrize(
    ("install", "attempt", "alone"),
    [
        (None, 0, True),
        ({"attempt": 0}, 0, True),
        ({"attempt": 0, "resetsItself": False}, 0, False),
        ({"attempt": 0, "resetsItself": False}, 1, True),
        ({"attempt": 1, "resetsItself": True}, 1, True),
    ],
)
def test_whether_a_card_reboots_itself_is_decided_once_for_an_attempt(
    install: dict[str, Any] | None, attempt: int, alone: bool
) -> None:
    subject = dpu(status={"install": install} if install is not None else None)
    skipping = host(annotations={ANNOTATION_REBOOT_COMMAND: "skip"})
    assert resets_itself(subject, skipping, None, attempt) is alone
