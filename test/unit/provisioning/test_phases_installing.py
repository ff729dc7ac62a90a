"""What is decided for a DPU whose card is flashed."""

from __future__ import annotations

from typing import Any

import pytest

from dpf.provisioning.dpu import dmsserver
from dpf.provisioning.dpu.install import Refused, Unreachable
from dpf.provisioning.dpu.outcome import Outcome, Progress
from dpf.provisioning.dpu.phases import (
    os_installing,
    rebooting,
)
from dpf.provisioning.dpu.steps import Act, Advance, Hold
from dpf_api.dpu import DPU, ConditionType, Firmware, Phase
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.names import ANNOTATION_REBOOT_COMMAND
from test.unit.provisioning.decided import DMS, advanced, held, rebooted
from test.unit.provisioning.worlds import (
    BOOT,
    NOW,
    assigned,
    cluster,
    condition,
    host,
    image,
    pod,
    see,
)


def installing(**install: Any) -> DPU:
    conditions = [condition(ConditionType.DMS_RUNNING, True)]
    return assigned(status={"phase": "OS Installing", "conditions": conditions, "install": install})


def test_a_cluster_that_is_made_anew_meanwhile_is_a_new_attempt() -> None:
    subject = installing(attempt=1, clusterUID="uid-c", configSHA256="x")
    assert held(os_installing.decide(see(subject, job=Outcome(), dms_pod=pod("d1-dms"))))[1] == "Installing"
    for job in (None, Outcome(), Outcome(done=True)):
        step = os_installing.decide(see(subject, job=job, cluster=cluster(uid="another")))
        assert isinstance(step, Act)
        assert step.do is os_installing.begin_anew


def test_an_installation_begins_once_dms_answers() -> None:
    step = os_installing.decide(see(installing(), dms_pod=pod("d1-dms")))
    assert isinstance(step, Act)
    assert step.do is os_installing.begin
    assert step.also[0].reason == "Installing", "said in the same write that puts it on record"
    missing = os_installing.decide(see(installing(), dms_pod=None))
    assert isinstance(missing, Act)
    assert missing.do is dmsserver.create


def test_a_running_installation_is_shown() -> None:
    job = Outcome(progress=Progress("installing image.bfb: 40 %", 40))
    step = os_installing.decide(see(installing(), job=job, dms_pod=pod("d1-dms", ready=False)))
    assert held(step) == ("OSInstalled", "Installing")
    assert isinstance(step, Hold)
    assert step.changes["install"].percent == 40
    assert "40 %" in step.condition.message


def test_a_dms_pod_that_is_lost_meanwhile_is_made_anew() -> None:
    step = os_installing.decide(see(installing(), job=Outcome()))
    assert isinstance(step, Act)
    assert step.do is dmsserver.create


def test_a_finished_installation_remembers_the_boot_id() -> None:
    firmware = Firmware(nic="32.43.1014")
    step = os_installing.decide(see(installing(version="image.bfb"), job=Outcome(done=True, firmware=firmware)))
    assert isinstance(step, Advance)
    assert step.phase is Phase.REBOOTING
    assert (step.changes["bfb_version"], step.changes["firmware"]) == ("image.bfb", firmware)
    assert step.changes["install"].boot_id == BOOT
    assert step.changes["install"].finished_at == NOW


def test_a_reset_is_required_from_the_flash_until_the_host_was_reset() -> None:
    flashed = os_installing.decide(see(installing(), job=Outcome(done=True)))
    by_hand = rebooting.decide(see(rebooted(automaticNodeReboot=False), dms_pod=DMS))
    reset = rebooting.decide(see(rebooted(), node=host("boot-2")))
    assert isinstance(flashed, Advance)
    assert isinstance(by_hand, Hold)
    assert isinstance(reset, Advance)
    assert flashed.changes["required_reset"] is True
    assert "required_reset" not in by_hand.changes, "what was set stays"
    assert reset.changes["required_reset"] is False


def test_a_flavor_that_wants_a_power_cycle_gets_one() -> None:
    flavor = DPUFlavor.model_validate({"spec": {"nvconfig": [{"hostPowerCycleRequired": True}]}})
    node = host(annotations={ANNOTATION_REBOOT_COMMAND: "skip"})
    assert isinstance(rebooting.decide(see(rebooted(), node=node, flavor=flavor, dms_pod=DMS)), Act)
    assert advanced(rebooting.decide(see(rebooted(), node=node))) is Phase.HOST_NETWORK_CONFIGURATION


def test_what_the_card_refuses_is_an_error_and_what_is_unreachable_is_tried_again() -> None:
    broken = os_installing.decide(see(installing(), job=Outcome(done=True, error=Refused("bad image"))))
    assert isinstance(broken, Advance)
    assert (broken.phase, broken.conditions[0].message) == (Phase.ERROR, "bad image")
    away = os_installing.decide(see(installing(), job=Outcome(done=True, error=Unreachable("refused"))))
    assert isinstance(away, Act)
    assert away.do is os_installing.try_again


def test_an_image_that_vanished_is_waited_for() -> None:
    assert held(os_installing.decide(see(installing(), bfb=None))) == ("OSInstalled", "GetBFBFailed")


@pytest.mark.parametrize("phase", ["Ready", "Deleting"])
def test_a_manager_that_takes_over_goes_on_with_an_image_that_is_kept_for_the_dpu(phase: str) -> None:
    kept = image(phase, checksum="sha256:x", going=True)
    step = os_installing.decide(see(installing(startedAt=NOW.isoformat()), bfb=kept, dms_pod=DMS))
    assert isinstance(step, Act)
    assert step.do is os_installing.begin


def test_an_image_that_was_never_there_whole_is_not_begun_with_while_its_bfb_is_deleted() -> None:
    step = os_installing.decide(see(installing(), bfb=image("Deleting", going=True), dms_pod=DMS))
    assert held(step) == ("OSInstalled", "BFBDeleting")
