"""What a person is told of a DPU: an event for every change that matters, and for no other.

Events are made of what was stored before and after a write, so there is one per change however often a DPU is looked at, and none
for what another manager has told already. Each phase that is entered is told; where a milestone leads into it (an image
installed, a host booted) that is what the event is called. A wait is told if it needs a person, a loss of Ready always.
What is done to things other than the DPU is told by those who do it, see ``effects``, ``initializing`` and ``rebooting``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from dpf.provisioning.metrics import Counts
from dpf.runtime.conditions import find, is_true
from dpf.runtime.events import EventRecorder, Weight
from dpf.runtime.meta import Condition, now
from dpf.runtime.options import written
from dpf_api.dpu import DPU, ConditionType, DPUStatus, Phase

READY = ConditionType.READY.value

MILESTONES = {
    ConditionType.OS_INSTALLED.value: "Installed",
    ConditionType.REBOOTED.value: "Rebooted",
    ConditionType.HOST_NETWORK_READY.value: "HostNetworkReady",
    READY: "Ready",
}
"""What the event is called when a condition has become True."""

ATTENTION = frozenset(
    {
        "BFBDeleting",
        "BFBFailed",
        "BFBOverdue",
        "BootIDUnknown",
        "CardTaken",
        "ClientCertificateMissing",
        "DMSPodNotRunning",
        "DMSUnreachable",
        "DPUClusterClientGetError",
        "DPUClusterDeleting",
        "DPUClusterNotFound",
        "DPUClusterNotJoinable",
        "DPUClusterNotReady",
        "DPUClusterReplaced",
        "DPUClusterUnreachable",
        "DPUFlavorNotFound",
        "DPUNodeUnhealthy",
        "DPUOOBBridgeNotConfigured",
        "DeletionFailed",
        "DrainOverdue",
        "ExistingRshimInstallDetected",
        "FlavorInvalid",
        "FlavorNotChecked",
        "GetBFBFailed",
        "HostDoesNotComeBack",
        "HostNetworkOverdue",
        "InvalidRebootCommand",
        "JoinOverdue",
        "JoinTokenNotRenewed",
        "KubeletVersionSkew",
        "NodeHasNoAddress",
        "NodeLabelsInvalid",
        "NodeNameMissing",
        "NodeNotFound",
        "OtherDPUOverdue",
        "PCIAddressMissing",
        "PodsDoNotEnd",
        "VolumeFull",
        "VolumeSilent",
        "WaitingForManualPowerCycleOrReboot",
    }
)
"""Reasons of waits that may not end unless somebody does something."""


@dataclass(frozen=True)
class Told:
    """One thing to tell."""

    reason: str
    note: str
    warning: bool = False
    weight: Weight = "milestone"


def tell(events: EventRecorder, before: DPU, after: DPU, passed: Sequence[Phase] = ()) -> None:
    """Says what has changed between two stored states of a DPU.

    :param passed: phases that it went through in between, for nothing was to be waited for in them.
    """
    for each in told(before, after, passed):
        if each.warning:
            events.warning(after, each.reason, each.note, action="Provision")
        else:
            events.normal(after, each.reason, each.note, action="Provision", weight=each.weight)


def count(counts: Counts, before: DPUStatus, after: DPUStatus) -> None:
    """Counts what was brought to an end."""
    if (seconds := _installed(before, after)) is not None:
        counts.installs["success"] += 1
        counts.install_seconds.observe(seconds)
    failed = find(after.conditions, ConditionType.OS_INSTALLED.value)
    if _entered(before, after) is Phase.ERROR and failed is not None and failed.status == "False":
        counts.installs["failure"] += 1


def told(before: DPU, after: DPU, passed: Sequence[Phase] = ()) -> Iterator[Told]:
    """What there is to say, in order."""
    old, new = before.status, after.status
    phase = _entered(old, new)
    began = new.install.started_at if new.install is not None else None
    restarted = began is not None and (old.install is None or old.install.started_at != began)
    if phase is Phase.ERROR:
        failed = next((c for c in _changed(old, new) if c.status == "False"), None)
        yield Told(failed.reason, failed.message, warning=True) if failed else Told("Error", new.message, warning=True)
        return
    if phase is not None and old.phase is Phase.ERROR:
        yield Told("Retrying", f"tried again; in phase {phase.value}")
    elif phase is not None and not (restarted and phase is Phase.OS_INSTALLING):
        yield _arrival(old, after, phase, passed)
    if restarted and new.install is not None:
        yield Told("InstallStarted", f"{new.install.version} is being installed on card {new.pci_device or 'unknown'}")
    for condition in _changed(old, new):
        if condition.status == "False" and (condition.reason in ATTENTION or _lost(old, new, condition)):
            yield Told(condition.reason, condition.message, warning=True)
        elif condition.type == READY and condition.status == "True" and phase is None and new.phase is Phase.READY:
            yield Told("Recovered", condition.message or "the DPU is Ready again", weight="outcome")


def _arrival(old: DPUStatus, after: DPU, phase: Phase, passed: Sequence[Phase]) -> Told:
    """A phase was entered."""
    new = after.status
    done = [c for c in _changed(old, new) if c.status == "True" and not is_true(old.conditions, c.type)]
    milestone = next((MILESTONES[c.type] for c in reversed(done) if c.type in MILESTONES), "")
    parts = [c.message for c in done if c.message]
    if (seconds := _installed(old, new)) is not None:
        parts.append(f"it took {written(seconds)}")
    made = after.metadata.creation_timestamp
    if phase is Phase.READY and old.phase is not Phase.READY and made is not None:
        parts.append(f"{written(_since(made))} after the DPU was made")
    by_way = [each.value for each in passed if each not in (old.phase, phase)]
    parts.append(f"in phase {phase.value}" + (f", by way of {', '.join(by_way)}" if by_way else ""))
    if phase is Phase.DELETING and new.message:
        parts.append(new.message)
    weight: Weight = "outcome" if phase is Phase.READY else "milestone" if milestone else "step"
    return Told(milestone or phase.value.replace(" ", ""), "; ".join(parts), weight=weight)


def _entered(old: DPUStatus, new: DPUStatus) -> Phase | None:
    return new.phase if new.phase is not old.phase else None


def _changed(old: DPUStatus, new: DPUStatus) -> list[Condition]:
    """Conditions that have another status or reason than before."""

    def differs(condition: Condition) -> bool:
        was = find(old.conditions, condition.type)
        return was is None or (was.status, was.reason) != (condition.status, condition.reason)

    return [condition for condition in new.conditions if differs(condition)]


def _lost(old: DPUStatus, new: DPUStatus, condition: Condition) -> bool:
    """Whether a DPU that was Ready is not any more, and is not leaving either."""
    return condition.type == READY and is_true(old.conditions, READY) and new.phase is not Phase.DELETING


def _installed(old: DPUStatus, new: DPUStatus) -> float | None:
    """Seconds that the installation took which has just ended well; None if none has."""
    install, was = new.install, old.install
    if install is None or install.finished_at is None or install.started_at is None:
        return None
    if was is not None and was.finished_at == install.finished_at:
        return None
    return (install.finished_at - install.started_at).total_seconds()


def _since(moment: datetime) -> float:
    return (now() - moment).total_seconds()
