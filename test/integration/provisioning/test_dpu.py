"""The way of a DPU on real API servers."""

from __future__ import annotations

import pytest

from dpf.provisioning.dpu.install import Refused
from dpf.runtime.conditions import find
from dpf.runtime.errors import NotFound
from dpf.runtime.k8s import Node, Pod, Secret
from dpf.runtime.meta import ObjectMeta
from dpf.runtime.testing import eventually, eventually_gone
from dpf_api.dpu import DPU, Firmware, Phase
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.names import (
    ANNOTATION_RETRY,
    FINALIZER_DPU,
    LABEL_DOCA_BFB_VERSION,
    LABEL_HOST,
    LABEL_OOB_BRIDGE_CONFIGURED,
)
from dpf_api.nodemaintenance import NodeMaintenance
from test.integration.provisioning.conftest import World
from test.integration.provisioning.test_told import events_until
from test.spec import spec


def said(dpu: DPU) -> list[tuple[str, str, str]]:
    """The DPU's conditions: type, status, reason."""
    return [(c.type, c.status, c.reason) for c in dpu.status.conditions]


async def taints(world: World, node: Node) -> list[str]:
    """Keys of a Node's taints, but for those that Kubernetes itself puts on one whose kubelet is silent."""
    found = (await world.host.get(Node, node.name)).spec.taints
    return [taint.key for taint in found if not taint.key.startswith("node.kubernetes.io/")]


def says(reason: str) -> object:
    return lambda dpu: dpu.status.reason == reason


async def test_a_dpu_goes_all_the_way_and_back(world: World) -> None:
    node = await world.node()
    await world.bfb()
    await world.cluster()
    name = (await world.create_dpu()).name
    await world.pod_ready(f"{name}-dms")
    await world.eventually(DPU, name, until=lambda d: d.status.reboot is not None and d.status.reboot.issued_at)
    assert (await world.host.get(DPU, name, world.namespace)).status.required_reset
    assert [call[0] for call in world.dms.calls] == ["set_mode", "install", "install", "activate", "reboot"]
    await world.boot(node, "boot-2")
    await world.pod_ready(f"{name}-hostnetwork")
    await world.join(name)
    dpu = await world.eventually(DPU, name, until=lambda d: d.status.phase is Phase.READY)
    assert {(c.type, c.status) for c in dpu.status.conditions} == {
        (kind, "True")
        for kind in (
            [
                "Initialized",
                "NodeEffectReady",
                "BFBReady",
                "DMSRunning",
                "OSInstalled",
                "Rebooted",
                "HostNetworkReady",
                "Ready",
            ]
        )
    }
    status = dpu.status
    assert (status.reason, status.bfb_version, status.pci_device) == ("", "image.bfb", "0000-04-00")
    assert (status.firmware, status.required_reset) == (Firmware(nic="32.43.1014"), False)
    there = await world.dpu.get(Node, name)
    assert there.labels[LABEL_HOST] == world.host_node
    assert there.labels[LABEL_DOCA_BFB_VERSION] == "bf-1.0"
    await world.host.delete(dpu)
    await eventually_gone(world.host, DPU, name, world.namespace)
    await eventually_gone(world.dpu, Node, name)
    await eventually_gone(world.host, Pod, f"{name}-dms", world.namespace)
    await eventually_gone(world.host, Secret, f"{name}-server-secret", world.namespace)


@spec("provisioning:82")
async def test_a_host_without_bridge_is_named_and_waited_for(world: World) -> None:
    node = await world.node(oob=False)
    name = (await world.create_dpu()).name
    dpu = await world.eventually(DPU, name, until=says("DPUOOBBridgeNotConfigured"))
    assert said(dpu) == [("Initialized", "False", "DPUOOBBridgeNotConfigured")]
    assert dpu.metadata.finalizers == [FINALIZER_DPU]
    await world.host.merge_patch(node, {"metadata": {"labels": {LABEL_OOB_BRIDGE_CONFIGURED: ""}}})
    dpu = await world.eventually(DPU, name, until=says("DPUClusterNotReady"))
    assert dpu.status.phase is Phase.INITIALIZING


@spec("provisioning:83")
async def test_a_cluster_that_is_not_ready_is_waited_for(world: World) -> None:
    await world.node()
    await world.cluster(ready=False)
    dpu = await world.eventually(DPU, (await world.create_dpu()).name, until=says("DPUClusterNotReady"))
    assert said(dpu) == [("Initialized", "False", "DPUClusterNotReady")]


@spec("provisioning:84", "provisioning:86")
async def test_a_dpu_waits_for_its_image_and_goes_on_when_it_comes(world: World) -> None:
    await world.node()
    await world.cluster()
    name = (await world.create_dpu()).name
    dpu = await world.eventually(DPU, name, until=says("GetBFBFailed"))
    assert said(dpu) == [
        ("Initialized", "True", "Initialized"),
        ("NodeEffectReady", "True", "NodeEffectReady"),
        ("BFBReady", "False", "GetBFBFailed"),
    ]
    assert dpu.status.phase is Phase.PENDING
    await world.bfb()
    dpu = await world.eventually(DPU, name, until=says("DMSPodStarting"))
    assert dpu.status.phase is Phase.DMS_DEPLOYMENT
    assert find(dpu.status.conditions, "BFBReady").status == "True"  # type: ignore[union-attr]
    await world.host.delete(dpu)
    await eventually_gone(world.host, DPU, name, world.namespace)


@spec("provisioning:87", "provisioning:88")
async def test_labels_are_put_on_the_host_and_taken_away_with_the_dpu(world: World) -> None:
    before = (await world.node()).labels
    await world.cluster()
    name = (await world.create_dpu(nodeEffect={"customLabel": {"busy": "yes"}})).name
    dpu = await world.eventually(DPU, name, until=says("GetBFBFailed"))
    assert (await world.host.get(Node, world.host_node)).labels == before | {"busy": "yes"}
    await world.host.delete(dpu)
    await eventually_gone(world.host, DPU, name, world.namespace)
    assert (await world.host.get(Node, world.host_node)).labels == before


@spec("provisioning:89")
async def test_a_taint_is_put_on_the_host_and_taken_away_with_the_dpu(world: World) -> None:
    await world.node()
    await world.cluster()
    taint = {"key": "busy", "value": "yes", "effect": "NoSchedule"}
    name = (await world.create_dpu(nodeEffect={"taint": taint})).name
    dpu = await world.eventually(DPU, name, until=says("GetBFBFailed"))
    assert [t.key for t in (await world.host.get(Node, world.host_node)).spec.taints if t.key == "busy"]
    await world.host.delete(dpu)
    await eventually_gone(world.host, DPU, name, world.namespace)
    assert not [t.key for t in (await world.host.get(Node, world.host_node)).spec.taints if t.key == "busy"]


async def test_a_drain_is_asked_of_the_maintenance_operator_and_given_back(world: World) -> None:
    await world.node()
    await world.cluster()
    name = (await world.create_dpu(nodeEffect={"drain": {"automaticNodeReboot": True}})).name
    await world.eventually(DPU, name, until=says("Draining"))
    asked = await world.eventually(NodeMaintenance, world.host_node)
    status = {
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Ready",
                "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ]
    }
    await world.host.merge_patch(asked, {"status": status}, subresource="status")
    dpu = await world.eventually(DPU, name, until=says("GetBFBFailed"))
    await world.host.delete(dpu)
    await eventually_gone(world.host, DPU, name, world.namespace)
    await eventually_gone(world.host, NodeMaintenance, world.host_node, world.namespace)


async def test_no_host_is_drained_before_the_flavor_is_there_and_its_creation_wakes_the_dpu(world: World) -> None:
    await world.node()
    await world.cluster()
    name = (await world.create_dpu(nodeEffect={"drain": {}}, dpuFlavor="late")).name
    dpu = await world.eventually(DPU, name, until=says("DPUFlavorNotFound"))
    assert said(dpu) == [("Initialized", "False", "DPUFlavorNotFound")]
    assert (await events_until(world, dpu, "DPUFlavorNotFound"))["DPUFlavorNotFound"].type == "Warning"
    with pytest.raises(NotFound):
        await world.host.get(NodeMaintenance, world.host_node, world.namespace)
    await world.host.create(DPUFlavor(metadata=ObjectMeta(name="late", namespace=world.namespace)))
    await world.eventually(DPU, name, until=says("Draining"))


async def test_why_a_pod_can_not_be_scheduled_is_said_when_the_scheduler_says_it(world: World) -> None:
    await world.node()
    await world.bfb()
    await world.cluster()
    name = (await world.create_dpu()).name
    await world.eventually(DPU, name, until=says("DMSPodStarting"))
    pod = await world.eventually(Pod, f"{name}-dms")
    said_ = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "claim bfb not found"}
    await world.host.merge_patch(pod, {"status": {"conditions": [said_]}}, subresource="status")
    await world.eventually(DPU, name, until=lambda dpu: "can't be scheduled: claim bfb not found" in dpu.status.message)


async def test_a_failed_card_is_tried_again_by_annotation_as_a_new_attempt(world: World) -> None:
    node = await world.node()
    await world.bfb()
    await world.cluster()
    world.dms.error = Refused("write error")
    name = (await world.create_dpu(nodeEffect={"taint": {"key": "k", "value": "v", "effect": "NoSchedule"}})).name
    await world.pod_ready(f"{name}-dms")
    dpu = await world.eventually(DPU, name, until=lambda d: d.status.phase is Phase.ERROR)
    assert await taints(world, node) == []
    world.dms.error = None
    await world.host.merge_patch(dpu, {"metadata": {"annotations": {ANNOTATION_RETRY: "now"}}})
    dpu = await world.eventually(DPU, name, until=lambda d: d.status.phase is Phase.REBOOTING)
    assert ANNOTATION_RETRY not in dpu.annotations
    assert dpu.status.install is not None
    assert dpu.status.install.attempt == 1
    assert dpu.status.retry is not None
    assert (dpu.status.retry.count, dpu.status.retry.pending) == (1, False)
    assert await taints(world, node) == ["k"]


async def test_a_retry_that_is_asked_for_before_the_card_has_failed_is_a_new_flash(world: World) -> None:
    await world.node()
    await world.bfb()
    await world.cluster()
    world.dms.error = Refused("write error")
    label = {"customLabel": {"here": "yes"}}
    name = (await world.create_dpu(nodeEffect=label)).name
    dpu = await world.eventually(DPU, name, until=lambda d: d.status.phase is Phase.DMS_DEPLOYMENT)
    await world.host.merge_patch(dpu, {"metadata": {"annotations": {ANNOTATION_RETRY: "now"}}})
    await world.pod_ready(f"{name}-dms")
    dpu = await world.eventually(
        DPU, name, until=lambda d: d.status.phase is Phase.ERROR and d.status.install.attempt == 1
    )
    assert dpu.status.retry.count == 1
    assert world.dms.count("set_mode") == 2, "each attempt is asked of the card"


async def test_a_retry_that_is_asked_for_while_all_is_well_is_no_order_for_later(world: World) -> None:
    node = await world.node()
    await world.bfb()
    await world.cluster()
    dpu = await world.goes_the_way((await world.create_dpu()).name, node)
    await world.host.merge_patch(dpu, {"metadata": {"annotations": {ANNOTATION_RETRY: "now"}}})
    dpu = await world.eventually(DPU, dpu.name, until=lambda d: ANNOTATION_RETRY not in d.annotations)
    assert (dpu.status.phase, dpu.status.retry) == (Phase.READY, None)


async def test_a_phase_that_somebody_else_wrote_is_looked_at_and_the_dpu_is_not_ready_meanwhile(world: World) -> None:
    node = await world.node()
    await world.bfb()
    await world.cluster()
    dpu = await world.goes_the_way((await world.create_dpu()).name, node)
    await world.host.merge_patch(dpu, {"status": {"phase": "Initializing"}}, subresource="status")
    await world.eventually(DPU, dpu.name, until=lambda d: ("Ready", "False", "Provisioning") in said(d))


async def test_a_failed_dms_pod_is_replaced_on_retry(world: World) -> None:
    await world.node()
    await world.bfb()
    await world.cluster()
    name = (await world.create_dpu()).name
    pod = await eventually(world.host, Pod, f"{name}-dms", world.namespace)
    await world.host.merge_patch(pod, {"status": {"phase": "Failed"}}, subresource="status")
    dpu = await world.eventually(DPU, name, until=lambda d: d.status.phase is Phase.ERROR)
    await world.host.merge_patch(dpu, {"metadata": {"annotations": {ANNOTATION_RETRY: "now"}}})
    await eventually(world.host, Pod, pod.name, world.namespace, until=lambda found: found.uid != pod.uid)
    dpu = await world.eventually(DPU, name, until=lambda d: d.status.phase is Phase.DMS_DEPLOYMENT)
    assert ANNOTATION_RETRY not in dpu.annotations
