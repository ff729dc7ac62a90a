"""What a decision says, for tests of what is decided."""

from __future__ import annotations

from typing import Any

from dpf.provisioning.dpu.steps import Advance, Hold, Step
from dpf_api.dpu import DPU, ConditionType, Phase
from test.unit.provisioning.worlds import (
    BOOT,
    assigned,
    condition,
    pod,
)


def held(step: Step) -> tuple[str, str]:
    """The condition that a wait shows: type and reason."""
    assert isinstance(step, Hold), step
    assert step.condition.status == "False"
    assert step.condition.message
    return step.condition.type, step.condition.reason


def advanced(step: Step) -> Phase:
    assert isinstance(step, Advance), step
    return step.phase


DMS = pod("d1-dms")


# Rebooting


def rebooted(name: str = "d1", *, boot: str = BOOT, reboot: dict[str, Any] | None = None, **spec_: Any) -> DPU:
    status: dict[str, Any] = {
        "phase": "Rebooting",
        "install": {"bootID": boot},
        "conditions": [condition(ConditionType.DMS_RUNNING, True)],
    }
    if reboot is not None:
        status["reboot"] = reboot
    return assigned(name, status=status, **spec_)
