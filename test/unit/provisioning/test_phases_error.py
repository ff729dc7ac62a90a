"""What is decided for a DPU in Error: who is tried again, and how."""

from __future__ import annotations

from typing import Any

import pytest

from dpf.provisioning.dpu import jointoken
from dpf.provisioning.dpu.phases import (
    error,
)
from dpf.provisioning.dpu.steps import Act, Advance, Hold, Step
from dpf_api.dpu import ConditionType, Phase
from test.spec import spec
from test.unit.provisioning.decided import advanced
from test.unit.provisioning.worlds import (
    BOOT,
    NOW,
    assigned,
    condition,
    host,
    pod,
    see,
)

RETRY = {"provisioning.dpu.nvidia.com/retry": "now"}


def errored(
    failed: ConditionType, *, asked: bool = False, ago: float = 0.0, done: tuple[ConditionType, ...] = (), **around: Any
) -> Step:
    retry = around.pop("retry", {"count": 0})
    conditions = [*(condition(kind, True) for kind in done), condition(failed, False, ago=ago)]
    status = {"phase": "Error", "conditions": conditions, "retry": retry, "install": {"attempt": 1, "version": "x"}}
    subject = assigned(status=status)
    if asked:
        meta = subject.metadata.model_copy(update={"annotations": RETRY})
        subject = subject.model_copy(update={"metadata": meta})
    return error.decide(see(subject, **around))


@spec("provisioning:85")
def test_a_card_that_failed_is_left_alone_until_somebody_asks() -> None:
    step = errored(ConditionType.OS_INSTALLED, ago=1e6)
    assert isinstance(step, Hold)
    assert step.after is None


def test_a_retry_is_put_on_record_before_anything_is_done_for_it() -> None:
    step = errored(ConditionType.OS_INSTALLED, asked=True)
    assert isinstance(step, Act)
    assert step.do is error.note


def test_the_annotation_and_failed_pods_go_before_a_retry_begins() -> None:
    pending_ = {"count": 1, "pending": True}
    for step in (
        errored(ConditionType.OS_INSTALLED, asked=True, retry=pending_),
        errored(ConditionType.DMS_RUNNING, dms_pod=pod("d1-dms", ready=False, phase="Failed"), retry=pending_),
    ):
        assert isinstance(step, Act)
        assert step.do is error.clear


def test_a_retry_after_a_failed_installation_is_a_new_attempt_from_the_start() -> None:
    step = errored(ConditionType.OS_INSTALLED, retry={"count": 1, "pending": True})
    assert advanced(step) is Phase.INITIALIZING
    assert isinstance(step, Advance)
    assert step.changes["install"].attempt == 2
    assert step.changes["conditions"] == []
    assert (step.changes["retry"].count, step.changes["retry"].pending) == (1, False)


def test_a_retry_behind_the_reboot_does_not_reboot_again() -> None:
    done = (ConditionType.OS_INSTALLED, ConditionType.REBOOTED)
    step = errored(ConditionType.HOST_NETWORK_READY, done=done, retry={"count": 1, "pending": True})
    assert advanced(step) is Phase.HOST_NETWORK_CONFIGURATION
    assert isinstance(step, Advance)
    assert "install" not in step.changes
    assert [each.type for each in step.changes["conditions"]] == ["OSInstalled", "Rebooted"]


def not_rebooted(boot: str, **retry: Any) -> Step:
    """A DPU whose host could not be rebooted; the host has this boot id now."""
    conditions = [condition(ConditionType.OS_INSTALLED, True), condition(ConditionType.REBOOTED, False, ago=1e6)]
    record = {"id": f"uid-d1/{BOOT}", "method": "WARM", "issuedAt": NOW.isoformat()}
    install = {"version": "x", "bootID": BOOT}
    status = {"phase": "Error", "conditions": conditions, "install": install, "reboot": record, "retry": retry}
    return error.decide(see(assigned(status=status), node=host(boot)))


def test_a_host_that_could_not_be_rebooted_is_left_alone_until_somebody_asks_or_reboots_it() -> None:
    step = not_rebooted(BOOT)
    assert isinstance(step, Hold)
    assert step.after is None
    assert isinstance(not_rebooted("boot-2"), Act)
    booted = not_rebooted("boot-2", pending=True)
    assert isinstance(booted, Advance)
    assert (booted.phase, [each.type for each in booted.changes["conditions"]]) == (Phase.REBOOTING, ["OSInstalled"])


def test_another_try_at_a_reboot_is_the_same_request_once_more() -> None:
    step = not_rebooted(BOOT, pending=True)
    assert isinstance(step, Advance)
    assert step.phase is Phase.INITIALIZING
    assert step.changes["reboot"] is None, "it failed, so it is no more on record; its id follows from DPU and host"
    assert "install" not in step.changes, "it is installed, and since which boot of the host stays on record"


def test_a_failure_that_did_not_touch_the_card_is_tried_again_later_each_time() -> None:
    step = errored(ConditionType.NODE_EFFECT_READY, ago=20.0)
    assert isinstance(step, Hold)
    assert step.after == pytest.approx(40.0)
    step = errored(ConditionType.NODE_EFFECT_READY, ago=1e6, retry={"count": 2, "lastAt": NOW.isoformat()})
    assert isinstance(step, Hold)
    assert step.after == pytest.approx(240.0)
    assert isinstance(errored(ConditionType.NODE_EFFECT_READY, ago=61.0), Act)


def test_a_host_is_not_drained_again_for_a_pod_that_did_not_start() -> None:
    step = errored(ConditionType.DMS_RUNNING, ago=1e6)
    assert isinstance(step, Act)
    status = {"phase": "Error", "conditions": [condition(ConditionType.DMS_RUNNING, False, ago=1e6)]}
    step = error.decide(see(assigned(status=status, nodeEffect={"drain": {"automaticNodeReboot": True}})))
    assert isinstance(step, Hold)
    assert step.after is None


def test_an_error_ends_when_its_cause_is_gone() -> None:
    bad, good = pod("d1-hostnetwork", ready=False), pod("d1-hostnetwork")
    assert isinstance(errored(ConditionType.HOST_NETWORK_READY, hostnetwork_pod=bad), Hold)
    assert isinstance(errored(ConditionType.HOST_NETWORK_READY, hostnetwork_pod=good), Act)
    assert isinstance(errored(ConditionType.DMS_RUNNING, dms_pod=pod("d1-dms")), Act)


@pytest.mark.parametrize(
    "kind", [ConditionType.READY, ConditionType.HOST_NETWORK_READY, ConditionType.REBOOTED, ConditionType.DMS_RUNNING]
)
def test_a_card_whose_join_token_has_ended_is_flashed_anew_once_somebody_asks_whatever_else_is_amiss(
    kind: ConditionType,
) -> None:
    """DMS did not run when the host was rebooted by hand, and may by now; the network pod does."""
    ended = condition(kind, False) | {"reason": jointoken.EXPIRED}
    others = (ConditionType.DMS_RUNNING, ConditionType.READY)
    conditions = [ended, *(condition(other, False) for other in others if other is not kind)]
    around = {"node": host("boot-2"), "dms_pod": pod("d1-dms"), "hostnetwork_pod": pod("d1-hostnetwork")}

    def step(**status: Any) -> Step:
        install = {"attempt": 1, "bootID": BOOT}
        failed = assigned(status={"phase": "Error", "conditions": conditions, "install": install} | status)
        return error.decide(see(failed, **around))

    left_alone = step()
    assert isinstance(left_alone, Hold)
    assert (left_alone.condition.reason, left_alone.after) == (jointoken.EXPIRED, None)
    again = step(retry={"count": 1, "pending": True})
    assert isinstance(again, Advance)
    assert (again.phase, again.changes["install"].attempt) == (Phase.INITIALIZING, 2)
