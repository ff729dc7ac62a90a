"""Whose turn it is: of several cards of one host, which may be flashed, and for which the host may be reset.

A reset takes the host, and DMS with it, from under all of its cards, and tears a flash that one of them is at. So

* a reset is not asked for while another card is at a flash, nor while the reset for another one is under way; also one that is on
  record already waits for that, as a flash that was stuck may have gone on;
* a flash is not begun while the reset for another card is on record, or was asked for and the host has not booted since, for as
  long as that may take. The host goes on for minutes after it was asked, and an answer that is lost may have been a yes;
* a flash that has begun is gone on with, by a manager that takes over too, unless a reset was asked for: one that is only on
  record waits for it. So a flash and a reset never wait for each other;
* of several resets the one that was asked for comes first, then the one on record, then they go by name.

Nothing comes between the look at the others and what is put on record, or asked, on the strength of it: the first flash, the
record of a reset and the request are steps that are taken for one card of a host at a time (``alone``).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from dpf.provisioning.dpu import rebootpolicy
from dpf.provisioning.dpu.install import BUDGET
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Hold
from dpf.provisioning.dpu.story import ATTENTION
from dpf.provisioning.dpu.waiting import HOST_BACK, wait
from dpf.runtime.conditions import find
from dpf_api.dpu import DPU, ConditionType, Phase

REBOOT_FAILED = "RebootFailed"
"""The reason of a DPU whose host can't be rebooted, as DMS says."""
OTHER_DONE = BUDGET + HOST_BACK
"""Seconds after which the wait for another card of the host is called overdue: it may have been flashed in them, and the host
have come back for it."""


def before_flash(seen: Seen) -> DPU | None:
    """The DPU of the same host that must be done before the card is flashed: one for which the host is being reset, and if the
    flash has not begun yet one whose reset is on record."""
    begun = seen.install.started_at is not None
    for other in seen.siblings:
        if resetting(seen, other) > 0:
            return other
        if not begun and _in_line(other) and announced(other) and not issued(other) and rebootpolicy.authorised(other):
            return other
    return None


def before_reset(seen: Seen) -> DPU | None:
    """The DPU of the same host that must be done before a reset on record is asked for: one whose card is at a flash, or for which
    the host is being reset."""
    for other in seen.siblings:
        if resetting(seen, other) > 0 or (not other.deleting and _flashing(other, seen.now) > 0):
            return other
    return None


def before_announcing(seen: Seen) -> DPU | None:
    """The DPU of the same host that must be done before a reset is put on record: one that goes before it then too, one whose
    reset is on record, or the first by name of those that wait like this one."""
    if (first := before_reset(seen)) is not None:
        return first
    for other in seen.siblings:
        smaller = (other.namespace, other.name) < (seen.dpu.namespace, seen.dpu.name)
        if _in_line(other) and (announced(other) or (rebootpolicy.authorised(other) and smaller)):
            return other
    return None


def hold(seen: Seen, kind: ConditionType, other: DPU) -> Hold:
    """The wait for another card of the host."""
    held = wait(
        seen,
        kind,
        "WaitingForOtherDPU",
        f"DPU {other.name} of the same host goes first",
        limit=OTHER_DONE,
        overdue="OtherDPUOverdue",
        then=f"look at what DPU {other.name} waits for",
    )
    # Nobody tells when such a time is over, nor when it begins for a reset that is on record: a flash waits for its end.
    left = max(_flashing(other, seen.now), resetting(seen, other))
    if left <= 0 and kind is ConditionType.OS_INSTALLED:
        left = HOST_BACK
    return held if left <= 0 else replace(held, after=min(left, held.after or left))


def announced(dpu: DPU) -> bool:
    """Whether the reset that follows the DPU's installation is on record."""
    reboot = dpu.status.reboot
    return reboot is not None and reboot.id == rebootpolicy.request_id(dpu)


def stuck(dpu: DPU) -> bool:
    """Whether the DPU's installation waits for something that may not come unless somebody does something."""
    said = find(dpu.status.conditions, ConditionType.OS_INSTALLED.value)
    return said is not None and said.status == "False" and said.reason in ATTENTION


def resetting(seen: Seen, dpu: DPU) -> float:
    """Seconds for which the host may still be at a reset that was asked for the DPU's card; 0 if it is at none.

    That DPU may be deleted meanwhile: it stays until then, and its DMS with it: see ``deleting``. Nobody asks for it any more, and
    whether somebody did just before is not known.
    """
    reboot, install = dpu.status.reboot, dpu.status.install
    if dpu.status.phase not in (Phase.REBOOTING, Phase.DELETING) or not announced(dpu):
        return 0.0
    said = find(dpu.status.conditions, ConditionType.REBOOTED.value)
    if said is not None and said.reason == REBOOT_FAILED:
        return 0.0
    asked_at = reboot.issued_at or dpu.metadata.deletion_timestamp if reboot is not None else None
    if asked_at is None or install is None or install.boot_id != seen.boot_id:
        return 0.0
    return max(0.0, HOST_BACK - (seen.now - asked_at).total_seconds())


def _in_line(dpu: DPU) -> bool:
    """Whether the DPU is there for its host's reset."""
    return dpu.status.phase is Phase.REBOOTING and not dpu.deleting


def issued(dpu: DPU) -> bool:
    """Whether a reset was asked for the DPU's card, as far as that is on record."""
    return dpu.status.reboot is not None and dpu.status.reboot.issued_at is not None


def _flashing(dpu: DPU, at: datetime) -> float:
    """Seconds for which the DPU's card may still be at an installation; 0 if it is at none.

    A DPU that waits for something else, for its image or flavor is gone or its DPU cluster away, had its card flashed by an
    earlier manager, if at all; and no installation takes longer than its budget.
    """
    install = dpu.status.install
    if dpu.status.phase is not Phase.OS_INSTALLING or install is None or install.started_at is None:
        return 0.0
    if not stuck(dpu):
        return BUDGET
    return max(0.0, BUDGET - (at - install.started_at).total_seconds())
