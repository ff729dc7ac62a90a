"""What ``dpfctl wait`` understands of what it sees."""

from __future__ import annotations

import argparse

import pytest

from dpf.ctl.kinds import CONDITIONS, PHASES
from dpf.ctl.wait import Progress, failures, goal_of, may_have_failed, ready, seconds, state_of
from dpf.runtime.errors import ConfigError
from dpf.runtime.meta import Object
from dpf_api.bfb import BFB
from dpf_api.dpu import DPU
from dpf_api.dpucluster import DPUCluster
from dpf_api.dpuset import DPUSet
from dpf_api.names import ANNOTATION_RETRY
from test.unit.ctl.objects import condition, dpu, dpuset

BROKEN = {"phase": "Error", "message": "write\nerror"}


def test_an_object_is_done_once_and_tells_it_once() -> None:
    one, two = dpu("a"), dpu("b", ready=False)
    progress = Progress([one.key, two.key], ready)
    assert progress.seen(two) == "[0/2] b-0000-04-00: Pending"
    assert progress.seen(two) == ""
    assert progress.seen(one) == "[1/2] a-0000-04-00: done"
    assert progress.seen(one) == ""
    assert progress.open_keys() == [two.key]


def test_objects_that_nobody_asked_for_are_no_news() -> None:
    assert Progress([dpu("a").key], ready).seen(dpu("b")) == ""


def test_an_object_in_error_counts_as_failed_until_it_leaves_it() -> None:
    progress = Progress([dpu("a").key], ready)
    progress.seen(dpu("a", status=BROKEN))
    assert progress.failed == {dpu("a").key: "Error: write error"}
    progress.seen(dpu("a", ready=False))
    assert not progress.failed


def test_an_object_that_is_tried_again_has_not_failed_until_it_fails_again() -> None:
    asked = dpu("a", status=BROKEN, annotations={ANNOTATION_RETRY: "me"})
    progress = Progress([asked.key], ready)
    assert progress.seen(asked) == "[0/1] a-0000-04-00: is tried again; was in Error: write error"
    assert not progress.failed
    progress.seen(dpu("a", status=BROKEN | {"retry": {"count": 1, "pending": True}}))
    assert not progress.failed
    progress.seen(dpu("a", ready=False))
    progress.seen(dpu("a", status=BROKEN | {"retry": {"count": 1}}))
    assert list(progress.failed) == [asked.key]


@pytest.mark.parametrize("goal", ["ready", "deleted"])
def test_an_object_in_error_that_is_being_deleted_is_on_its_way_and_has_not_failed(goal: str) -> None:
    leaving = dpu("a", status=BROKEN, deletionTimestamp="2026-01-01T00:00:00Z")
    progress = Progress([leaving.key], goal_of(goal, DPU))
    progress.seen(dpu("a", status=BROKEN))
    assert list(progress.failed) == [leaving.key]
    assert progress.seen(leaving) == "[0/1] a-0000-04-00: Deleting"
    assert not progress.failed


def test_deletion_is_what_was_waited_for_or_not() -> None:
    key = dpu("a").key
    wanted, unwanted = Progress([key], goal_of("deleted", DPU)), Progress([key], ready)
    assert wanted.seen(dpu("a")) == "[0/1] a-0000-04-00: Ready"
    for progress in (wanted, unwanted):
        assert progress.vanished(key) == "[1/1] a-0000-04-00: deleted"
    assert (wanted.gone, unwanted.gone) == ([], [key])


def test_goals_are_phases_and_conditions_too() -> None:
    for text, met in (
        *(("phase=pending", True), ("phase=ready", False), ("condition=Ready=False", True)),
        *(("condition=ready=false", True), ("condition=Ready", False)),
    ):
        goal = goal_of(text, DPU)
        assert goal is not None
        assert goal(dpu("a", ready=False)) is met
    with pytest.raises(ConfigError, match="write ready, deleted"):
        goal_of("happiness", DPU)


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        (
            "phase=Bogus",
            BFB,
            "a BFB has no phase 'Bogus'; choose from Initializing, Downloading, Ready, Deleting, Error",
        ),
        ("phase=OS", DPU, "a DPU has no phase 'OS'; choose from Initializing, Node Effect, Pending, DMS Deployment"),
        ("phase=Ready", DPUSet, "a DPUSet has no phase 'Ready'"),
        ("condition=Nope", BFB, "a BFB has no condition 'Nope'; choose from Downloaded, Ready"),
        ("condition=Nope=False", DPUSet, "a DPUSet has no condition 'Nope'; choose from Ready, Progressing"),
        ("condition=BFBready", DPUCluster, "a DPUCluster has no condition 'BFBready'; choose from Created, Ready"),
        ("condition=Ready=Maybe", DPU, "no condition is 'Maybe'; choose from True, False, Unknown"),
        ("condition=Ready=", DPU, "no condition is ''; choose from True, False, Unknown"),
    ],
)
def test_what_a_kind_never_comes_to_is_refused_with_what_it_does(text: str, kind: type[Object], says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        goal_of(text, kind)
    assert str(raised.value).startswith(says)


@pytest.mark.parametrize("kind", [DPU, BFB, DPUCluster, DPUSet])
def test_every_phase_and_condition_of_a_kind_can_be_waited_for(kind: type[Object]) -> None:
    for phase in PHASES.get(kind, ()):
        assert goal_of(f"phase={phase}", kind)
    for condition_ in CONDITIONS[kind]:
        assert goal_of(f"condition={condition_}", kind)


def test_somebody_elses_cluster_manager_has_conditions_of_its_own() -> None:
    goal = goal_of("condition=Licensed", DPUCluster, vendors=True)
    status = {"phase": "Ready", "conditions": [condition("Licensed", True)]}
    assert goal is not None
    assert goal(DPUCluster.model_validate({"metadata": {"name": "c"}, "status": status}))


def test_what_a_deletion_waits_for_is_told_as_the_tree_tells_it() -> None:
    moment = "2026-01-01T00:00:00Z"
    held = condition("Ready", False, "NodeEffectRemoval", "removing the\ntaint")
    status = {"phase": "Deleting", "reason": "NodeEffectRemoval", "conditions": [held]}
    assert state_of(dpu("a", status=status | {"message": "removing the\ntaint"}, deletionTimestamp=moment)) == (
        "Deleting: removing the taint"
    )
    assert state_of(dpu("a", status=status, deletionTimestamp=moment)) == "Deleting: removing the taint"
    assert state_of(dpu("a", status=BROKEN, deletionTimestamp=moment)) == "Deleting", "what it says is of before"
    metadata = {"name": "x", "deletionTimestamp": moment}
    in_use = {"phase": "Deleting", "reason": "InUse", "message": "3 DPUs use it"}
    assert state_of(BFB.model_validate({"metadata": metadata, "status": in_use})) == "Deleting: 3 DPUs use it"
    counted = {"replicas": 4, "readyReplicas": 3}
    assert state_of(DPUSet.model_validate({"metadata": metadata, "status": counted})) == (
        "Deleting: 3 of 4 DPUs are ready"
    )


def test_a_set_is_ready_as_it_is_specified_now() -> None:
    status = {"observedGeneration": 1, "replicas": 4, "readyReplicas": 4, "conditions": [condition("Ready", True)]}
    edited = DPUSet.model_validate({"metadata": {"name": "s", "generation": 2}, "status": status})
    assert not ready(edited)
    assert ready(edited.model_copy(update={"metadata": edited.metadata.model_copy(update={"generation": 1})}))
    assert state_of(edited) == "4 of 4 DPUs are ready"
    broken = {"replicas": 4, "readyReplicas": 3, "dpuStatistics": {"Ready": 3, "Error": 1}}
    assert state_of(DPUSet.model_validate({"metadata": {"name": "s"}, "status": broken})) == (
        "3 of 4 DPUs are ready, 1 failed"
    )


def test_a_set_may_have_failed_when_its_status_is_of_now_and_counts_dpus_in_error() -> None:
    status = {"observedGeneration": 2, "dpuStatistics": {"Error": 1}}
    meta = {"name": "s", "generation": 2}
    assert may_have_failed(DPUSet.model_validate({"metadata": meta, "status": status}))
    for other in (
        {"metadata": meta | {"generation": 3}, "status": status},
        {"metadata": meta | {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": status},
        {"metadata": meta, "status": status | {"dpuStatistics": {"Ready": 1}}},
    ):
        assert not may_have_failed(DPUSet.model_validate(other)), other
    assert not may_have_failed(dpu("a", status=BROKEN))


def test_a_set_failed_by_dpus_that_stay_in_error() -> None:
    broken = dpu("a", status=BROKEN, bfb="new")
    others = [
        dpu("b", ready=False, bfb="new"),
        dpu("c", status=BROKEN, bfb="new", annotations={ANNOTATION_RETRY: "me"}),
        dpu("d", status=BROKEN, bfb="new", deletionTimestamp="2026-01-01T00:00:00Z"),
        dpu("e", status=BROKEN, bfb="new", owner="another"),
        dpu("f", status=BROKEN, bfb="old"),
    ]
    rolling, by_hand = dpuset(bfb="new"), dpuset(bfb="new", strategy={"type": "Recreate"})
    assert failures(rolling, others) == []
    assert failures(rolling, [*others, broken]) == ["DPU a-0000-04-00: Error: write error"]
    assert failures(by_hand, others) == ["DPU f-0000-04-00: Error: write error"], "nobody makes it anew"


def test_a_set_counts_as_failed_as_long_as_its_dpus_do() -> None:
    failed = dpuset()
    progress = Progress([failed.key], ready)
    assert progress.seen(failed, ["DPU a: Error", "DPU b: Error"]) == "[0/1] set: 0 of 0 DPUs are ready"
    assert progress.failed == {failed.key: "0 of 0 DPUs are ready; DPU a: Error (and 1 more)"}
    progress.seen(failed)
    assert not progress.failed


def test_an_installation_shows_how_far_it_is() -> None:
    status = {"phase": "OS Installing", "install": {"percent": 40}, "message": "writing"}
    assert state_of(dpu("a", status=status)) == "OS Installing 40 %: writing"


def test_durations_are_as_kubectl_takes_them() -> None:
    assert [seconds(each) for each in ("90", "90s", "1h30m", "0.5m")] == [90.0, 90.0, 5400.0, 30.0]
    for wrong in ("", "soon", "5 m", "-1s"):
        with pytest.raises(argparse.ArgumentTypeError):
            seconds(wrong)
