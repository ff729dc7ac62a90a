"""What is decided for a DPU whose card joins its cluster, has joined it, and leaves it."""

from __future__ import annotations

from typing import Any

import pytest

from dpf.provisioning.dpu import deleting
from dpf.provisioning.dpu.phases import (
    dpu_cluster_config,
    error,
    host_network,
    ready,
)
from dpf.provisioning.dpu.steps import Act, Advance, Hold, Step
from dpf_api.dpu import DPU, ConditionType, Phase
from test.spec import spec
from test.unit.provisioning.decided import DMS, advanced, held
from test.unit.provisioning.worlds import (
    NOW,
    assigned,
    card_node,
    cluster,
    condition,
    network,
    pod,
    see,
)

# Host Network Configuration and DPU Cluster Config


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


# Ready


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


@pytest.mark.parametrize(
    "around",
    [{"cluster": None}, {"cluster": cluster(uid="another")}, {"away": "refused"}],
    ids=["gone", "other", "away"],
)
def test_what_is_amiss_besides_the_cluster_is_said_in_its_time_too(around: dict[str, Any]) -> None:
    stopped = [{"type": "Ready", "status": "False", "lastTransitionTime": NOW.isoformat()}]
    conditions = [condition(ConditionType.DMS_RUNNING, True), condition(ConditionType.READY, True)]
    status = {"phase": "Ready", "conditions": conditions, "install": {"clusterUID": "uid-c"}}
    world: dict[str, Any] = {"dms_pod": pod("d1-dms", ready=False, conditions=stopped), "hostnetwork_pod": network()}
    step = ready.decide(see(assigned(status=status), **world | around))
    assert isinstance(step, Hold)
    assert step.after == ready.RESTART


def test_labels_that_drift_are_put_back() -> None:
    assert advanced(settled(dpu_node=card_node(a="2"))) is Phase.DPU_CLUSTER_CONFIG


@spec("provisioning:85")
def test_an_error_keeps_its_conditions() -> None:
    conditions = [condition(ConditionType.INITIALIZED, True), condition(ConditionType.NODE_EFFECT_READY, False)]
    step = error.decide(see(assigned(status={"phase": "Error", "conditions": conditions})))
    assert isinstance(step, Hold)
    assert step.condition.type == "NodeEffectReady"
