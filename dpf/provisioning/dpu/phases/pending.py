"""Pending: the image is on the shared volume."""

from __future__ import annotations

from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Advance, Hold, Step, done, waits
from dpf_api.bfb import Phase as BFBPhase
from dpf_api.dpu import ConditionType, Phase

READY = ConditionType.BFB_READY


def decide(seen: Seen) -> Step:
    bfb, name = seen.bfb, seen.dpu.spec.bfb
    if bfb is None:
        message = f"no BFB {name!r} in namespace {seen.dpu.namespace}; create it"
        return Hold(waits(READY, "GetBFBFailed", message))
    if bfb.status.phase is BFBPhase.READY and not bfb.deleting:
        return Advance(Phase.DMS_DEPLOYMENT, (done(READY),))
    if bfb.status.phase is BFBPhase.ERROR:
        message = f"BFB {name} can't be downloaded: {bfb.status.message or bfb.status.reason or 'see its events'}"
        return Hold(waits(READY, "BFBFailed", message))
    return Hold(waits(READY, "BFBNotReady", f"waiting for BFB {name} to be downloaded"))
