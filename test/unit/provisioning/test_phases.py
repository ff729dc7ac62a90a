"""What each phase of a DPU decides, until its DMS answers."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from dpf.provisioning.bfcfg import check
from dpf.provisioning.dpu import effects, needs, nodelabels
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.phases import (
    PHASES,
    dms_deployment,
    initializing,
    node_effect,
    pending,
)
from dpf.provisioning.dpu.steps import Act, Advance, Hold
from dpf.provisioning.dpu.story import ATTENTION
from dpf.provisioning.settings import Settings
from dpf_api.dpu import DPU, ConditionType, Phase
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.names import LABEL_HOST
from dpf_api.nodemaintenance import NodeMaintenance
from test.spec import spec
from test.unit.provisioning.decided import advanced, held
from test.unit.provisioning.worlds import (
    assigned,
    cluster,
    condition,
    dpu,
    host,
    image,
    pod,
    see,
)


def test_every_phase_has_a_module() -> None:
    assert set(PHASES) == set(Phase)


# Initializing


def test_a_dpu_without_a_host_waits_and_says_so() -> None:
    assert held(initializing.decide(see(dpu(), node=None))) == ("Initialized", "NodeNotFound")


@spec("provisioning:81")
def test_a_dpu_that_names_no_host_is_to_be_made_anew() -> None:
    step = initializing.decide(see(dpu(nodeName=""), node=None))
    assert held(step) == ("Initialized", "NodeNameMissing")
    assert isinstance(step, Hold)
    assert "make one that has it" in step.condition.message


@pytest.mark.parametrize("subject", [dpu(), assigned()], ids=["without a cluster", "with a cluster"])
def test_a_host_is_left_alone_for_an_image_that_is_being_deleted(subject: DPU) -> None:
    step = initializing.decide(see(subject, bfb=image("Deleting", checksum="sha256:x", going=True)))
    assert held(step) == ("Initialized", "BFBDeleting")
    assert isinstance(step, Hold)
    assert "name another BFB in the DPU" in step.condition.message


def test_a_dpu_that_begins_anew_is_not_ready() -> None:
    step = initializing.decide(see(dpu(status={"conditions": [condition(ConditionType.READY, True)]})))
    assert isinstance(step, Advance)
    assert (step.phase, [(c.type, c.status) for c in step.conditions]) == (Phase.INITIALIZING, [("Ready", "False")])


@spec("provisioning:82")
def test_a_host_without_its_bridge_is_waited_for() -> None:
    node = host()
    bare = node.model_copy(update={"metadata": node.metadata.model_copy(update={"labels": {}})})
    assert held(initializing.decide(see(dpu(), node=bare))) == ("Initialized", "DPUOOBBridgeNotConfigured")


def test_a_dpu_is_given_a_cluster_and_then_goes_on() -> None:
    assert initializing.decide(see(dpu())) == Act(initializing.assign, ConditionType.INITIALIZED, "AssignmentFailed")
    assert advanced(initializing.decide(see(assigned()))) is Phase.NODE_EFFECT


def test_nothing_is_done_to_a_host_for_a_cluster_that_no_card_can_join() -> None:
    named = cluster("NotReady")
    status = named.status.model_copy(update={"reason": "DPUClusterNotJoinable", "message": "its CA is not known"})
    hold = initializing.decide(see(assigned(), cluster=named.model_copy(update={"status": status})))
    assert held(hold) == ("Initialized", "DPUClusterNotJoinable")
    assert isinstance(hold, Hold)
    assert hold.condition.message == "DPUCluster ns/c: its CA is not known"


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


@pytest.mark.parametrize("labels", [{"ü☃": "1"}, {"": "1"}, {"a": "x" * 64}])
@pytest.mark.parametrize("effect", [{"noEffect": True}, {"drain": {}}])
@pytest.mark.parametrize("name", ["", "c"])
def test_nothing_is_begun_for_labels_that_no_node_can_have(
    labels: dict[str, str], effect: dict[str, Any], name: str
) -> None:
    subject = dpu(nodeEffect=effect, cluster={"name": name, "namespace": "ns", "nodeLabels": {"a": "1"} | labels})
    step = initializing.decide(see(subject))
    assert held(step) == ("Initialized", "NodeLabelsInvalid")
    assert isinstance(step, Hold)
    [(key, _)] = labels.items()
    assert step.condition.message.startswith(f"spec.cluster.nodeLabels[{key}]: a label's ")
    assert step.condition.reason in ATTENTION


def test_the_label_with_the_host_is_made_to_fit() -> None:
    name = "worker." + "a" * 55 + ".example.com"
    found = nodelabels.missing(dpu(nodeName=name), image())
    assert found[LABEL_HOST] == name[:62]
    assert list(nodelabels.broken(found)) == []


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
        (image(going=True), "BFBDeleting"),
        (image("Deleting", checksum="sha256:x", going=True), "BFBDeleting"),
        (image("Error", "404", going=True), "BFBDeleting"),
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
