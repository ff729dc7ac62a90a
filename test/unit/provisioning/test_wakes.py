"""What wakes a DPU, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from dpf.provisioning.dpu.controller import cluster_stands, dpu_stands, pod_stands
from dpf.runtime.k8s import Pod
from dpf_api.dpu import DPU, ConditionType
from test.unit.provisioning.decided import rebooted
from test.unit.provisioning.worlds import BOOT, NOW, assigned, cluster, condition, dpu, pod

STARTED = {"startedAt": NOW.isoformat()}


def unscheduled(message: str) -> Pod:
    said = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]
    return pod("d1-dms", ready=False, phase="Pending", conditions=said)


def test_a_pod_that_can_not_be_scheduled_wakes_its_dpu_with_the_reason() -> None:
    made = pod("d1-dms", ready=False, phase="Pending")
    assert pod_stands(made) != pod_stands(unscheduled("0/3 nodes are available"))
    assert pod_stands(unscheduled("0/3 nodes are available")) != pod_stands(unscheduled("no such volume claim"))
    scheduled = pod("d1-dms", ready=False, phase="Pending", conditions=[{"type": "PodScheduled", "status": "True"}])
    assert pod_stands(made) == pod_stands(scheduled), "that one is scheduled needs no look"


def failed(reason: str) -> DPU:
    said = condition(ConditionType.OS_INSTALLED, False) | {"reason": reason}
    return assigned(status={"phase": "OS Installing", "install": STARTED, "conditions": [said]})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (assigned(), assigned(status={"phase": "Pending"})),
        (assigned(), assigned(automaticNodeReboot=False)),
        (assigned(), assigned(nodeEffect={"drain": {}})),
        (assigned(), assigned(status={"install": STARTED})),
        (failed("Installing"), failed("BFBFailed")),
        (rebooted(), rebooted(reboot={"id": f"uid-d1/{BOOT}", "method": "WARM"})),
    ],
    ids=["phase", "may not be rebooted", "drains", "has begun", "is stuck", "its reset is on record"],
)
def test_a_change_that_others_of_the_host_decide_on_wakes_them(old: DPU, new: DPU) -> None:
    assert dpu_stands(old) != dpu_stands(new)


def test_a_card_that_is_given_to_another_dpu_wakes_the_others() -> None:
    other: dict[str, Any] = {"labels": {"provisioning.dpu.nvidia.com/dpu-pciAddress": "0000-05-00"}}
    before = dpu()
    assert dpu_stands(before) != dpu_stands(
        before.model_copy(update={"metadata": before.metadata.model_copy(update=other)})
    )
    leaving = before.metadata.model_copy(update={"deletion_timestamp": NOW})
    assert dpu_stands(before) != dpu_stands(before.model_copy(update={"metadata": leaving}))


def test_a_dpu_on_its_way_wakes_the_others_with_its_phases_only() -> None:
    """What else is written of a DPU that is provisioned, in each phase in which it rests."""
    at_it = {"phase": "OS Installing", "install": STARTED}
    pairs = [
        (dpu(), assigned()),
        (assigned(status=at_it), assigned(status=at_it | {"install": STARTED | {"percent": 50}})),
        (assigned(status={"phase": "Rebooting"}), assigned(status={"phase": "Rebooting", "reboot": {"id": "x"}})),
        (
            assigned(status={"phase": "Ready"}),
            assigned(status={"phase": "Ready", "certificate": {"address": "10.0.0.1"}}),
        ),
    ]
    for old, new in pairs:
        assert old != new
        assert dpu_stands(old) == dpu_stands(new)


def test_what_keeps_cards_from_joining_a_cluster_wakes_the_dpus_that_repeat_it() -> None:
    def unfit(reason: str, message: str) -> object:
        made = cluster("NotReady")
        return cluster_stands(
            made.model_copy(update={"status": made.status.model_copy(update={"reason": reason, "message": message})})
        )

    here = unfit("DPUClusterNotJoinable", "its server has a path")
    assert here != unfit("DPUClusterNotJoinable", "its CA is not known")
    assert here != unfit("HealthCheckFailed", "connection refused")
    assert unfit("HealthCheckFailed", "connection refused") == unfit("HealthCheckFailed", "it does not answer")
