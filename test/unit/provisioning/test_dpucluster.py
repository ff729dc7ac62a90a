"""How a DPU cluster is judged, and what its static manager says of it."""

from __future__ import annotations

from typing import Any, cast

import pytest

from dpf.clustermanager.static import created
from dpf.provisioning.dpucluster.controller import DPUClusterReconciler, in_use, judge, names_no_secret
from dpf.runtime.conditions import find, new
from dpf.runtime.controller import Forgetting
from dpf.runtime.events import EventRecorder
from dpf.runtime.meta import Condition, Key
from dpf.runtime.remote import Health
from dpf_api.dpucluster import DPUCluster, Phase
from test.unit.provisioning.test_allocator import World
from test.unit.provisioning.worlds import cluster, dpu

HEALTHY = Health(ok=True, message="", version="v1.31.0")
AWAY = Health(ok=False, message="no answer in time")
CREATED = new("Created", True, "Created")


def having(*conditions: Condition, phase: str = "Creating") -> DPUCluster:
    found = cluster(phase)
    return found.model_copy(update={"status": found.status.model_copy(update={"conditions": list(conditions)})})


@pytest.mark.parametrize(
    ("conditions", "health", "phase", "reason"),
    [
        ((), HEALTHY, Phase.CREATING, "NotCreated"),
        ((new("Created", False, "EmptyKubeconfig", "set it"),), HEALTHY, Phase.CREATING, "EmptyKubeconfig"),
        ((CREATED,), HEALTHY, Phase.READY, ""),
        ((CREATED,), AWAY, Phase.NOT_READY, "HealthCheckFailed"),
        ((CREATED, new("KeepalivedReady", True, "Deployed")), HEALTHY, Phase.READY, ""),
        ((CREATED, new("KeepalivedReady", False, "PodsNotReady", "0 of 3")), HEALTHY, Phase.CREATING, "PodsNotReady"),
        ((CREATED, new("KeepalivedReady", "Unknown", "Unclear", "?")), HEALTHY, Phase.CREATING, "Unclear"),
        ((new("KeepalivedReady", True, "Deployed"),), HEALTHY, Phase.CREATING, "NotCreated"),
    ],
)
def test_a_cluster_is_ready_if_its_manager_has_made_it_and_its_server_answers(
    conditions: tuple[Condition, ...], health: Health, phase: Phase, reason: str
) -> None:
    status = judge(having(*conditions), health)
    assert (status.phase, status.reason) == (phase, reason)


def test_a_cluster_that_answers_and_that_no_card_can_join_is_not_ready() -> None:
    status = judge(having(CREATED), HEALTHY, "its CA is not known")
    ready = find(status.conditions, "Ready")
    assert ready is not None
    assert (ready.status, ready.reason, ready.message) == ("False", "DPUClusterNotJoinable", "its CA is not known")
    assert (status.phase, status.reason, status.message) == (Phase.NOT_READY, ready.reason, ready.message)
    assert judge(having(), HEALTHY, "its CA is not known").reason == "NotCreated", "what is first amiss is said first"


def test_a_cluster_that_no_manager_has_seen_says_what_to_look_for() -> None:
    message = judge(having(), HEALTHY).message
    assert f"of type {having().spec.type}" in message
    assert f"namespace {having().namespace}" in message


def test_a_ready_cluster_that_its_manager_takes_back_is_not_ready() -> None:
    lost = having(CREATED, new("KeepalivedReady", False, "PodsNotReady", "0 of 3 run"), phase="Ready")
    status = judge(lost, HEALTHY)
    assert (status.phase, status.message) == (Phase.NOT_READY, "0 of 3 run")
    ready = find(status.conditions, "Ready")
    assert ready is not None
    assert (ready.status, ready.reason) == ("False", "PodsNotReady")


@pytest.mark.parametrize("status", [True, False, "Unknown"])
def test_what_others_say_of_a_cluster_changes_nothing(status: bool | str) -> None:
    backup = new("BackedUp", status, "Nightly", "of somebody else")
    assert judge(having(CREATED, backup), HEALTHY).phase is Phase.READY
    assert backup in judge(having(CREATED, backup), HEALTHY).conditions, "and it stays there"
    waiting = judge(having(backup), HEALTHY)
    assert (waiting.phase, waiting.reason) == (Phase.CREATING, "NotCreated")


def test_a_static_cluster_is_there_once_its_kubeconfig_is_named() -> None:
    missing = created(cluster())
    assert (missing.status, missing.reason) == ("False", "EmptyKubeconfig")
    assert "spec.kubeconfig" in missing.message
    named = cluster().model_copy(update={"spec": cluster().spec.model_copy(update={"kubeconfig": "k"})})
    assert (created(named).status, created(named).reason) == ("True", "Created")


def test_a_cluster_in_use_names_a_few_of_its_dpus() -> None:
    assert "2 DPUs that were given to it: d0, d1;" in in_use([dpu(f"d{n}") for n in range(2)])
    assert "9 DPUs that were given to it: d0, d1, d2, d3, d4 ...;" in in_use([dpu(f"d{n}") for n in range(9)])


def naming(kubeconfig: str) -> DPUCluster:
    return cluster().model_copy(update={"spec": cluster().spec.model_copy(update={"kubeconfig": kubeconfig})})


def test_a_name_that_no_secret_can_have_is_not_looked_for() -> None:
    for good in ("k", "a-1.b", "0", "a" * 253):
        assert names_no_secret(naming(good)) == ""
    for wrong in ("My_Secret", "a/b", "-a", "a-", "a..b", ".a", "a,type=Opaque", "a\n", "é", "a" * 254):
        assert "delete the DPUCluster and create it anew" in names_no_secret(naming(wrong))
    assert "waiting for a cluster manager" in names_no_secret(naming(""))


class Ending:
    """The registry of remote clusters, and of kubeconfigs: what they were told to forget."""

    def __init__(self) -> None:
        self.forgotten: list[Key] = []

    async def disconnect(self, key: Key) -> None:
        self.forgotten.append(key)

    def forget(self, key: Key) -> None:
        self.forgotten.append(key)


def reconciler(world: World, ending: Ending) -> DPUClusterReconciler:
    parts: Any = ending
    return DPUClusterReconciler(world.cluster, parts, parts, world.allocator, cast("EventRecorder", None))


async def test_a_cluster_does_not_go_while_a_dpu_is_being_given_to_it() -> None:
    world, ending = World(subject := cluster()), Ending()
    world.allocator.choose(world.dpu("d1"))
    result = await reconciler(world, ending).finalize(subject)
    assert result is not None, "the assignment may be on its way"
    assert result.requeue_after is not None
    assert ending.forgotten == []
    world.put(dpu("d1", status={"message": "another write came first, so it never will be"}))
    assert await reconciler(world, ending).finalize(subject) is None
    assert ending.forgotten == [subject.key] * 2


async def test_a_cluster_does_not_go_while_a_manager_before_this_one_may_have_given_it_a_dpu() -> None:
    world, ending = World(subject := cluster()), Ending()
    given = World.given(world.dpu("d1"), subject)
    meta = given.metadata.model_copy(update={"resource_version": "100"})
    world.stored = [given.model_copy(update={"metadata": meta})]
    assert await reconciler(world, ending).finalize(subject) is not None
    assert ending.forgotten == []


async def test_a_cluster_that_went_without_its_finalizer_is_disconnected() -> None:
    ending = Ending()
    subject = reconciler(World(), ending)
    assert isinstance(subject, Forgetting)
    await subject.gone(cluster().key)
    assert ending.forgotten == [cluster().key] * 2
