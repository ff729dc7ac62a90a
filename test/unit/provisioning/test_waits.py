"""Every wait of a DPU has a deadline after which it is called overdue, or says whom it waits for."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from dpf.provisioning.dpu import dmsserver, podhealth
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.outcome import Outcome
from dpf.provisioning.dpu.phases import (
    dpu_cluster_config,
    host_network,
    node_effect,
    os_installing,
    pending,
    rebooting,
)
from dpf.provisioning.dpu.steps import Act, Advance, Hold, Step
from dpf.provisioning.dpu.story import ATTENTION
from dpf.provisioning.settings import Settings
from dpf.runtime.conditions import new, set_condition
from dpf.runtime.k8s import Node
from dpf_api.dpu import DPU, ConditionType, Install, Phase
from dpf_api.dpucluster import DPUCluster
from dpf_api.nodemaintenance import NodeMaintenance
from test.spec import spec
from test.unit.provisioning.worlds import BOOT, NOW, assigned, card_node, cluster, condition, host, image, pod, see

LIMITS = Settings(drain_timeout=600, image_timeout=600, join_timeout=600, dms_pod_timeout=300)
DRAIN = {"drain": {"automaticNodeReboot": True}}


def stamp(ago: float) -> str:
    return (NOW - timedelta(seconds=ago)).isoformat()


def waiting(phase: Phase, kind: ConditionType, ago: float, **spec_: Any) -> DPU:
    """A DPU that has said for so long that this is not done."""
    return assigned(status={"phase": phase.value, "conditions": [condition(kind, False, ago=ago)]}, **spec_)


def standing(*, ready: bool, ago: float) -> Node:
    """The host, and for how long it has been ready or not."""
    said = [{"type": "Ready", "status": "True" if ready else "Unknown", "lastTransitionTime": stamp(ago)}]
    node = host()
    status = node.status.model_dump(by_alias=True) | {"conditions": said}
    return Node.model_validate({"metadata": node.metadata.model_dump(by_alias=True), "status": status})


def told(step: Step) -> tuple[str, float | None]:
    assert isinstance(step, Hold), step
    assert step.condition.status == "False"
    return step.condition.reason, step.after


def drain(*, ago: float = 5000, deleted: bool = False, **status: Any) -> NodeMaintenance:
    meta: dict[str, Any] = {
        "name": "worker1",
        "namespace": "ns",
        "creationTimestamp": stamp(ago),
        "ownerReferences": [{"apiVersion": "v1", "kind": "DPU", "name": "d1", "uid": "uid-d1"}],
    }
    if deleted:
        meta |= {"deletionTimestamp": stamp(ago), "finalizers": ["maintenance.nvidia.com/x"]}
    requestors = [] if deleted else ["provisioning.dpu.nvidia.com"]
    wanted = {"requestorID": "dpu.nvidia.com", "nodeName": "worker1", "additionalRequestors": requestors}
    return NodeMaintenance.model_validate({"metadata": meta, "spec": wanted, "status": status})


def draining(ago: float, maintenance: NodeMaintenance) -> Step:
    subject = waiting(Phase.NODE_EFFECT, ConditionType.NODE_EFFECT_READY, ago, nodeEffect=DRAIN)
    return node_effect.decide(see(subject, maintenance=maintenance, settings=LIMITS))


def downloading(ago: float, made: float = 5000, phase: str = "Downloading") -> Step:
    bfb = image(phase)
    meta = bfb.metadata.model_copy(update={"creation_timestamp": datetime.fromisoformat(stamp(made))})
    subject = waiting(Phase.PENDING, ConditionType.BFB_READY, ago)
    return pending.decide(see(subject, bfb=bfb.model_copy(update={"metadata": meta}), settings=LIMITS))


def networking(ago: float, node: Node | None = None) -> Step:
    subject = waiting(Phase.HOST_NETWORK_CONFIGURATION, ConditionType.HOST_NETWORK_READY, ago)
    starting = pod("d1-hostnetwork", ready=False)
    return host_network.decide(see(subject, hostnetwork_pod=starting, node=node or host(), settings=LIMITS))


def following(ago: float) -> Step:
    """A DPU that has waited so long for another card of its host, which has told it to reboot."""
    install, reboot = {"bootID": BOOT}, {"id": f"uid-d0/{BOOT}", "method": "WARM"}
    other = assigned("d0", status={"phase": "Rebooting", "install": install, "reboot": reboot})
    subject = waiting(Phase.REBOOTING, ConditionType.REBOOTED, ago)
    flashed = subject.status.model_copy(update={"install": Install(boot_id=BOOT)})
    return rebooting.decide(see(subject.model_copy(update={"status": flashed}), siblings=(other,), settings=LIMITS))


def answering(ago: float) -> DPUCluster:
    """The DPU cluster, whose API server has answered for so long."""
    found = cluster()
    ready = new("Ready", True, "HealthCheckPassed").model_copy(
        update={"last_transition_time": datetime.fromisoformat(stamp(ago))}
    )
    status = found.status.model_copy(update={"conditions": set_condition((), ready)})
    return found.model_copy(update={"status": status})


def joining(ago: float, answers: float = 5000) -> Step:
    subject = waiting(Phase.DPU_CLUSTER_CONFIG, ConditionType.READY, ago)
    return dpu_cluster_config.decide(see(subject, cluster=answering(answers), settings=LIMITS))


@spec("provisioning:85")
@pytest.mark.parametrize(
    ("step", "reason", "after"),
    [
        (draining(0, drain()), "Draining", 600),
        (draining(590, drain()), "Draining", 10),
        (draining(601, drain()), "DrainOverdue", None),
        (draining(5000, drain(ago=10)), "Draining", 590),
        (draining(601, drain(deleted=True)), "DrainOverdue", None),
        (downloading(590), "BFBNotReady", 10),
        (downloading(601), "BFBOverdue", None),
        (downloading(5000, made=10), "BFBNotReady", 590),
        (downloading(601, phase="Error"), "BFBFailed", None),
        (networking(890), "Initializing", 10),
        (networking(901), "HostNetworkOverdue", None),
        (networking(901, standing(ready=True, ago=10)), "Initializing", 890),
        (following(3590), "WaitingForOtherDPU", 10),
        (following(3601), "OtherDPUOverdue", None),
        (joining(590), "DPUNodeNotReady", 10),
        (joining(601), "JoinOverdue", None),
        (joining(5000, answers=10), "DPUNodeNotReady", 590),
    ],
)
def test_a_wait_is_overdue_once_what_it_waits_for_had_its_time(step: Step, reason: str, after: float | None) -> None:
    assert told(step) == (reason, after)
    assert (after is None) == (reason in ATTENTION), "then a person is told"


def test_an_overdue_wait_ends_at_once_when_its_cause_does() -> None:
    ready = drain(conditions=[{"type": "Ready", "status": "True"}])
    assert isinstance(draining(5000, ready), Advance)
    subject = waiting(Phase.DPU_CLUSTER_CONFIG, ConditionType.READY, 5000)
    step = dpu_cluster_config.decide(see(subject, cluster=answering(5000), dpu_node=card_node(a="1"), settings=LIMITS))
    assert isinstance(step, Advance)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({}, "nothing was heard of the maintenance operator"),
        (
            {"conditions": [{"type": "Ready", "status": "False", "reason": "Cordon", "message": "at it"}]},
            "Cordon: at it",
        ),
        ({"drain": {"waitForEviction": ["a/1", "a/2", "a/3", "a/4"]}}, "a/1, a/2, a/3 and 1 more"),
    ],
)
def test_an_overdue_drain_names_what_is_in_its_way(status: dict[str, Any], words: str) -> None:
    step = draining(5000, drain(**status))
    assert isinstance(step, Hold)
    assert words in step.condition.message
    assert "longer than 10m" in step.condition.message


def test_a_drain_that_somebody_deletes_is_let_go_so_that_it_can_end() -> None:
    asked = drain(deleted=True)
    asked.spec.additional_requestors.append("provisioning.dpu.nvidia.com")
    assert isinstance(draining(0, asked), Act)


# The host is rebooted by hand, or goes down


def deployed(at: Phase, *, ago: float = 0.0, node: Node | None = None, **status: Any) -> Step | None:
    subject = waiting(at, ConditionType.DMS_RUNNING, ago)
    found = pod("d1-dms", ready=False, **status)
    return dmsserver.server(see(subject, dms_pod=found, node=node or host(), settings=LIMITS))


@pytest.mark.parametrize("phase", [Phase.DMS_DEPLOYMENT, Phase.OS_INSTALLING, Phase.REBOOTING])
def test_a_pod_is_not_given_up_for_the_time_its_host_was_down(phase: Phase) -> None:
    down = deployed(phase, ago=1000, node=standing(ready=False, ago=900))
    assert down is not None
    assert told(down) == ("HostNotReady", 900)
    back = deployed(phase, ago=1000, node=standing(ready=True, ago=10))
    assert back is not None
    assert told(back) == ("DMSPodStarting", 290)
    gone = deployed(phase, ago=1000, node=standing(ready=True, ago=301))
    assert isinstance(gone, Advance)
    assert gone.phase is Phase.ERROR


def test_a_host_that_stays_down_is_told() -> None:
    step = deployed(Phase.REBOOTING, ago=4000, node=standing(ready=False, ago=1801))
    assert step is not None
    assert told(step) == ("HostDoesNotComeBack", None)
    assert told(networking(4000, standing(ready=False, ago=1801))) == ("HostDoesNotComeBack", None)


ENDED: dict[str, Any] = {
    "phase": "Failed",
    "reason": "Terminated",
    "message": "Pod was terminated in response to imminent node shutdown.",
}


@pytest.mark.parametrize("phase", [Phase.DMS_DEPLOYMENT, Phase.OS_INSTALLING, Phase.REBOOTING])
def test_a_pod_that_a_shutdown_of_its_host_has_ended_is_replaced(phase: Phase) -> None:
    step = deployed(phase, **ENDED)
    assert isinstance(step, Act)
    assert step.do is podhealth.remove_ended


def test_it_is_replaced_while_the_card_is_flashed_and_while_the_host_network_is_set_up() -> None:
    subject = waiting(Phase.OS_INSTALLING, ConditionType.OS_INSTALLED, 0)
    flashing = os_installing.decide(see(subject, job=Outcome(), dms_pod=pod("d1-dms", ready=False, **ENDED)))
    network = host_network.decide(see(assigned(), hostnetwork_pod=pod("d1-hostnetwork", ready=False, **ENDED)))
    for step in (flashing, network):
        assert isinstance(step, Act)
        assert step.do is podhealth.remove_ended


def test_pods_that_end_at_once_are_not_made_in_a_hot_loop() -> None:
    young = pod("d1-dms", ready=False, **ENDED)
    meta = young.metadata.model_copy(update={"creation_timestamp": NOW - timedelta(seconds=5)})
    step = podhealth.anew(see(assigned()), young.model_copy(update={"metadata": meta}), ConditionType.DMS_RUNNING)
    assert told(step) == ("PodEnded", 25.0)


def test_a_pod_that_ended_by_itself_is_an_error_only_at_first() -> None:
    first = deployed(Phase.DMS_DEPLOYMENT, phase="Failed")
    assert isinstance(first, Advance)
    assert (first.phase, first.conditions[0].reason) == (Phase.ERROR, "DMSPodFailed")
    assert isinstance(deployed(Phase.REBOOTING, phase="Failed"), Act)


def test_a_reboot_by_hand_during_the_installation_is_not_taken_for_the_one_after_it() -> None:
    subject = assigned(status={"phase": "OS Installing", "install": {"version": "x", "startedAt": stamp(100)}})
    step = os_installing.decide(see(subject, node=host("boot-2"), job=Outcome(done=True)))
    assert isinstance(step, Advance)
    assert step.changes["install"].boot_id == "boot-2"


def test_a_reboot_after_it_counts_also_if_the_installation_is_only_found_done_again() -> None:
    install = {"version": "x", "startedAt": stamp(100), "finishedAt": stamp(50), "bootID": "boot-1"}
    subject = assigned(status={"phase": "OS Installing", "install": install})
    step = os_installing.decide(see(subject, node=host("boot-2"), job=Outcome(done=True)))
    assert isinstance(step, Advance)
    assert (step.changes["install"].boot_id, step.changes["install"].finished_at) == (
        "boot-1",
        NOW - timedelta(seconds=50),
    )
    found = subject.status.model_copy(update={"phase": Phase.REBOOTING, "install": step.changes["install"]})
    booted = rebooting.decide(see(subject.model_copy(update={"status": found}), node=host("boot-2")))
    assert isinstance(booted, Advance)
    assert booted.phase is Phase.HOST_NETWORK_CONFIGURATION


def test_time_is_read_off_the_condition_whatever_its_reason_was() -> None:
    subject = waiting(Phase.PENDING, ConditionType.BFB_READY, 100)
    seen: Seen = see(subject)
    assert seen.waited(ConditionType.BFB_READY) == 100.0
    assert seen.waited(ConditionType.BFB_READY, NOW - timedelta(seconds=30), None) == 30.0
    assert seen.waited(ConditionType.BFB_READY, NOW - timedelta(seconds=300)) == 100.0
    assert seen.waited(ConditionType.READY) == 0.0
    again = set_condition(subject.status.conditions, new("BFBReady", False, "BFBOverdue"))
    assert again[0].last_transition_time == subject.status.conditions[0].last_transition_time
