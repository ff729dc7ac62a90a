"""What a real API server makes of DPUs."""

from __future__ import annotations

from typing import Any

import pytest

from dpf.runtime.errors import Invalid
from dpf_api.dpu import DPU
from dpf_api.dpuset import DPUSet
from dpf_api.nodeeffect import Drain, NodeEffect
from test.integration.api.rules import ANYWHERE, TAINT, TWO_EFFECTS, Server, from_before, patched
from test.integration.conftest import Planes
from test.spec import spec


@spec("provisioning:26")
async def test_dpu_is_created_sent_again_and_deleted(server: Server) -> None:
    await server.lives(await server.create(DPU, spec={"nodeName": "", "bfb": ""}))


@spec("provisioning:27")
async def test_dpu_drains_its_node_unless_told_otherwise(server: Server) -> None:
    dpu = await server.create(DPU, spec={"nodeName": "", "bfb": ""})
    assert "node_effect" in dpu.spec.model_fields_set
    assert dpu.spec.node_effect == NodeEffect(drain=Drain(automatic_node_reboot=True))
    assert dpu.spec.automatic_node_reboot


async def test_false_stays_false(server: Server) -> None:
    body = {
        "nodeName": "",
        "bfb": "",
        "automaticNodeReboot": False,
        "nodeEffect": {"drain": {"automaticNodeReboot": False}},
    }
    dpu = await server.create(DPU, spec=body)
    stored = await server.client.replace(dpu)
    assert not stored.spec.automatic_node_reboot
    assert stored.spec.node_effect.drain == Drain(automatic_node_reboot=False)


@spec("provisioning:28", "provisioning:29")
async def test_dpu_stays_in_its_place(server: Server) -> None:
    dpu = await server.create(DPU, spec={"nodeName": "n", "bfb": "b", "pciAddress": "0000-04-00"})
    await server.keeps(dpu, 'spec.nodeName: Invalid value: "m": Value is immutable', nodeName="m")
    await server.keeps(dpu, 'spec.pciAddress: Invalid value: "0000-05-00": Value is immutable', pciAddress="0000-05-00")
    await server.keeps(dpu, "pciAddress is immutable and can't be removed", pciAddress=None)
    with pytest.raises(Invalid, match="spec is immutable and can't be removed"):
        await server.client.merge_patch(dpu, {"spec": None})
    assert (await server.change(dpu, bfb="c", dpuFlavor="f")).spec.bfb == "c"


TOO_LONG = "metadata.name may have 63 characters"


async def test_dpu_name_fits_where_it_is_used(server: Server) -> None:
    await server.refuses(DPU, TOO_LONG, "d" * 64, spec=ANYWHERE)
    for name in ("d" * 63, "worker1.example.com-0000-04-00"):
        assert (await server.create(DPU, name, spec=ANYWHERE)).name == name


async def test_dpu_with_a_longer_name_from_before_goes_on(server: Server, control_planes: Planes) -> None:
    names = ("d" * 64, "e" * 64)
    path = await from_before(server, control_planes, DPU, (TOO_LONG,), names, ANYWHERE)
    await patched(server, path, {"spec": {"bfb": "other"}})
    await patched(server, f"{path}/status", {"status": {"phase": "Pending"}})
    await server.client.request("DELETE", path)


@spec("provisioning:30", "provisioning:31")
@pytest.mark.parametrize(
    "start", [{}, {"cluster": {"nodeLabels": {"a": "b"}}}, {"cluster": {"name": "", "namespace": ""}}]
)
async def test_dpu_is_given_to_a_cluster_once(server: Server, start: dict[str, Any]) -> None:
    dpu = await server.create(DPU, spec={"nodeName": "n", "bfb": "b"} | start)
    assert (dpu.spec.cluster.name, dpu.spec.cluster.namespace) == ("", "")
    dpu = await server.change(dpu, cluster={"name": "c", "namespace": "ns"})
    assert (dpu.spec.cluster.name, dpu.spec.cluster.namespace) == ("c", "ns")
    await server.keeps(dpu, 'spec.cluster.name: Invalid value: "other": Value is immutable', cluster={"name": "other"})
    await server.keeps(dpu, "Value is immutable", cluster={"namespace": "other"})
    await server.keeps(dpu, "name is immutable and can't be removed", cluster={"name": None})
    await server.keeps(dpu, "cluster is immutable and can't be removed", cluster=None)
    assert (await server.change(dpu, cluster={"nodeLabels": {"x": "y"}})).spec.cluster.node_labels["x"] == "y"


@spec("provisioning:32", "provisioning:33")
async def test_dpu_may_say_all_or_nothing(server: Server) -> None:
    full = {
        "nodeName": "worker1",
        "bfb": "bf-bundle",
        "pciAddress": "0000-04-00",
        "dpuFlavor": "hbn",
        "cluster": {"name": "c", "namespace": "ns", "nodeLabels": {"a": "b"}},
        "nodeEffect": TAINT,
    }
    stored = await server.create(DPU, spec=full)
    assert stored.spec.model_dump(by_alias=True, exclude_unset=True) == full | {"automaticNodeReboot": True}
    await server.create(DPU, "empty-strings", spec={"nodeName": "", "bfb": ""})
    assert "spec" not in (await server.create(DPU, "metadata-only")).model_fields_set


@pytest.mark.parametrize(
    "effect",
    [
        {},
        {"noEffect": False, "customLabel": {}} | TAINT,
        {"customLabel": {"a": "b"}},
        {"drain": {}},
        {"noEffect": True},
    ],
)
async def test_one_node_effect_or_none(server: Server, effect: dict[str, Any]) -> None:
    await server.create(DPU, spec={"nodeName": "", "bfb": "", "nodeEffect": effect})


async def test_two_node_effects_are_refused(server: Server) -> None:
    at_most = "at most one of taint, noEffect, customLabel and drain"
    dpu = await server.create(DPU, spec={"nodeName": "", "bfb": "", "nodeEffect": TAINT})
    await server.keeps(dpu, f"spec.nodeEffect: Invalid value: {at_most}", nodeEffect={"drain": {}})
    for effect in (TWO_EFFECTS, {"drain": {}, "customLabel": {"a": "b"}}):
        await server.refuses(DPU, at_most, "y", spec={"nodeName": "", "bfb": "", "nodeEffect": effect})
        await server.refuses(DPUSet, at_most, "y", spec={"dpuTemplate": {"spec": {"nodeEffect": effect}}})


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"key": "bad key"}, 'taint.key: Invalid value: "bad key": must be like a label'),
        ({"key": ""}, 'taint.key: Invalid value: "": must be like a label'),
        ({"value": "-"}, 'taint.value: Invalid value: "-": must be like a label'),
        ({"effect": "Foo"}, 'taint.effect: Invalid value: "Foo": must be NoSchedule, PreferNoSchedule or NoExecute'),
    ],
    ids=str,
)
async def test_a_taint_is_one_that_a_node_can_bear(server: Server, part: dict[str, str], words: str) -> None:
    effect = {"taint": {"key": "k", "value": "v", "effect": "NoSchedule"} | part}
    await server.refuses(DPU, words, "y", spec={"nodeName": "", "bfb": "", "nodeEffect": effect})
    await server.refuses(DPUSet, words, "y", spec={"dpuTemplate": {"spec": {"nodeEffect": effect}}})


async def test_status_keeps_what_a_resumed_installation_needs(server: Server) -> None:
    dpu = await server.create(DPU, spec={"nodeName": "", "bfb": ""})
    status = {
        "phase": "OS Installing",
        "reason": "Installing",
        "install": {"attempt": 1, "version": "a.bfb", "configSHA256": "ab", "startedAt": "2025-01-01T00:00:00Z"},
        "reboot": {"id": "u/b", "method": "WARM", "issuedAt": "2025-01-01T00:00:00Z"},
    }
    stored = await server.client.merge_patch(dpu, {"status": status}, subresource="status")
    assert stored.status.model_dump(mode="json", by_alias=True, exclude_unset=True) == status
