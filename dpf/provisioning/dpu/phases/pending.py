"""Pending: the image is on the shared volume."""

from __future__ import annotations

from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Advance, Hold, Step, done, waits
from dpf.provisioning.dpu.waiting import wait
from dpf_api.bfb import Phase as BFBPhase
from dpf_api.dpu import ConditionType, Phase

READY = ConditionType.BFB_READY


def decide(seen: Seen) -> Step:
    bfb = seen.bfb
    if bfb is not None and bfb.status.phase is BFBPhase.READY and not bfb.deleting:
        return Advance(Phase.DMS_DEPLOYMENT, (done(READY),))
    return image(seen, READY)


def image(seen: Seen, kind: ConditionType) -> Hold:
    """The wait for the image."""
    bfb, name = seen.bfb, seen.dpu.spec.bfb
    if bfb is None:
        return Hold(waits(kind, "GetBFBFailed", f"no BFB {name!r} in namespace {seen.dpu.namespace}; create it"))
    if bfb.status.phase is BFBPhase.ERROR:
        message = f"BFB {name} can't be downloaded: {bfb.status.message or bfb.status.reason or 'see its events'}"
        return Hold(waits(kind, "BFBFailed", message))
    return wait(
        seen,
        kind,
        "BFBNotReady",
        f"waiting for BFB {name} to be downloaded",
        limit=seen.settings.image_timeout,
        overdue="BFBOverdue",
        then=f"`kubectl describe bfb {name}` shows how far it is",
        since=(bfb.metadata.creation_timestamp,),
    )
