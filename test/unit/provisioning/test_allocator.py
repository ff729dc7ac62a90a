"""Which cluster a DPU is given to."""

from __future__ import annotations

import orjson
import pytest

from dpf.provisioning.dpucluster.allocator import Allocator, first_fitting
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
    """Caches that are fed by hand."""

    def __init__(self, *objects: Object) -> None:
        self.cluster = Cluster("host", Client(Kubeconfig(server="http://127.0.0.1:1"), field_owner="test"))
        self.version = 0
        self.allocator = Allocator(self.cluster)
        for obj in objects:
            self.put(obj)

    def put(self, obj: Object, event: str = "MODIFIED") -> None:
        self.version += 1
        body = to_wire(obj)
        body["metadata"]["resourceVersion"] = str(self.version)
        self.cluster.cache[type(obj)].apply(event, orjson.dumps(body))

    def assign(self, subject: DPU, to: DPUCluster) -> DPU:
        """What the assignment's write does to the cache."""
        reference = {"name": to.name, "namespace": to.namespace}
        given = DPU.model_validate(to_wire(subject) | {"spec": to_wire(subject)["spec"] | {"cluster": reference}})
        self.put(given)
        self.allocator.settle(subject)
        return given


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
    given = world.assign(dpu("d1"), world.allocator.choose(dpu("d1")))
    with pytest.raises(Waiting):
        world.allocator.choose(dpu("d2"))
    world.put(given, "DELETED")
    assert world.allocator.choose(dpu("d2")).name == limit.name


def test_an_assignment_that_failed_gives_the_place_back() -> None:
    world = World(cluster(max_nodes=1))
    world.allocator.choose(dpu("d1"))
    world.allocator.settle(dpu("d1"))
    assert world.allocator.choose(dpu("d2")).name == "c"


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
