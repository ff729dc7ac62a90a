"""Whose a card is: of several DPUs that name one card, one has it, and the others wait and touch neither card nor host.

That is the one that has begun to flash it; else the oldest by creation time, and by uid within the same second, as two DPUSets
may make their DPUs in the same moment. A DPU that went on before it could see the older one steps back.
"""

from __future__ import annotations

from datetime import datetime

from dpf.provisioning import indexes
from dpf.provisioning.dpu import effects
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.observe import Seen, by_age
from dpf.provisioning.dpu.steps import Act, Advance, Changes, Hold, Step, waits
from dpf.runtime.k8s import Pod
from dpf_api.dpu import DPU, ConditionType, Phase

INITIALIZED = ConditionType.INITIALIZED
TAKEN = "CardTaken"
BEFORE = frozenset(
    {Phase.INITIALIZING, Phase.NODE_EFFECT, Phase.PENDING, Phase.DMS_DEPLOYMENT, Phase.OS_INSTALLING, Phase.DELETING}
)
"""Phases in which a card may not have been touched yet."""


def yielded(seen: Seen) -> Step | None:
    """What there is to do for a DPU whose card another one has; None if it has it itself."""
    if seen.dpu.status.phase not in BEFORE or begun(seen.dpu) or (owner := owner_of(seen)) is None:
        return None
    if _pods(seen) or effects.held(seen):
        return Act(step_back, INITIALIZED, TAKEN)
    if seen.dpu.status.phase is Phase.INITIALIZING:
        message = (
            f"card {seen.pci} of node {seen.dpu.spec.node_name} is DPU {owner.key}'s, which was there before; "
            "goes on when that one is deleted"
        )
        return Hold(waits(INITIALIZED, TAKEN, message))
    return Advance(Phase.INITIALIZING, changes={"conditions": []})


def owner_of(seen: Seen) -> DPU | None:
    """The other DPU that has the card; None if this one has it."""
    if not seen.pci:
        return None
    rivals = [other for other in seen.siblings if indexes.pci_of(other) == seen.pci]
    first = min(rivals, key=_rank, default=None)
    return first if first is not None and _rank(first) < _rank(seen.dpu) else None


def begun(dpu: DPU) -> bool:
    """Whether the card was asked to install something for this DPU."""
    return dpu.status.phase not in BEFORE or (
        dpu.status.install is not None and dpu.status.install.started_at is not None
    )


def _rank(dpu: DPU) -> tuple[bool, bool, datetime | None, str]:
    return (not begun(dpu), *by_age(dpu))


def _pods(seen: Seen) -> list[Pod]:
    return [pod for pod in (seen.dms_pod, seen.hostnetwork_pod) if pod is not None and not pod.deleting]


async def step_back(hands: Hands, seen: Seen) -> Changes | None:
    """Takes away what stands in the owner's way, and lets go of the host: as long as this one waits, nobody would give it back.
    Of a drain that the owner needs too, only the part in it is given up."""
    for pod in _pods(seen):
        await hands.client.delete(pod)
    return await effects.undo(hands, seen)
