"""Pending: the image is on the shared volume."""

from __future__ import annotations

from dpf.provisioning.dpu import needs
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Advance, Step, done
from dpf_api.bfb import Phase as BFBPhase
from dpf_api.dpu import ConditionType, Phase

READY = ConditionType.BFB_READY


def decide(seen: Seen) -> Step:
    bfb = seen.bfb
    if bfb is not None and bfb.status.phase is BFBPhase.READY and not bfb.deleting:
        return Advance(Phase.DMS_DEPLOYMENT, (done(READY),))
    return needs.image(seen, READY)
