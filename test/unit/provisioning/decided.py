"""What a decision says, for tests of what is decided."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from dpf.provisioning.dpu.phases import PHASES
from dpf.provisioning.dpu.steps import Act, Advance, Hold, Step
from dpf_api.dpu import DPU, ConditionType, Phase
from test.unit.provisioning.worlds import BOOT, NOW, assigned, condition, pod, see


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


# Turns of a host's cards

GOES_FIRST = "WaitingForOtherDPU"
STAMPED = {"deletion_timestamp": NOW}


def flashed(name: str = "d2", *, begun: bool) -> DPU:
    install = {"startedAt": NOW.isoformat()} if begun else {}
    conditions = [condition(ConditionType.DMS_RUNNING, True)]
    return assigned(name, status={"phase": "OS Installing", "conditions": conditions, "install": install})


def reset(name: str = "d1", ago: float | None = None, **spec: Any) -> DPU:
    """A DPU whose reset is on record, and was asked for some seconds ago."""
    record = {"id": f"uid-{name}/{BOOT}", "method": "WARM"}
    asked = {} if ago is None else {"issuedAt": (NOW - timedelta(seconds=ago)).isoformat()}
    return rebooted(name, reboot=record | asked, **spec)


def decided(subject: DPU, *siblings: DPU, **around: Any) -> Step:
    return PHASES[subject.status.phase](see(subject, dms_pod=DMS, siblings=siblings, **around))


def acts(step: Step) -> str:
    return step.do.__name__ if isinstance(step, Act) else ""


def stamped(dpu: DPU) -> DPU:
    return dpu.model_copy(update={"metadata": dpu.metadata.model_copy(update=STAMPED)})


def changed(dpu: DPU, status: Mapping[str, Any]) -> DPU:
    return dpu.model_copy(update={"status": dpu.status.model_copy(update=dict(status))})
