"""What a person is told of a DPU."""

from __future__ import annotations

from typing import Any

from dpf.provisioning.dpu.story import count, told
from dpf.provisioning.metrics import Counts
from dpf_api.dpu import DPU, ConditionType, Phase
from test.unit.provisioning.worlds import assigned

STARTED = {"version": "x.bfb", "startedAt": "2026-01-01T00:00:00Z"}
FINISHED = STARTED | {"finishedAt": "2026-01-01T00:06:12Z", "percent": 100}


def says(kind: ConditionType, status: bool, reason: str = "", message: str = "") -> dict[str, str]:
    return {"type": kind.value, "status": str(status), "reason": reason or kind.value, "message": message}


def stands(phase: Phase, *conditions: dict[str, str], **status: Any) -> DPU:
    return assigned(status={"phase": phase.value, "conditions": list(conditions), **status})


def story(before: DPU, after: DPU, *passed: Phase) -> list[tuple[str, bool]]:
    return [(each.reason, each.warning) for each in told(before, after, passed)]


def test_nothing_new_is_nothing_to_tell() -> None:
    dpu = stands(Phase.READY, says(ConditionType.READY, True), install=FINISHED)
    assert story(dpu, dpu) == []
    louder = stands(Phase.READY, says(ConditionType.READY, True, message="another"), install=FINISHED)
    assert story(dpu, louder) == []


def test_a_phase_is_told_with_those_that_were_passed_on_the_way() -> None:
    before, after = stands(Phase.INITIALIZING), stands(Phase.DMS_DEPLOYMENT)
    [entered] = told(before, after, [Phase.NODE_EFFECT, Phase.PENDING, Phase.DMS_DEPLOYMENT])
    assert (entered.reason, entered.warning) == ("DMSDeployment", False)
    assert entered.note == "in phase DMS Deployment, by way of Node Effect, Pending"


def test_an_installation_is_told_when_it_begins_and_when_it_ends_with_how_long_it_took() -> None:
    before = stands(Phase.DMS_DEPLOYMENT)
    running = stands(Phase.OS_INSTALLING, install=STARTED, pciDevice="0000-04-00")
    assert story(before, running) == [("InstallStarted", False)]
    more = stands(Phase.OS_INSTALLING, install=STARTED | {"percent": 40}, pciDevice="0000-04-00")
    assert story(running, more) == [], "progress is in the status"
    ended = stands(Phase.REBOOTING, says(ConditionType.OS_INSTALLED, True, message="x is in"), install=FINISHED)
    [told_of] = told(more, ended)
    assert told_of.reason == "Installed"
    assert told_of.note == "x is in; it took 6m12s; in phase Rebooting"


def test_installations_are_counted_once_with_their_seconds() -> None:
    counts = Counts()
    running = stands(Phase.OS_INSTALLING, install=STARTED)
    done = stands(Phase.REBOOTING, install=FINISHED)
    failed = stands(Phase.ERROR, says(ConditionType.OS_INSTALLED, False, "InstallationFailed"), install=STARTED)
    for before, after in ((running, done), (done, done), (running, failed), (failed, failed)):
        count(counts, before.status, after.status)
    assert counts.installs == {"success": 1, "failure": 1}
    assert counts.install_seconds.total == 372.0


def test_a_failure_is_a_warning_with_its_reason_and_leaving_it_is_told() -> None:
    before = stands(Phase.OS_INSTALLING, install=STARTED)
    failed = stands(Phase.ERROR, says(ConditionType.OS_INSTALLED, False, "InstallationFailed", "no"), install=STARTED)
    [told_of] = told(before, failed)
    assert (told_of.reason, told_of.note, told_of.warning) == ("InstallationFailed", "no", True)
    assert story(failed, stands(Phase.INITIALIZING)) == [("Retrying", False)]


def test_a_wait_is_told_if_it_needs_a_person() -> None:
    before = stands(Phase.REBOOTING)
    usual = stands(Phase.REBOOTING, says(ConditionType.REBOOTED, False, "Rebooting"))
    overdue = stands(Phase.REBOOTING, says(ConditionType.REBOOTED, False, "HostDoesNotComeBack"))
    assert story(before, usual) == []
    assert story(usual, overdue) == [("HostDoesNotComeBack", True)]
    assert story(overdue, overdue) == []


def test_ready_lost_and_found_again_is_told() -> None:
    ready = stands(Phase.READY, says(ConditionType.READY, True))
    lost = stands(Phase.READY, says(ConditionType.READY, False, "DPUNodeNotReady"))
    assert story(ready, lost) == [("DPUNodeNotReady", True)]
    assert story(lost, ready) == [("Recovered", False)]


def test_the_usual_wait_for_a_card_to_join_is_no_loss() -> None:
    before = stands(Phase.HOST_NETWORK_CONFIGURATION)
    joining = stands(Phase.DPU_CLUSTER_CONFIG, says(ConditionType.READY, False, "DPUNodeNotReady"))
    assert story(before, joining) == [("DPUClusterConfig", False)]


def test_deletion_that_waits_for_a_cluster_says_so() -> None:
    ready = stands(Phase.READY, says(ConditionType.READY, True))
    leaving = stands(Phase.DELETING, says(ConditionType.READY, False, "PodsEnding"))
    stuck = stands(Phase.DELETING, says(ConditionType.READY, False, "DPUClusterUnreachable"))
    assert story(ready, leaving) == [("Deleting", False)]
    assert story(leaving, stuck) == [("DPUClusterUnreachable", True)]
