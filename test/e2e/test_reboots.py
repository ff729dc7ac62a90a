"""How a host comes to be rebooted after its card was flashed: not at all, by a reset, by its power, or by hand."""

from __future__ import annotations

from typing import Any

import pytest

from dpf.ctl.samples import samples
from dpf.runtime.k8s import Event, Node
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import ObjectMeta
from dpf.sandbox.api import Api
from dpf.sandbox.layout import NAMESPACE
from dpf.sandbox.manifests import Applier
from dpf_api.bfb import BFB, BFBSpec
from dpf_api.names import (
    ANNOTATION_HOST_POWER_CYCLE_REQUIRED,
    ANNOTATION_POWERCYCLE_COMMAND,
    ANNOTATION_REBOOT_COMMAND,
    LABEL_HOST,
)
from test.e2e.conftest import Box, gather
from test.spec import spec

GROUP = "e2e.dpf/reboots"
"""Label of the hosts of one DPUSet."""


async def prepare(box: Box, host: str, group: str, annotations: dict[str, str] | None = None) -> None:
    """The host gets the group's label, and annotations."""
    node = Node(metadata=ObjectMeta(name=host))
    await box.client.merge_patch(node, {"metadata": {"labels": {GROUP: group}, "annotations": annotations or {}}})


async def provision(box: Box, group: str, bfb: str = "", annotations: dict[str, str] | None = None) -> None:
    """Applies one DPUSet for the hosts of the group; its DPUs bear the annotations."""
    *others, dpuset = samples(box.settings)
    dpuset["metadata"]["name"] = f"set-{group}"
    dpuset["spec"]["nodeSelector"] = {"matchLabels": {GROUP: group}}
    dpuset["spec"]["dpuTemplate"]["annotations"] = annotations or {}
    if bfb:
        dpuset["spec"]["dpuTemplate"]["spec"]["bfb"] = {"name": bfb}
    async with Api(Kubeconfig.load(box.layout.host_kubeconfig), user_agent="test") as api:
        await Applier(api).apply([*others, dpuset])


async def done(box: Box, dpu: str) -> dict[str, Any]:
    """What was done to the card, and to its host by way of it."""
    card = await box.card(dpu)
    return {key: card[key] for key in ("installs", "activates", "hostReboots", "joins")}


@spec("provisioning:99")
async def test_cards_of_hosts_that_must_not_be_rebooted_join_by_themselves(box: Box, host: str) -> None:
    """Each reboots itself at the end of its first boot; the hosts stay up."""
    hosts = [host, box.hosts.pop(0)]
    dpus = {f"{each}-0000-04-00": each for each in hosts}
    for each in hosts:
        await prepare(box, each, host, {ANNOTATION_REBOOT_COMMAND: "skip"})
    boots = {each: (await box.client.get(Node, each)).status.node_info.boot_id for each in hosts}
    bfb = BFB(metadata=ObjectMeta(name=f"skip-{host}", namespace=NAMESPACE), spec=BFBSpec(url=box.settings.bfb_url))
    await box.client.create(bfb)
    await provision(box, host, bfb=bfb.name)
    await gather(*map(box.ready, dpus))
    joined = [node for node in await box.dpu_client.list(Node) if node.labels.get(LABEL_HOST) in hosts]
    assert sorted(node.name for node in joined) == sorted(dpus)
    assert all(node.ready for node in joined)
    for dpu, each in dpus.items():
        assert await done(box, dpu) == {"installs": 1, "activates": 1, "hostReboots": 0, "joins": 1}
        assert (await box.client.get(Node, each)).status.node_info.boot_id == boots[each]


@pytest.mark.parametrize(
    ("of_dpu", "of_node", "how"),
    [
        ({}, {ANNOTATION_REBOOT_COMMAND: "cycle"}, ("WARM", "cycle")),
        ({ANNOTATION_HOST_POWER_CYCLE_REQUIRED: "true"}, {}, ("COLD", "cycle")),
        (
            {ANNOTATION_HOST_POWER_CYCLE_REQUIRED: "true"},
            {ANNOTATION_POWERCYCLE_COMMAND: "reset", ANNOTATION_REBOOT_COMMAND: "skip"},
            ("COLD", "reset"),
        ),
    ],
    ids=["cycle", "power-cycle", "power-reset"],
)
async def test_a_host_is_rebooted_once_as_annotations_say(
    box: Box, host: str, of_dpu: dict[str, str], of_node: dict[str, str], how: tuple[str, str]
) -> None:
    dpu = f"{host}-0000-04-00"
    await prepare(box, host, host, of_node)
    boot = (await box.client.get(Node, host)).status.node_info.boot_id
    await provision(box, host, annotations=of_dpu)
    ready = await box.ready(dpu)
    assert ready.status.reboot is not None
    assert ready.status.reboot.method == how[0]
    assert await done(box, dpu) == {"installs": 1, "activates": 1, "hostReboots": 1, "joins": 1}
    assert (await box.client.get(Node, host)).status.node_info.boot_id != boot
    told = [
        event.note
        for event in await box.client.list(Event, NAMESPACE)
        if (event.reason, event.regarding.name) == ("RebootRequested", dpu)
    ]
    assert told == [f"node {host} was told to reboot ({', '.join(how)})"]


async def test_a_host_that_may_not_be_rebooted_is_waited_for_until_somebody_does_it_by_hand(
    box: Box, host: str
) -> None:
    dpu = await box.provision(host, nodeEffect={"drain": {"automaticNodeReboot": False}}, automaticNodeReboot=False)
    assert f"reboot node {host} by hand" in await box.waits(dpu, "WaitingForManualPowerCycleOrReboot")
    assert await done(box, dpu) == {"installs": 1, "activates": 1, "hostReboots": 0, "joins": 0}
    await box.kill(host)
    ready = await box.ready(dpu)
    assert ready.status.reboot is None, "nobody was asked for it"
    assert await done(box, dpu) == {"installs": 1, "activates": 1, "hostReboots": 0, "joins": 1}
