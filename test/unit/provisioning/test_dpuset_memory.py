"""What the DPUSet controller keeps of its sets from look to look."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from dpf.provisioning.dpuset.controller import DPUSetReconciler, dpuset_controller
from dpf.runtime.client import Client
from dpf.runtime.cluster import Cluster
from dpf.runtime.k8s import Node
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import Key, Object
from dpf.runtime.metrics import Metrics
from dpf_api.dpu import DPU
from dpf_api.dpuset import DPUSet
from dpf_api.names import FEATURE_PREFIX

KEY = Key("ns", "set")
CARD = {FEATURE_PREFIX + "dpu-0-pci-address": "0000-04-00"}


class World:
    """A controller that is told of what is put into its caches, and does nothing of itself."""

    def __init__(self) -> None:
        self.cluster = Cluster("host", Client(Kubeconfig(server="http://127.0.0.1:1"), field_owner="test"))
        events = cast("Any", SimpleNamespace(normal=lambda *_, **__: None, warning=lambda *_, **__: None))
        self.controller = dpuset_controller(self.cluster, events)
        self.controller.register(self.cluster, Metrics())
        self.reconciler = cast("DPUSetReconciler", self.controller.reconciler)
        self.version = 0
        for source in self.controller._watches:
            self.controller._attach(source)

    def put(self, kind: type[Object], metadata: dict[str, Any], **rest: Any) -> None:
        self.version += 1
        meta = {"uid": "u", "generation": 1, "resourceVersion": str(self.version), **metadata}
        body = {"apiVersion": kind.RESOURCE.api_version, "kind": kind.RESOURCE.kind, "metadata": meta, **rest}
        self.cluster.cache[kind].apply("MODIFIED", orjson.dumps(body))

    def host(self, rack: str) -> None:
        self.put(Node, {"name": "worker1", "labels": {"rack": rack, **CARD}})

    def dpuset(self, uid: str = "u", *, rack: str = "a", **rest: Any) -> None:
        spec = {
            "nodeSelector": {"matchLabels": {"rack": rack}},
            "dpuTemplate": {"spec": {"dpuFlavor": "f", "bfb": {"name": "image"}}},
        }
        self.put(DPUSet, {"name": "set", "namespace": "ns", "uid": uid}, spec=spec, **rest)

    def selected(self) -> list[str]:
        found = self.cluster.cache[DPUSet].get("set", "ns")
        assert found is not None
        return list(self.reconciler._select(found).wanted)


@pytest.fixture
def world() -> World:
    made = World()
    made.host("a")
    made.dpuset()
    assert made.selected() == ["worker1-0000-04-00"]
    return made


def test_a_node_that_changes_while_its_set_can_not_be_read_is_judged_when_it_can(world: World) -> None:
    world.dpuset(status={"conditions": "not a list"})
    assert world.cluster.cache[DPUSet].get("set", "ns") is None
    world.host("b")
    world.dpuset()
    assert world.selected() == []


def test_another_set_of_that_name_selects_anew(world: World) -> None:
    world.dpuset("another", rack="b")
    assert world.selected() == []


async def test_nothing_is_kept_of_a_set_whose_finalizer_somebody_took_off(world: World) -> None:
    [card] = world.reconciler._selections[KEY].wanted.values()
    world.reconciler.claims.settle(KEY, [card])
    await world.reconciler.gone(KEY)
    assert world.reconciler._selections == {}
    assert world.reconciler.claims.waiting_for_name(Key("ns", card.name)) == set()


async def test_a_dpu_that_is_another_ones_by_the_time_of_its_turn_is_left_as_it_is(world: World) -> None:
    found = world.cluster.cache[DPUSet].get("set", "ns")
    assert found is not None
    [name] = world.selected()
    world.put(
        DPU,
        {"name": name, "namespace": "ns"},
        spec={"nodeName": "worker1", "bfb": "image", "automaticNodeReboot": False},
    )
    # What it sends would be refused: nobody listens there.
    assert await world.reconciler._update(found, world.reconciler._selections[KEY], Key("ns", name)) is None
