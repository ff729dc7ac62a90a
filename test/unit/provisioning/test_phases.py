"""What each phase of a DPU decides."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, cast

import pytest

from dpf.provisioning.bfcfg import check
from dpf.provisioning.dpu import deleting, dmsserver, effects, needs, nodelabels
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.install import RebootFailed, Refused, Unreachable
from dpf.provisioning.dpu.outcome import Outcome, Progress
from dpf.provisioning.dpu.phases import (
    PHASES,
    dms_deployment,
    dpu_cluster_config,
    error,
    host_network,
    initializing,
    node_effect,
    os_installing,
    pending,
    ready,
    rebooting,
)
from dpf.provisioning.dpu.steps import Act, Advance, Hold, Step
from dpf.provisioning.dpu.story import ATTENTION
from dpf.provisioning.settings import Settings
from dpf_api.dpu import DPU, ConditionType, Firmware, Phase
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.names import ANNOTATION_REBOOT_COMMAND
from dpf_api.nodemaintenance import NodeMaintenance
from test.spec import spec
from test.unit.provisioning.worlds import (
    BOOT,
    NOW,
    assigned,
    card_node,
    cluster,
    condition,
    dpu,
    host,
    image,
    pod,
    see,
)


def held(step: Step) -> tuple[str, str]:
    """The condition that a wait shows: type and reason."""
    assert isinstance(step, Hold), step
    assert step.condition.status == "False"
    assert step.condition.message
    return step.condition.type, step.condition.reason


def advanced(step: Step) -> Phase:
    assert isinstance(step, Advance), step
    return step.phase


def test_every_phase_has_a_module() -> None:
    assert set(PHASES) == set(Phase)


# Initializing


@spec("provisioning:81")
def test_a_dpu_without_a_host_waits_and_says_so() -> None:
    assert held(initializing.decide(see(dpu(nodeName=""), node=None))) == ("Initialized", "NodeNotFound")


@spec("provisioning:82")
def test_a_host_without_its_bridge_is_waited_for() -> None:
    node = host()
    bare = node.model_copy(update={"metadata": node.metadata.model_copy(update={"labels": {}})})
    assert held(initializing.decide(see(dpu(), node=bare))) == ("Initialized", "DPUOOBBridgeNotConfigured")


def test_a_dpu_is_given_a_cluster_and_then_goes_on() -> None:
    assert initializing.decide(see(dpu())) == Act(initializing.assign, ConditionType.INITIALIZED, "AssignmentFailed")
    assert advanced(initializing.decide(see(assigned()))) is Phase.NODE_EFFECT


@pytest.mark.parametrize(
    ("named", "reason"), [(None, "DPUClusterNotFound"), (cluster(going=True), "DPUClusterDeleting")]
)
def test_nothing_is_begun_for_a_cluster_that_is_not_there_or_is_going(named: Any, reason: str) -> None:
    assert held(initializing.decide(see(assigned(), cluster=named))) == ("Initialized", reason)


@pytest.mark.parametrize(
    ("flavor", "reason"),
    [
        (None, "DPUFlavorNotFound"),
        ({"configFiles": [{"path": "/a", "raw": "x" * 140_000}]}, "FlavorInvalid"),
        ({"nvconfig": [{"parameters": ["PF_TOTAL_SF=1000000"]}]}, "FlavorInvalid"),
    ],
)
@pytest.mark.parametrize("effect", [{"noEffect": True}, {"drain": {}}])
def test_no_host_is_touched_for_a_flavor_that_is_not_there_or_fits_no_card(
    flavor: Any, reason: str, effect: dict[str, Any]
) -> None:
    named = DPUFlavor.model_validate({"metadata": {"name": "f"}, "spec": flavor}) if flavor is not None else None
    subject = assigned(dpuFlavor="f", nodeEffect=effect)
    if named is not None:
        asyncio.run(check.judge(named.spec))
    assert held(initializing.decide(see(subject, flavor=named))) == ("Initialized", reason)
    assert reason in ATTENTION


def test_a_flavor_that_fits_lets_it_go_on_once_it_was_looked_at() -> None:
    flavor = DPUFlavor.model_validate({"spec": {"bfcfgParameters": ["NEVER_SEEN_BEFORE=1"]}})
    seen = see(assigned(dpuFlavor="f"), flavor=flavor)
    step = initializing.decide(seen)
    assert isinstance(step, Act)
    assert step.do is needs.judge
    asyncio.run(needs.judge(cast("Hands", None), seen))
    assert advanced(initializing.decide(seen)) is Phase.NODE_EFFECT


@pytest.mark.parametrize(
    ("url", "version"),
    [
        (
            "http://x/bf-bundle-2.9.1-30_24.11_ubuntu-22.04_prod.bfb",
            "bf-bundle-2.9.1-30_24.11_ubuntu-22.04_prod",
        ),
        ("http://x/" + "a" * 80 + ".bfb", "a" * 63),
        ("http://x/we%ird.bfb", "we-ird"),
        ("http://x/image.bfb?signature=a/b.bfb", "image"),
    ],
)
def test_the_version_label_is_the_file_name_made_to_fit(url: str, version: str) -> None:
    assert nodelabels.bfb_version(url) == version


# Node Effect


def test_no_effect_passes() -> None:
    assert advanced(node_effect.decide(see(assigned()))) is Phase.PENDING
    assert advanced(node_effect.decide(see(assigned(nodeEffect={})))) is Phase.PENDING


def test_marks_are_put_on_the_node_first() -> None:
    subject = assigned(nodeEffect={"customLabel": {"busy": "yes"}})
    step = node_effect.decide(see(subject))
    assert isinstance(step, Act)
    assert step.do is effects.mark


def maintenance(**changes: Any) -> NodeMaintenance:
    body = {
        "metadata": {
            "name": "worker1",
            "namespace": "ns",
            "ownerReferences": [{"apiVersion": "v1", "kind": "DPU", "name": "d1", "uid": "uid-d1"}],
        },
        "spec": {
            "requestorID": "dpu.nvidia.com",
            "nodeName": "worker1",
            "additionalRequestors": ["provisioning.dpu.nvidia.com"],
        },
    }
    return NodeMaintenance.model_validate(body | changes)


def test_a_drain_is_asked_for_and_waited_for() -> None:
    subject = assigned(nodeEffect={"drain": {"automaticNodeReboot": True}})
    step = node_effect.decide(see(subject))
    assert isinstance(step, Act)
    assert step.do is effects.ask_for_drain
    assert held(node_effect.decide(see(subject, maintenance=maintenance()))) == ("NodeEffectReady", "Draining")
    drained = maintenance(status={"conditions": [{"type": "Ready", "status": "True"}]})
    assert advanced(node_effect.decide(see(subject, maintenance=drained))) is Phase.PENDING


def test_a_request_of_others_is_joined() -> None:
    subject = assigned(nodeEffect={"drain": {}})
    step = node_effect.decide(
        see(subject, maintenance=maintenance(spec={"requestorID": "other", "nodeName": "worker1"}))
    )
    assert isinstance(step, Act)
    assert step.do is effects.ask_for_drain


# Pending


@pytest.mark.parametrize(
    ("bfb", "reason"),
    [
        (None, "GetBFBFailed"),
        (image("Downloading"), "BFBNotReady"),
        (image("Error", "404"), "BFBFailed"),
    ],
)
def test_the_image_is_waited_for(bfb: Any, reason: str) -> None:
    assert held(pending.decide(see(assigned(), bfb=bfb))) == ("BFBReady", reason)


def test_a_ready_image_lets_it_go_on() -> None:
    assert advanced(pending.decide(see(assigned()))) is Phase.DMS_DEPLOYMENT


# DMS Deployment


def deploying(*, ago: float = 0.0, running: bool = False) -> DPU:
    conditions = [condition(ConditionType.DMS_RUNNING, running, ago=ago)]
    return assigned(status={"phase": "DMS Deployment", "conditions": conditions})


def test_dms_is_deployed_and_waited_for() -> None:
    assert isinstance(dms_deployment.decide(see(deploying())), Act)
    starting = pod("d1-dms", ready=False, phase="Pending")
    step = dms_deployment.decide(see(deploying(), dms_pod=starting))
    assert held(step) == ("DMSRunning", "DMSPodStarting")
    assert isinstance(step, Hold)
    assert step.after == 300.0


def test_a_pod_that_is_ready_lets_it_go_on() -> None:
    first = dms_deployment.decide(see(deploying(), dms_pod=pod("d1-dms")))
    assert isinstance(first, Advance)
    assert first.conditions[0].status == "True"
    assert advanced(dms_deployment.decide(see(deploying(running=True), dms_pod=pod("d1-dms")))) is Phase.OS_INSTALLING


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (
            {"containerStatuses": [{"name": "dms", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]},
            "DMSPodNotRunning",
            "ImagePullBackOff",
        ),
        (
            {
                "initContainerStatuses": [
                    {
                        "name": "rshim-preflight",
                        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                        "lastState": {"terminated": {"exitCode": 1, "message": "remove the rshim package"}},
                    }
                ]
            },
            "ExistingRshimInstallDetected",
            "remove the rshim package",
        ),
        (
            {
                "initContainerStatuses": [
                    {"name": "devlink-grace-period", "state": {"terminated": {"exitCode": 2, "message": "no devlink"}}}
                ]
            },
            "DMSPodNotRunning",
            "no devlink",
        ),
        (
            {
                "conditions": [
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node fits"}
                ]
            },
            "DMSPodStarting",
            "no node fits",
        ),
    ],
)
def test_a_pod_in_trouble_is_named_with_its_container(status: dict[str, Any], reason: str, words: str) -> None:
    step = dms_deployment.decide(see(deploying(), dms_pod=pod("d1-dms", ready=False, phase="Pending", **status)))
    assert held(step) == ("DMSRunning", reason)
    assert isinstance(step, Hold)
    assert words in step.condition.message


def test_a_pod_that_is_never_ready_is_given_up_after_its_time() -> None:
    starting = pod("d1-dms", ready=False, phase="Pending")
    step = dms_deployment.decide(see(deploying(ago=301), dms_pod=starting, settings=Settings(dms_pod_timeout=300)))
    assert advanced(step) is Phase.ERROR
    assert isinstance(step, Advance)
    assert step.conditions[0].reason == "DMSPodTimedout"


def test_a_pod_that_failed_is_an_error() -> None:
    step = dms_deployment.decide(see(deploying(), dms_pod=pod("d1-dms", ready=False, phase="Failed")))
    assert isinstance(step, Advance)
    assert (step.phase, step.conditions[0].reason) == (Phase.ERROR, "DMSPodFailed")


# OS Installing


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


# Rebooting


def rebooted(name: str = "d1", *, boot: str = BOOT, reboot: dict[str, Any] | None = None, **spec_: Any) -> DPU:
    status: dict[str, Any] = {
        "phase": "Rebooting",
        "install": {"bootID": boot},
        "conditions": [condition(ConditionType.DMS_RUNNING, True)],
    }
    if reboot is not None:
        status["reboot"] = reboot
    return assigned(name, status=status, **spec_)


DMS = pod("d1-dms")


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


def test_a_host_that_does_not_come_back_is_called_so() -> None:
    issued = (NOW - timedelta(hours=1)).isoformat()
    record = {"id": f"uid-d1/{BOOT}", "method": "WARM", "issuedAt": issued}
    assert held(rebooting.decide(see(rebooted(reboot=record)))) == ("Rebooted", "HostDoesNotComeBack")


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


def test_a_meaningless_annotation_is_named() -> None:
    node = host(annotations={ANNOTATION_REBOOT_COMMAND: "explode"})
    assert held(rebooting.decide(see(rebooted(), node=node))) == ("Rebooted", "InvalidRebootCommand")


def test_a_card_that_is_being_flashed_keeps_its_host() -> None:
    status = {"phase": "OS Installing", "install": {"startedAt": NOW.isoformat()}}
    sibling = assigned("d0", status=status)
    step = rebooting.decide(see(rebooted(), dms_pod=DMS, siblings=(sibling,)))
    assert held(step) == ("Rebooted", "WaitingForOtherDPU")


@pytest.mark.parametrize("reason", ["BFBFailed", "GetBFBFailed", "BFBOverdue"])
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


# Host Network Configuration, DPU Cluster Config


def test_the_host_network_is_set_up_and_waited_for() -> None:
    assert isinstance(host_network.decide(see(assigned())), Act)
    starting = pod("d1-hostnetwork", ready=False)
    assert held(host_network.decide(see(assigned(), hostnetwork_pod=starting))) == ("HostNetworkReady", "Initializing")
    up = pod("d1-hostnetwork")
    assert advanced(host_network.decide(see(assigned(), hostnetwork_pod=up))) is Phase.DPU_CLUSTER_CONFIG


def test_a_host_network_that_keeps_failing_is_given_up() -> None:
    status = {"name": "hostnetwork", "restartCount": 10, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    broken = pod("d1-hostnetwork", ready=False, containerStatuses=[status])
    step = host_network.decide(see(assigned(), hostnetwork_pod=broken))
    assert isinstance(step, Advance)
    assert (step.phase, step.conditions[0].reason) == (Phase.ERROR, "InitializationFailed")


def test_the_card_is_waited_for_then_labelled_then_ready() -> None:
    assert held(dpu_cluster_config.decide(see(assigned()))) == ("Ready", "DPUNodeNotReady")
    assert held(dpu_cluster_config.decide(see(assigned(), dpu_node=card_node(ready=False))))[1] == "DPUNodeNotReady"
    assert isinstance(dpu_cluster_config.decide(see(assigned(), dpu_node=card_node())), Act)
    step = dpu_cluster_config.decide(see(assigned(), dpu_node=card_node(a="1", other="x")))
    assert isinstance(step, Advance)
    assert (step.phase, step.conditions[0].reason) == (Phase.READY, "Ready")


def test_an_unreachable_cluster_is_named_and_parks_the_dpu() -> None:
    step = dpu_cluster_config.decide(see(assigned(), away="connection refused"))
    assert held(step) == ("Ready", "DPUClusterClientGetError")
    assert isinstance(step, Hold)
    assert step.cluster == "ns/c"


def test_a_card_that_has_joined_remembers_its_node() -> None:
    step = dpu_cluster_config.decide(see(assigned(), dpu_node=card_node(a="1", uid="n1")))
    assert isinstance(step, Advance)
    assert step.changes == {"node_uid": "n1"}


# A cluster made anew under the same name


def joined(phase: str = "Ready") -> DPU:
    conditions = [condition(ConditionType.READY, phase == "Ready")]
    install = {"clusterUID": "uid-c", "configSHA256": "x"}
    return assigned(status={"phase": phase, "conditions": conditions, "install": install, "nodeUID": "n1"})


def pods() -> dict[str, Any]:
    return {"dms_pod": DMS, "hostnetwork_pod": pod("d1-hostnetwork")}


@pytest.mark.parametrize("node", [None, card_node(a="1", uid="n2")])
@pytest.mark.parametrize("module", [ready, dpu_cluster_config])
def test_a_card_does_not_belong_to_a_namesake_of_its_cluster(module: Any, node: Any) -> None:
    step = module.decide(see(joined(), **pods(), cluster=cluster(uid="another"), dpu_node=node))
    assert held(step) == ("Ready", "DPUClusterReplaced")
    assert "delete the DPU" in step.condition.message


def test_the_same_cluster_behind_another_object_is_known_by_the_cards_node() -> None:
    around = {**pods(), "cluster": cluster(uid="another"), "dpu_node": card_node(a="1", uid="n1")}
    step = ready.decide(see(joined(), **around))
    assert isinstance(step, Hold)
    assert step.condition.status == "True"
    assert step.changes["install"].cluster_uid == "another"
    after = joined().model_copy(update={"status": joined().status.model_copy(update=dict(step.changes))})
    settled_again = ready.decide(see(after, **around))
    assert isinstance(settled_again, Hold)
    assert settled_again.changes == {}


@pytest.mark.parametrize(
    ("around", "left"),
    [
        ({"dpu_node": card_node(uid="n1")}, "DPUNodeEnding"),
        ({"away": "refused"}, "DPUClusterUnreachable"),
        ({"away": "refused", "cluster": cluster("NotReady", going=True)}, None),
        ({"away": "no answer yet", "cluster": cluster(going=True)}, "DPUClusterUnreachable"),
        ({"dpu_node": card_node(uid="n1"), "cluster": cluster(going=True)}, "DPUNodeEnding"),
        ({"dpu_node": card_node(uid="n2"), "cluster": cluster(uid="another")}, None),
        ({"dpu_node": card_node(uid="n1"), "cluster": cluster(uid="another")}, "DPUNodeEnding"),
        ({"away": "refused", "cluster": cluster(uid="another")}, None),
        ({"cluster": None}, None),
    ],
)
def test_what_a_deletion_waits_for_in_the_cluster(around: dict[str, Any], left: str | None) -> None:
    waiting = deleting.unfinished(see(joined(), **around))
    assert (waiting.condition.reason if waiting is not None else None) == left


# Ready and Error


def settled(**around: Any) -> Step:
    subject = assigned(status={"phase": "Ready", "conditions": [condition(ConditionType.READY, True)]})
    world = {"dms_pod": DMS, "hostnetwork_pod": pod("d1-hostnetwork"), "dpu_node": card_node(a="1")} | around
    return ready.decide(see(subject, **world))


def test_a_healthy_dpu_stays_as_it_is() -> None:
    step = settled()
    assert isinstance(step, Hold)
    assert (step.condition.status, step.condition.reason, step.after) == ("True", "Because", None)


@pytest.mark.parametrize("missing", ["dms_pod", "hostnetwork_pod"])
def test_a_pod_that_vanished_is_made_anew(missing: str) -> None:
    assert isinstance(settled(**{missing: None}), Act)


def test_the_state_of_the_node_is_the_state_of_the_dpu() -> None:
    assert held(settled(dpu_node=None)) == ("Ready", "DPUNodeGetError")
    assert held(settled(dpu_node=card_node(ready=False, a="1"))) == ("Ready", "DPUNodeNotReady")


def test_labels_that_drift_are_put_back() -> None:
    assert advanced(settled(dpu_node=card_node(a="2"))) is Phase.DPU_CLUSTER_CONFIG


@spec("provisioning:85")
def test_an_error_keeps_its_conditions() -> None:
    conditions = [condition(ConditionType.INITIALIZED, True), condition(ConditionType.NODE_EFFECT_READY, False)]
    step = error.decide(see(assigned(status={"phase": "Error", "conditions": conditions})))
    assert isinstance(step, Hold)
    assert step.condition.type == "NodeEffectReady"


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
    assert (step.changes["reboot"].id, step.changes["reboot"].issued_at) == (f"uid-d1/{BOOT}", None)
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
