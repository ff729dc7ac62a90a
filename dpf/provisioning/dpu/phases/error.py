"""Error: provisioning has failed for good. The host is given back; deleting the DPU is the way out."""

from __future__ import annotations

from dpf.provisioning.dpu import effects
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Act, Hold, Step, waits
from dpf_api.dpu import ConditionType

READY = ConditionType.READY


def decide(seen: Seen) -> Step:
    if effects.to_undo(seen):
        return Act(effects.undo, READY, "NodeEffectError")
    failed = next((c for c in reversed(seen.dpu.status.conditions) if c.status == "False"), None)
    return Hold(failed or waits(READY, "ProvisioningFailed", "delete the DPU to try again"))
