"""Which cluster a DPU is given to."""

from __future__ import annotations

import orjson
import pytest

from dpf.provisioning.dpucluster.allocator import HELD_RETRY, Allocator, first_fitting
from dpf.runtime.client import Client
from dpf.runtime.cluster import Cluster
from dpf.runtime.errors import Waiting
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import Object, to_wire
from dpf_api.dpu import DPU
from dpf_api.dpucluster import DPUCluster
from test.spec import spec
from test.unit.provisioning.worlds import assigned, cluster, dpu


class World:
    """Caches that are fed by hand, and a server that lists what the test says."""

    def __init__(self, *objects: Object) -> None:
        client = Client(Kubeconfig(server="http://127.0.0.1:1"), field_owner="test")
        self.cluster = Cluster("host", client)
        self.version = 0
        self.stored: list[DPU] = []
        self.lists = 0
        self.allocator = Allocator(self.cluster)
        client.list = self._list  # type: ignore[method-assign,assignment]
        for obj in objects:
            self.put(obj)

    async def _list(self, kind: type[DPU], namespace: str) -> list[DPU]:
        self.lists += 1
        return self.stored

    def put(self, obj: Object, event: str = "MODIFIED") -> None:
        self.version += 1
        body = to_wire(obj)
        body["metadata"]["resourceVersion"] = str(self.version)
        self.cluster.cache[type(obj)].apply(event, orjson.dumps(body))

    def dpu(self, name: str) -> DPU:
        """A DPU without a cluster, as the cache has it."""
        self.put(dpu(name))
        found = self.cluster.cache[DPU].get(name, "ns")
        assert found is not None
        return found

    def assign(self, subject: DPU, to: DPUCluster) -> DPU:
        """What the assignment's write does to the cache."""
        given = self.given(subject, to)
        self.put(given)
        return given

    @staticmethod
    def given(subject: DPU, to: DPUCluster) -> DPU:
        """The DPU with its cluster."""
        reference = {"name": to.name, "namespace": to.namespace}
        return DPU.model_validate(to_wire(subject) | {"spec": to_wire(subject)["spec"] | {"cluster": reference}})

    def full(self, name: str = "other") -> bool:
        """Whether one more DPU finds no room."""
        try:
            self.allocator.choose(dpu(name))
        except Waiting as error:
            return "full" in error.message
        self.allocator.release(dpu(name))
        return False


@spec("provisioning:57", "provisioning:58")
def test_the_first_by_name_is_chosen() -> None:
    world = World(cluster(name="dc2"), cluster(name="dc1"))
    assert world.allocator.choose(dpu()).name == "dc1"


@spec("provisioning:59", "provisioning:60", "provisioning:83")
@pytest.mark.parametrize(
    ("clusters", "why"), [([], "there is none"), ([cluster("NotReady", "dc1")], "dc1 is NotReady")]
)
def test_without_a_ready_cluster_it_says_why(clusters: list[DPUCluster], why: str) -> None:
    with pytest.raises(Waiting, match=why) as raised:
        World(*clusters).allocator.choose(dpu())
    assert raised.value.reason == "DPUClusterNotReady"


@spec("provisioning:61")
def test_a_full_cluster_takes_no_more_even_before_the_first_is_written() -> None:
    world = World(cluster(max_nodes=1))
    world.allocator.choose(dpu("d1"))
    with pytest.raises(Waiting, match="full"):
        world.allocator.choose(dpu("d2"))


def test_a_full_cluster_spills_over_to_the_next() -> None:
    world = World(cluster(name="dc1", max_nodes=1), cluster(name="dc2"))
    assert [world.allocator.choose(dpu(name)).name for name in ("d1", "d2")] == ["dc1", "dc2"]


@spec("provisioning:62")
def test_a_place_that_is_free_again_is_given() -> None:
    world = World(limit := cluster(max_nodes=1))
    first = world.dpu("d1")
    given = world.assign(first, world.allocator.choose(first))
    assert world.full()
    world.put(given, "DELETED")
    assert world.allocator.choose(dpu("d2")).name == limit.name


def test_an_assignment_that_was_refused_gives_the_place_back() -> None:
    world = World(cluster(max_nodes=1))
    world.allocator.choose(world.dpu("d1"))
    world.allocator.release(dpu("d1"))
    assert not world.full()


def test_a_place_is_held_while_nobody_knows_whether_the_assignment_was_stored() -> None:
    world = World(limit := cluster(max_nodes=1))
    first = world.dpu("d1")
    world.allocator.choose(first)
    assert world.full(), "its answer was lost, and the watch is slow"
    assert world.allocator.choose(first).name == limit.name, "its own place"
    world.assign(first, limit)
    assert world.full(), "it is taken now"


def test_a_place_is_held_no_longer_than_the_assignment_can_happen() -> None:
    world = World(cluster(max_nodes=1))
    world.allocator.choose(world.dpu("d1"))
    world.put(dpu("d1", status={"message": "another write was stored, so the assignment's lock is broken"}))
    assert not world.full()
    gone = world.dpu("d1")
    world.allocator.choose(gone)
    world.put(gone, "DELETED")
    assert not world.full()


def test_a_cluster_that_goes_waits_for_an_assignment_that_is_not_seen_yet() -> None:
    world = World(one := cluster(name="dc1"), other := cluster(name="dc2"))
    first = world.dpu("d1")
    assert world.allocator.choose(first).name == "dc1"
    assert (world.allocator.users(one), world.allocator.expects(one)) == ([], True)
    assert not world.allocator.expects(other)
    world.assign(first, one)
    assert ([each.name for each in world.allocator.users(one)], world.allocator.expects(one)) == (["d1"], False)
    world.allocator.choose(world.dpu("d2"))
    world.allocator.release(dpu("d2"))
    assert not world.allocator.expects(one)


def test_a_place_that_was_given_before_the_server_was_restored_is_held_no_more() -> None:
    world = World(cluster(max_nodes=1))
    world.version = 1000
    [there] = world.cluster.cache[DPUCluster].list()
    lost = world.dpu("a")
    world.assign(lost, world.allocator.choose(lost))
    backup = to_wire(dpu("a"))
    backup["metadata"]["resourceVersion"] = "900"
    world.cluster.cache[DPU].replace([orjson.dumps(backup)], 901)
    world.version = 901
    assert not world.allocator.expects(there)
    assert world.allocator.choose(world.dpu("b")).name == there.name


def test_who_finds_only_held_places_looks_again() -> None:
    world = World(cluster(max_nodes=1))
    world.allocator.choose(world.dpu("d1"))
    with pytest.raises(Waiting) as raised:
        world.allocator.choose(dpu("d2"))
    assert raised.value.retry_after == HELD_RETRY


async def test_who_begins_to_lead_counts_what_its_cache_does_not_show_yet() -> None:
    world = World(one := cluster(max_nodes=2))
    seen = world.dpu("d1")
    stored = [World.given(seen, one), World.given(dpu("unseen"), one)]
    world.stored = [
        each.model_copy(update={"metadata": each.metadata.model_copy(update={"resource_version": version})})
        for each, version in zip(stored, ("100", "101"), strict=True)
    ]
    assert not world.full(), "as far as the cache tells"
    await world.allocator.ready()
    assert world.full()
    world.version = 99
    world.assign(seen, one)
    world.assign(dpu("unseen"), one)
    assert world.full(), "each is counted once"
    world.put(World.given(dpu("unseen"), one), "DELETED")
    assert not world.full()
    await world.allocator.ready()
    assert world.lists == 1


def test_cards_that_were_told_to_join_a_namesake_take_no_place() -> None:
    old = assigned("d1", status={"install": {"clusterUID": "another"}})
    bound = assigned("d2", status={"install": {"clusterUID": "uid-c"}})
    world = World(limit := cluster(max_nodes=2), old, bound, assigned("d3", status={"install": {"attempt": 1}}))
    assert world.allocator.assigned(limit) == 2
    assert [each.name for each in world.allocator.users(limit)] == ["d2", "d3"]
    assert world.full()


@spec("provisioning:63")
def test_a_cluster_that_becomes_ready_is_chosen() -> None:
    world = World(cluster("NotReady"))
    with pytest.raises(Waiting):
        world.allocator.choose(dpu())
    world.put(cluster("Ready"))
    assert world.allocator.choose(dpu()).name == "c"


@spec("provisioning:64", "provisioning:65", "provisioning:66")
@pytest.mark.parametrize(("limit", "fits"), [(1, False), (2, True)])
def test_after_a_restart_dpus_that_have_a_cluster_count(limit: int, fits: bool) -> None:
    world = World(cluster(max_nodes=limit), assigned("d1"))
    if fits:
        assert world.allocator.choose(dpu("d2")).name == "c"
    else:
        with pytest.raises(Waiting):
            world.allocator.choose(dpu("d2"))


def test_names_decide_before_namespaces_and_what_is_going_is_left_out() -> None:
    going = cluster(name="a")
    going = going.model_copy(update={"metadata": going.metadata.model_copy(update={"deletion_timestamp": "x"})})
    chosen = first_fitting([cluster(name="b", namespace="z"), cluster(name="b", namespace="y"), going], lambda _: 0)
    assert chosen.namespace == "y"


def test_a_dpu_that_names_a_namespace_gets_a_cluster_of_it() -> None:
    """Found by fuzzing: the namespace can't be changed once it is set, so a cluster of another one could never be written."""
    world = World(cluster(name="dc1"))
    elsewhere = dpu(cluster={"namespace": "elsewhere"})
    with pytest.raises(Waiting, match="there is none"):
        world.allocator.choose(elsewhere)
    assert world.allocator.choose(dpu(cluster={"namespace": "ns"})).name == "dc1"


def test_namesakes_of_several_namespaces_are_told_apart_in_what_it_says() -> None:
    with pytest.raises(Waiting) as info:
        first_fitting([cluster("NotReady", namespace="a"), cluster(max_nodes=1, namespace="b")], lambda _: 1)
    assert "a/c is NotReady; b/c is full (maxNodes 1)" in info.value.message
