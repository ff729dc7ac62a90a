"""Waits for what a DPU names and others make: its host, its image, its flavor; and for labels that its card's Node can have.

A person is told at once of what does not exist.
"""

from __future__ import annotations

from dpf.provisioning.bfcfg import check
from dpf.provisioning.dpu import nodelabels
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Act, Hold, waits
from dpf.provisioning.dpu.waiting import wait
from dpf.runtime.places import elsewhere
from dpf_api.bfb import Phase as BFBPhase
from dpf_api.dpu import DPU, ConditionType


def host_gone(dpu: DPU) -> str:
    """What is said of a host that is not in its cluster any more."""
    name = dpu.spec.node_name
    return (
        f"node {name} is gone from the host cluster; goes on when its kubelet registers it again, else delete the DPU"
    )


def image_there(seen: Seen) -> bool:
    """Whether the image is on the volume. While its BFB is being deleted it is kept for the DPUs that name it."""
    bfb = seen.bfb
    return bfb is not None and (bfb.status.phase is BFBPhase.READY or (bfb.deleting and bfb.status.checksum != ""))


def image_stays(seen: Seen, kind: ConditionType) -> Hold | None:
    """The wait for somebody to end that the image's BFB and the DPU wait for each other; None if it is not being deleted."""
    name = seen.dpu.spec.bfb
    if seen.bfb is None or not seen.bfb.deleting:
        return None
    message = (
        f"BFB {name} is being deleted and waits for the DPUs that name it; "
        "name another BFB in the DPU, or in its DPUSet, or delete the DPU"
    )
    return Hold(waits(kind, "BFBDeleting", message))


def image(seen: Seen, kind: ConditionType) -> Hold:
    """The wait for the image."""
    bfb, name = seen.bfb, seen.dpu.spec.bfb
    if bfb is None:
        return Hold(waits(kind, "GetBFBFailed", f"no BFB {name!r} in namespace {seen.dpu.namespace}; create it"))
    if (hold := image_stays(seen, kind)) is not None:
        return hold
    if bfb.status.phase is BFBPhase.ERROR:
        why = bfb.status.message or bfb.status.reason or "see its events"
        then = "It is tried again by itself; or name another BFB in the DPU, or in its DPUSet"
        message = f"BFB {name} can't be downloaded: {why}. {then}"
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


def labels(seen: Seen, kind: ConditionType) -> Hold | None:
    """The wait for labels that the card's Node can have; None if it can have all."""
    for key, rule in nodelabels.broken(seen.dpu.spec.cluster.node_labels):
        where = nodelabels.path("spec.cluster.nodeLabels", key)
        message = f"{where}: {rule}; mend it in the DPU, and in the template of its DPUSet if it has one"
        return Hold(waits(kind, "NodeLabelsInvalid", message))
    return None


def no_flavor(dpu: DPU) -> str:
    """What is said of a flavor that does not exist."""
    return f"no DPUFlavor {dpu.spec.dpu_flavor!r} in namespace {dpu.namespace}; create it"


async def judge(_: Hands, seen: Seen) -> None:
    """Finds out whether a bf.cfg can be made from the flavor.

    :raises OSError: if the shell that is asked gave no answer.
    """
    if seen.flavor is not None:
        async with elsewhere():
            await check.judge(seen.flavor.spec)


def flavor(seen: Seen, kind: ConditionType) -> Act | Hold | None:
    """The wait for a flavor that bf.cfg can be made from; None if there is one, or the DPU names none."""
    name = seen.dpu.spec.dpu_flavor
    if not name:
        return None
    if seen.flavor is None:
        return Hold(waits(kind, "DPUFlavorNotFound", no_flavor(seen.dpu)))
    if (verdict := check.known(seen.flavor.spec)) is None:
        return Act(judge, kind, "FlavorNotChecked")
    if (found := verdict.unfit) is not None:
        message = f"DPUFlavor {name}: {found}; a flavor can't be changed, so make another and name that in the DPU"
        return Hold(waits(kind, "FlavorInvalid", message))
    return None
