"""How long a control plane may take."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dpf.clustermanager.kamaji.judge import created
from dpf.clustermanager.kamaji.patience import Patience
from dpf.runtime.conditions import new
from dpf.runtime.meta import Condition
from dpf_api.dpucluster import DPUCluster
from dpf_api.kamaji import TenantControlPlane
from test.unit.clustermanager.clusters import cluster, saying

START = datetime(2026, 1, 1, tzinfo=UTC)


class Time:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def passes(self, minutes: float) -> None:
        self.now += timedelta(minutes=minutes)


@pytest.fixture
def time() -> Time:
    return Time()


def control_plane(
    status: str = "Provisioning", *, version: str = "", written: datetime | None = None
) -> TenantControlPlane:
    admin = {"secretName": "s", "lastUpdate": written}
    body = {
        "metadata": {"name": "c", "creationTimestamp": START},
        "spec": {"networkProfile": {"address": "192.0.2.1"}, "kubernetes": {"version": "v1.30.2"}},
        "status": {
            "kubernetesResources": {"version": {"status": status, "version": version}},
            "kubeconfig": {"admin": admin},
        },
    }
    return TenantControlPlane.model_validate(body)


def says(reason: str, *, since: datetime = START, status: bool = False) -> DPUCluster:
    """A cluster that has said so since then."""
    return saying(cluster(), new("Created", status, reason).model_copy(update={"last_transition_time": since}))


def judge(patience: Patience, told: DPUCluster, found: TenantControlPlane) -> tuple[Condition, float | None]:
    return patience.judge(told, found, created(told, found, data_store=True))


def test_what_is_not_ready_in_time_is_overdue_with_the_next_step_and_recovers(time: Time) -> None:
    patience = Patience(600, time)
    assert judge(patience, cluster(), control_plane())[1] == 600
    time.passes(9)
    finding, again = judge(patience, says("ClusterNotReady"), control_plane())
    assert (finding.reason, again) == ("ClusterNotReady", 60)
    time.passes(1)
    finding, again = judge(patience, says("ClusterNotReady"), control_plane())
    assert (finding.status, finding.reason, again) == ("False", "ControlPlaneOverdue", None)
    assert finding.message == (
        "waiting for TenantControlPlane c to be Ready; it is Provisioning. It takes longer than 10m: look at what its status says "
        "(kubectl describe tenantcontrolplane c -n n) and at how its pods are "
        "(kubectl describe pods -l kamaji.clastix.io/name=c -n n)"
    )
    assert judge(patience, says("ControlPlaneOverdue"), control_plane())[0].reason == "ControlPlaneOverdue"
    finding, again = judge(patience, says("ControlPlaneOverdue"), control_plane("Ready", version="v1.30.2"))
    assert (finding.status, finding.reason, again) == ("True", "Created", None)


def test_a_restart_does_not_begin_the_time_anew(time: Time) -> None:
    time.passes(7)
    assert judge(Patience(600, time), says("ClusterNotReady"), control_plane())[1] == 180


def test_time_in_which_only_a_person_could_act_does_not_count(time: Time) -> None:
    patience = Patience(600, time)
    time.passes(60 * 24)
    assert judge(patience, says("EndpointMissing"), control_plane())[1] == 600
    time.passes(4)
    assert judge(patience, says("ClusterNotReady"), control_plane())[1] == 360
    # Nor for a manager that was not there when the person did: Kamaji wrote the kubeconfig then.
    written = time.now - timedelta(minutes=3)
    assert judge(Patience(600, time), says("ClusterNotReady"), control_plane(written=written))[1] == 420


def test_one_that_served_and_does_not_come_back_is_overdue_as_well(time: Time) -> None:
    patience, down = Patience(600, time), control_plane("NotReady", version="v1.30.2")
    assert judge(patience, says("Created", status=True), down)[1] == 600
    time.passes(60)
    finding, _ = judge(patience, says("ClusterNotReady", since=time.now - timedelta(minutes=11)), down)
    assert finding.reason == "ControlPlaneOverdue"


def test_another_cluster_of_the_same_name_has_its_own_time(time: Time) -> None:
    patience = Patience(600, time)
    judge(patience, says("EndpointMissing"), control_plane())
    patience.forget(says("EndpointMissing").key)
    time.passes(11)
    assert judge(patience, says("ClusterNotReady"), control_plane())[0].reason == "ControlPlaneOverdue"
