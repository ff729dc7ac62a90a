"""Waits that have a deadline. One that can still come to a good end is not given up: it is called overdue, under a reason of its
own that is told as a warning, and ends at once when its cause does.

How long something was waited for is read off its condition, so neither a restart nor another reason begins the time anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Hold, waits
from dpf.runtime.options import written
from dpf_api.dpu import ConditionType

HOST_BACK = 1800.0
"""Seconds after which a host that is not ready, or was told to reboot, is called overdue: servers with much memory take a
quarter of an hour to boot, and some boot twice for new firmware."""

PODS_END = 300.0
"""Seconds after which a pod that is being deleted is called overdue: ten times the grace period that Kubernetes gives it."""


def wait(
    seen: Seen,
    kind: ConditionType,
    reason: str,
    message: str,
    *,
    limit: float,
    overdue: str,
    then: str,
    since: Iterable[datetime | None] = (),
) -> Hold:
    """A wait that is overdue after ``limit`` seconds.

    :param overdue: its reason from then on.
    :param then: what a person should do about it then.
    :param since: moments before which the time does not count.
    """
    left = limit - seen.waited(kind, *since)
    if left > 0:
        return Hold(waits(kind, reason, message), after=left)
    return Hold(waits(kind, overdue, f"{message}. It takes longer than {written(limit)}: {then}"))


def for_host(seen: Seen, kind: ConditionType) -> Hold | None:
    """The wait for a host that is down, by whomever it was rebooted or switched off; None if it is up, or never said."""
    if seen.node is None or not seen.host_down:
        return None
    return wait(
        seen,
        kind,
        "HostNotReady",
        f"node {seen.node.name} is not ready; goes on when it is back",
        limit=HOST_BACK,
        overdue="HostDoesNotComeBack",
        then="look at its console",
        since=(seen.host_since,),
    )
