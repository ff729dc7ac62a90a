"""What is decided for a DPU whose host is rebooted, and which of several cards has its turn."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.install import RebootFailed, Unreachable
from dpf.provisioning.dpu.outcome import Outcome
from dpf.provisioning.dpu.phases import (
    rebooting,
)
from dpf.provisioning.dpu.steps import Act, Advance, Hold, Step
from dpf.runtime.errors import Waiting
from dpf.runtime.meta import Condition
from dpf_api.dpu import DPU, ConditionType, Install, Phase
from dpf_api.names import ANNOTATION_REBOOT_COMMAND
from test.unit.provisioning.decided import DMS, advanced, held, rebooted
from test.unit.provisioning.worlds import (
    BOOT,
    NOW,
    assigned,
    condition,
    host,
    pod,
    see,
)


def test_the_reboot_is_put_on_record_then_sent_then_waited_for() -> None:
    first = rebooting.decide(see(rebooted(), dms_pod=DMS))
    assert isinstance(first, Act)
    assert first.do is rebooting.announce
    record: dict[str, Any] = {"id": f"uid-d1/{BOOT}", "method": "WARM"}
    second = rebooting.decide(see(rebooted(reboot=record), dms_pod=DMS))
    assert isinstance(second, Act)
    assert second.do is rebooting.send
    record["issuedAt"] = NOW.isoformat()
    third = rebooting.decide(see(rebooted(reboot=record), dms_pod=DMS))
    assert isinstance(third, Act)
    assert third.do is rebooting.keep_an_eye
    for watched in (Outcome(), Outcome(done=True)):
        last = rebooting.decide(see(rebooted(reboot=record), dms_pod=DMS, reboot_job=watched))
        assert held(last) == ("Rebooted", "Rebooting")


def test_a_reboot_that_dms_could_not_carry_out_is_an_error_of_the_reboot() -> None:
    record = {"id": f"uid-d1/{BOOT}", "method": "WARM", "issuedAt": NOW.isoformat()}
    outcome = Outcome(done=True, error=RebootFailed("mlxfwreset: no such device"))
    step = rebooting.decide(see(rebooted(reboot=record), dms_pod=DMS, reboot_job=outcome))
    assert isinstance(step, Advance)
    [said] = step.conditions
    assert (step.phase, said.type, said.reason) == (Phase.ERROR, "Rebooted", "RebootFailed")
    assert "mlxfwreset: no such device" in said.message


def test_a_request_that_dms_does_not_answer_is_a_wait_of_its_own() -> None:
    record = {"id": f"uid-d1/{BOOT}", "method": "WARM"}
    step = rebooting.decide(see(rebooted(reboot=record), dms_pod=DMS))
    assert isinstance(step, Act)
    assert (step.condition, step.reason) == (ConditionType.REBOOTED, "DMSUnreachable")


async def test_a_request_that_dms_does_not_answer_is_sent_again_after_a_pause_that_grows() -> None:
    async def reboot(*_: Any) -> None:
        raise Unreachable("connection refused")

    hands = cast("Hands", SimpleNamespace(card=SimpleNamespace(reboot=reboot)))
    record = {"id": f"uid-d1/{BOOT}", "method": "WARM"}
    pauses = []
    for ago in (0.0, 40.0, 9000.0):
        status = rebooted(reboot=record).status
        said = Condition.model_validate(condition(ConditionType.REBOOTED, False, ago=ago))
        subject = rebooted().model_copy(update={"status": status.model_copy(update={"conditions": [said]})})
        with pytest.raises(Waiting, match="connection refused; it is tried again") as raised:
            await rebooting.send(hands, see(subject, dms_pod=DMS))
        assert raised.value.reason == "DMSUnreachable"
        pauses.append(raised.value.retry_after)
    assert pauses == [1.0, 10.0, 60.0]


def test_a_host_that_does_not_come_back_is_called_so() -> None:
    issued = (NOW - timedelta(hours=1)).isoformat()
    record = {"id": f"uid-d1/{BOOT}", "method": "WARM", "issuedAt": issued}
    seen = see(rebooted(reboot=record), reboot_job=Outcome(done=True))
    assert held(rebooting.decide(seen)) == ("Rebooted", "HostDoesNotComeBack")


def test_another_boot_id_is_the_reboot() -> None:
    step = rebooting.decide(see(rebooted(), node=host("boot-2")))
    assert isinstance(step, Advance)
    assert step.phase is Phase.HOST_NETWORK_CONFIGURATION
    assert step.conditions[0].status == "True"


def test_without_permission_a_person_is_asked() -> None:
    subject = rebooted(automaticNodeReboot=False, nodeEffect={"noEffect": True})
    expected = ("Rebooted", "WaitingForManualPowerCycleOrReboot")
    assert held(rebooting.decide(see(subject, dms_pod=DMS))) == expected
    assert advanced(rebooting.decide(see(subject, node=host("boot-2")))) is Phase.HOST_NETWORK_CONFIGURATION


def test_skip_goes_on_without_a_reboot() -> None:
    node = host(annotations={ANNOTATION_REBOOT_COMMAND: "skip"})
    assert advanced(rebooting.decide(see(rebooted(), node=node))) is Phase.HOST_NETWORK_CONFIGURATION


def test_a_card_that_was_not_told_to_reboot_itself_is_not_taken_to_have_done_so() -> None:
    subject = rebooted()
    install = Install(boot_id=BOOT, resets_itself=False)
    subject = subject.model_copy(update={"status": subject.status.model_copy(update={"install": install})})
    annotations = {ANNOTATION_REBOOT_COMMAND: "skip"}
    step = rebooting.decide(see(subject, node=host(annotations=annotations)))
    assert isinstance(step, Hold)
    assert (step.condition.reason, step.changes) == ("WaitingForManualPowerCycleOrReboot", {})
    assert "take the annotation away" in step.condition.message
    assert advanced(rebooting.decide(see(subject, node=host("boot-2", annotations=annotations)))) is (
        Phase.HOST_NETWORK_CONFIGURATION
    )


def test_a_meaningless_annotation_is_named() -> None:
    node = host(annotations={ANNOTATION_REBOOT_COMMAND: "explode"})
    assert held(rebooting.decide(see(rebooted(), node=node))) == ("Rebooted", "InvalidRebootCommand")


def test_a_card_that_is_being_flashed_keeps_its_host() -> None:
    status = {"phase": "OS Installing", "install": {"startedAt": NOW.isoformat()}}
    sibling = assigned("d0", status=status)
    step = rebooting.decide(see(rebooted(), dms_pod=DMS, siblings=(sibling,)))
    assert held(step) == ("Rebooted", "WaitingForOtherDPU")


@pytest.mark.parametrize("reason", ["BFBDeleting", "BFBFailed", "GetBFBFailed", "BFBOverdue"])
def test_a_card_whose_image_is_gone_keeps_its_host_for_as_long_as_it_may_be_flashed(reason: str) -> None:
    """An earlier manager may have begun: the card goes on by itself, but not longer than an installation may take."""

    def flashed(ago: float, said: str) -> DPU:
        install = {"startedAt": (NOW - timedelta(seconds=ago)).isoformat()}
        waits = condition(ConditionType.OS_INSTALLED, False) | {"reason": said}
        return assigned("d0", status={"phase": "OS Installing", "install": install, "conditions": [waits]})

    def step(ago: float, said: str = reason) -> Step:
        return rebooting.decide(see(rebooted(), dms_pod=DMS, siblings=(flashed(ago, said),)))

    young = step(1700)
    assert held(young) == ("Rebooted", "WaitingForOtherDPU")
    assert isinstance(young, Hold)
    assert young.after == 100, "nobody tells when that time is over"
    assert isinstance(step(1801), Act)
    assert held(step(1801, "Installing")) == ("Rebooted", "WaitingForOtherDPU"), "a manager is at it"


def test_of_two_that_wait_the_first_by_name_goes() -> None:
    first, second = rebooted("d0"), rebooted("d1")
    assert isinstance(rebooting.decide(see(first, dms_pod=DMS, siblings=(second,))), Act)
    assert held(rebooting.decide(see(second, dms_pod=DMS, siblings=(first,)))) == ("Rebooted", "WaitingForOtherDPU")


def test_one_whose_reboot_is_on_record_goes_before_one_with_a_smaller_name() -> None:
    announced = rebooted("d1", reboot={"id": f"uid-d1/{BOOT}", "method": "WARM"})
    small = rebooted("d0")
    assert held(rebooting.decide(see(small, dms_pod=DMS, siblings=(announced,)))) == ("Rebooted", "WaitingForOtherDPU")
    assert isinstance(rebooting.decide(see(announced, dms_pod=DMS, siblings=(small,))), Act)


@pytest.mark.parametrize(("method", "own_needed"), [("WARM", True), ("COLD", False)])
def test_a_warm_reset_for_another_card_does_not_count_for_this_one(method: str, own_needed: bool) -> None:
    issued = NOW.isoformat()
    sibling = rebooted("d0", reboot={"id": f"uid-d0/{BOOT}", "method": method, "issuedAt": issued})
    step = rebooting.decide(see(rebooted(), node=host("boot-2"), siblings=(sibling,)))
    assert isinstance(step, Advance)
    assert (step.phase is Phase.REBOOTING) == own_needed
    if own_needed:
        assert step.changes["install"].boot_id == "boot-2"


@pytest.mark.parametrize(("ready", "said"), [(True, ["DMSRunning", "Rebooted"]), (False, ["Rebooted"])])
def test_what_was_amiss_with_dms_is_not_said_of_one_that_runs_again(ready: bool, said: list[str]) -> None:
    """It did not, the host was rebooted by hand, and no phase looks at it until the DPU is Ready."""
    subject = rebooted()
    stale = [Condition.model_validate(condition(ConditionType.DMS_RUNNING, False))]
    subject = subject.model_copy(update={"status": subject.status.model_copy(update={"conditions": stale})})
    step = rebooting.decide(see(subject, node=host("boot-2"), dms_pod=pod("d1-dms", ready=ready)))
    assert isinstance(step, Advance)
    assert [each.type for each in step.conditions if each.status == "True"] == said
