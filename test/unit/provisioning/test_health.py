"""Ready is health: what takes it away, what is only said, and what is told of a card's Node."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from dpf.provisioning.dpu import dmsserver, nodehealth, podhealth
from dpf.provisioning.dpu.phases import host_network, ready
from dpf.provisioning.dpu.steps import Act, Hold
from dpf.runtime.k8s import Node, Pod
from dpf_api.dpu import ConditionType
from test.unit.provisioning.test_waits import ENDED, standing
from test.unit.provisioning.worlds import NOW, assigned, card_node, cluster, condition, pod, see

READY, DMS, NETWORK = ConditionType.READY, ConditionType.DMS_RUNNING, ConditionType.HOST_NETWORK_READY
CRASHES: dict[str, Any] = {
    "containerStatuses": [
        {
            "name": "hostnetwork",
            "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
            "lastState": {"terminated": {"exitCode": 1, "message": "no virtual functions"}},
        }
    ]
}


def settled(*, gone: Any = (), ago: Any = 0.0, **around: Any) -> Hold | Act:
    """What is decided of a DPU that was Ready, in a world that is fine but for what is given."""
    conditions = [condition(kind, kind not in gone, ago=ago) for kind in (DMS, NETWORK, READY)]
    subject = assigned(status={"phase": "Ready", "conditions": conditions})
    fine = {"dms_pod": pod("d1-dms"), "hostnetwork_pod": pod("d1-hostnetwork"), "dpu_node": card_node(a="1")}
    step = ready.decide(see(subject, **(fine | around)))
    assert isinstance(step, Hold | Act)
    return step


def said(step: Hold | Act) -> dict[str, tuple[str, str]]:
    """Status and reason of every condition that is set."""
    conditions = (*step.also, *((step.condition,) if isinstance(step, Hold) else ()))
    return {each.type: (each.status, each.reason) for each in conditions}


def message(step: Hold | Act, kind: ConditionType) -> str:
    conditions = (*step.also, *((step.condition,) if isinstance(step, Hold) else ()))
    text: str = next(each.message for each in conditions if each.type == kind.value)
    return text


def test_a_healthy_dpu_has_nothing_new_to_say() -> None:
    step = settled()
    assert said(step) == {"Ready": ("True", "Because")}
    assert isinstance(step, Hold)
    assert step.after is None


def test_a_host_network_that_crash_loops_takes_ready_away_and_names_pod_and_container() -> None:
    step = settled(hostnetwork_pod=pod("d1-hostnetwork", ready=False, **CRASHES))
    assert said(step) == {
        "HostNetworkReady": ("False", "HostNetworkNotReady"),
        "Ready": ("False", "HostNetworkNotReady"),
    }
    for word in ("container hostnetwork of pod d1-hostnetwork", "CrashLoopBackOff", "no virtual functions"):
        assert word in message(step, READY)


def test_ready_comes_back_with_the_host_network() -> None:
    step = settled(gone=(READY, NETWORK))
    assert said(step) == {"HostNetworkReady": ("True", "HostNetworkReady"), "Ready": ("True", "DPUNodeReady")}


def test_a_dms_that_does_not_run_is_said_and_takes_no_service_away() -> None:
    crashed: dict[str, Any] = {
        "containerStatuses": [{"name": "dms", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]
    }
    step = settled(dms_pod=pod("d1-dms", ready=False, **crashed))
    assert said(step) == {"DMSRunning": ("False", "DMSPodNotRunning"), "Ready": ("True", "Because")}
    assert "container dms" in message(step, DMS)
    assert said(settled(gone=(DMS,)))["DMSRunning"] == ("True", "DMSRunning")


def test_a_dms_that_only_starts_is_trouble_after_its_time() -> None:
    starting = pod("d1-dms", ready=False)
    first = settled(dms_pod=starting)
    assert said(first)["DMSRunning"] == ("False", "DMSPodStarting")
    assert isinstance(first, Hold)
    assert first.after == 300.0
    late = settled(gone=(DMS,), ago=301, dms_pod=starting)
    assert said(late)["DMSRunning"] == ("False", "DMSPodNotRunning")
    assert isinstance(late, Hold)
    assert late.after is None


def test_a_dms_that_starts_again_is_not_talked_about_for_a_moment() -> None:
    """As behind each reboot of its host."""

    def since(seconds: float) -> dict[str, Any]:
        moment = (NOW - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
        return {"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": moment}]}

    at_first = settled(dms_pod=pod("d1-dms", ready=False, **since(5)))
    assert "DMSRunning" not in said(at_first)
    assert isinstance(at_first, Hold)
    assert at_first.after == ready.RESTART - 5
    later = settled(dms_pod=pod("d1-dms", ready=False, **since(ready.RESTART)))
    assert said(later)["DMSRunning"] == ("False", "DMSPodStarting")


def test_a_host_that_goes_down_is_the_reason_and_not_its_pods() -> None:
    down: dict[str, Any] = {"node": standing(ready=False, ago=5)}
    pods: dict[str, Any] = {
        "dms_pod": pod("d1-dms", ready=False),
        "hostnetwork_pod": pod("d1-hostnetwork", ready=False),
    }
    assert said(settled(**down, **pods)) == {
        "DMSRunning": ("False", "HostNotReady"),
        "HostNetworkReady": ("False", "HostNetworkNotReady"),
        "Ready": ("False", "HostNotReady"),
    }
    assert said(settled(**down)) == {"Ready": ("True", "Because")}, "as long as its pods are said to be ready"


def test_a_host_whose_node_is_gone_is_no_place_for_pods() -> None:
    step = settled(node=None, dms_pod=None, hostnetwork_pod=None)
    assert isinstance(step, Hold)
    assert said(step)["Ready"] == ("False", "NodeNotFound")


def test_the_cards_node_comes_first() -> None:
    bad: dict[str, Any] = {
        "hostnetwork_pod": pod("d1-hostnetwork", ready=False),
        "dpu_node": card_node(ready=False, a="1"),
    }
    assert said(settled(**bad))["Ready"] == ("False", "DPUNodeNotReady")
    away = settled(**bad, away="refused")
    assert said(away)["Ready"] == ("False", "DPUClusterClientGetError")
    assert isinstance(away, Hold)
    assert away.cluster == "ns/c"


def test_the_state_is_told_even_if_a_missing_pod_can_not_be_made() -> None:
    step = settled(dms_pod=None, dpu_node=card_node(ready=False, a="1"))
    assert isinstance(step, Act)
    assert (step.do, step.condition) == (dmsserver.create, DMS)
    assert said(step) == {"DMSRunning": ("False", "DMSPodMissing"), "Ready": ("False", "DPUNodeNotReady")}


@pytest.mark.parametrize("which", ["dms_pod", "hostnetwork_pod"])
def test_a_pod_that_has_ended_is_replaced(which: str) -> None:
    name = {"dms_pod": "d1-dms", "hostnetwork_pod": "d1-hostnetwork"}[which]
    step = settled(**{which: pod(name, ready=False, **ENDED)})
    assert isinstance(step, Act)
    assert step.do is podhealth.remove_ended
    young = pod(name, ready=False, **ENDED)
    meta = young.metadata.model_copy(update={"creation_timestamp": NOW})
    later = settled(**{which: young.model_copy(update={"metadata": meta})})
    assert isinstance(later, Hold)
    assert later.after == podhealth.PAUSE


# The card's Node


def reporting(kubelet: str = "", **conditions: str) -> Node:
    said_ = [{"type": kind, "status": status, "message": "so it is"} for kind, status in conditions.items()]
    status = {"conditions": [{"type": "Ready", "status": "True"}, *said_], "nodeInfo": {"kubeletVersion": kubelet}}
    return Node.model_validate({"metadata": {"name": "d1", "labels": {"a": "1"}}, "status": status})


def test_what_is_amiss_with_the_node_is_named_and_is_no_outage() -> None:
    step = settled(dpu_node=reporting(DiskPressure="True", MemoryPressure="False", NetworkUnavailable="True"))
    assert said(step) == {"DPUNodeHealthy": ("False", "DPUNodeUnhealthy"), "Ready": ("True", "Because")}
    text = message(step, ConditionType.DPU_NODE_HEALTHY)
    assert "node d1 reports DiskPressure: so it is; node d1 reports NetworkUnavailable" in text
    assert "MemoryPressure" not in text


def test_that_the_node_is_well_again_is_said_once() -> None:
    bad = condition(ConditionType.DPU_NODE_HEALTHY, False)
    good = condition(ConditionType.DPU_NODE_HEALTHY, True)
    fine = [condition(kind, True) for kind in (DMS, NETWORK, READY)]
    world = {"dms_pod": pod("d1-dms"), "hostnetwork_pod": pod("d1-hostnetwork"), "dpu_node": card_node(a="1")}
    steps = [
        ready.decide(see(assigned(status={"phase": "Ready", "conditions": [*fine, one]}), **world))
        for one in (bad, good)
    ]
    assert [isinstance(step, Hold) and [each.status for each in step.also] for step in steps] == [["True"], []]


@pytest.mark.parametrize(
    ("kubelet", "server", "word"),
    [
        ("v1.30.4", "v1.30.1", ""),
        ("v1.30.1", "v1.33.0+k3s1", ""),
        ("v1.29.9", "v1.33.0", "older"),
        ("v1.31.0", "v1.30.9", "newer"),
        ("v2.0.0", "v1.30.9", "newer"),
        ("v1.40.0", "v2.1.0", "older"),
        ("", "v1.30.9", ""),
        ("v1.30.9", "", ""),
        ("nightly", "v1.30.9", ""),
    ],
)
def test_a_kubelet_that_does_not_fit_its_api_server_is_told(kubelet: str, server: str, word: str) -> None:
    skew = nodehealth.kubelet_skew(kubelet, server)
    assert word in skew
    assert bool(word) == bool(skew)


def test_the_skew_is_against_the_version_that_the_cluster_runs() -> None:
    found = cluster()
    status = found.status.model_copy(update={"version": "v1.30.0"})
    step = settled(dpu_node=reporting("v1.31.0"), cluster=found.model_copy(update={"status": status}))
    assert said(step)["DPUNodeHealthy"] == ("False", "KubeletVersionSkew")


def test_a_heartbeat_is_no_reason_to_look() -> None:
    before = reporting(DiskPressure="False")
    beats = [each.model_copy(update={"last_heartbeat_time": NOW}) for each in before.status.conditions]
    after = before.model_copy(update={"status": before.status.model_copy(update={"conditions": beats})})
    assert before != after
    assert nodehealth.stands(before) == nodehealth.stands(after)
    assert nodehealth.stands(before) != nodehealth.stands(reporting(DiskPressure="True"))


@pytest.mark.parametrize(
    ("network", "what"),
    [
        (None, host_network.create),
        (pod("d1-hostnetwork", ready=False, phase="Failed"), podhealth.remove_ended),
        (pod("d1-hostnetwork"), dmsserver.create),
    ],
    ids=["missing", "ended", "there"],
)
def test_the_pod_that_service_hangs_on_does_not_wait_for_a_dms_that_can_not_be_made(
    network: Pod | None, what: object
) -> None:
    step = settled(dms_pod=None, hostnetwork_pod=network)
    assert isinstance(step, Act)
    assert step.do is what
