"""What is decided for a DPU: what its phase says, and around it what holds in every phase."""

from __future__ import annotations

from dpf.provisioning.dpu.cardowner import yielded
from dpf.provisioning.dpu.machine import Decide
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.phases import PHASES
from dpf.provisioning.dpu.steps import Hold, Step
from dpf.provisioning.dpu.upkeep import cut_off, kept_up
from dpf_api.dpu import Phase


def deciding(phase: Phase) -> Decide:
    """What decides in a phase."""

    def decide(seen: Seen) -> Step:
        step = yielded(seen) or cut_off(seen) or PHASES[phase](seen)
        return kept_up(step, seen) if isinstance(step, Hold) else step

    return decide
