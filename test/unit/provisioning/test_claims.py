"""Cards that more than one DPUSet wants."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from dpf.provisioning.cards import Card
from dpf.provisioning.dpuset.claims import Claims
from dpf.provisioning.indexes import CARD
from dpf.runtime.informer import Informer
from dpf.runtime.meta import Key, to_wire
from dpf_api.dpu import DPU
from dpf_api.dpuset import DPUSet

THERE = Card("host", 0, "0000-04-00")
FREE = Card("host", 1, "0000-05-00")


def dpuset(name: str) -> DPUSet:
    meta = {"name": name, "namespace": "ns", "uid": name, "resourceVersion": "1"}
    return DPUSet.model_validate({"metadata": meta})


def dpu(name: str, owner: str = "", **spec: Any) -> DPU:
    reference = {"apiVersion": "v1", "kind": "DPUSet", "name": owner, "uid": owner, "controller": True}
    owners = [reference] if owner else []
    meta = {"name": name, "namespace": "ns", "uid": name, "resourceVersion": "1", "ownerReferences": owners}
    return DPU.model_validate({"metadata": meta, "spec": {"nodeName": "host", "bfb": "image"} | spec})


@pytest.fixture
def dpus() -> Informer[DPU]:
    informer = Informer(DPU)
    informer.add_index(CARD)
    return informer


@pytest.fixture
def claims(dpus: Informer[DPU]) -> Claims:
    dpusets = Informer(DPUSet)
    for name in ("first", "second"):
        dpusets.apply("ADDED", orjson.dumps(to_wire(dpuset(name))))
    return Claims(dpus, dpusets)


def put(dpus: Informer[DPU], obj: DPU) -> None:
    dpus.apply("ADDED", orjson.dumps(to_wire(obj)))


def test_a_card_is_free_until_anothers_dpu_has_it(dpus: Informer[DPU], claims: Claims) -> None:
    assert claims.obstacle(dpuset("second"), THERE) == ""
    put(dpus, dpu(THERE.name, "first", pciAddress="0000-04-00"))
    assert "DPUSet ns/first selects it too" in claims.obstacle(dpuset("second"), THERE)
    assert claims.obstacle(dpuset("first"), THERE) == ""


def test_a_name_that_another_dpu_has_is_in_the_way(dpus: Informer[DPU], claims: Claims) -> None:
    put(dpus, dpu(THERE.name, nodeName="elsewhere"))
    assert f"DPU ns/{THERE.name} has the name" in claims.obstacle(dpuset("first"), THERE)


def test_a_dpu_that_cannot_be_read_is_in_the_way_of_its_own_set_too(dpus: Informer[DPU], claims: Claims) -> None:
    plain = to_wire(dpu(THERE.name, "first"))
    dpus.apply("ADDED", orjson.dumps({**plain, "spec": "nonsense"}))
    assert "can't be read" in claims.obstacle(dpuset("first"), THERE)
    claims.settle(dpuset("first").key, [THERE])
    assert claims.waiting_for_name(Key("ns", THERE.name)) == {Key("ns", "first")}
    claims.settle(dpuset("first").key, ())
    assert claims.waiting_for_name(Key("ns", THERE.name)) == set()


def test_both_sets_are_told_until_the_conflict_ends(dpus: Informer[DPU], claims: Claims) -> None:
    held = dpu(THERE.name, "first", pciAddress="0000-04-00")
    put(dpus, held)
    assert claims.settle(dpuset("second").key, [THERE]) == {Key("ns", "first")}
    assert claims.settle(dpuset("second").key, [THERE]) == set(), "it was told already"
    assert claims.waiting_for(held) == {Key("ns", "second")}
    assert list(claims.refused(dpuset("second"))) == [THERE.name]
    assert "DPUSet ns/second too" in claims.contested(dpuset("first"))[0]
    assert claims.settle(dpuset("second").key, ()) == {Key("ns", "first")}
    assert claims.contested(dpuset("first")) == []
    assert claims.waiting_for(held) == set()


def test_a_set_that_waits_for_what_is_not_known_yet_is_woken_by_it_and_told_nothing(
    dpus: Informer[DPU], claims: Claims
) -> None:
    claims.wait(dpuset("second").key, FREE)
    assert claims.refused(dpuset("second")) == {}
    assert claims.waiting_for(dpu(FREE.name, nodeName="elsewhere")) == {Key("ns", "second")}
    claims.settle(dpuset("second").key, ())
    assert claims.waiting_for(dpu(FREE.name, nodeName="elsewhere")) == set()
