"""Waits that are overdue, pods that end, reboots that fail, drains that are shared: on real API servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from dpf.provisioning.bfcfg import join
from dpf.provisioning.dpu import podhealth
from dpf.provisioning.dpu.install import Refused
from dpf.runtime.client import Client
from dpf.runtime.conditions import find, is_true
from dpf.runtime.errors import NotFound
from dpf.runtime.k8s import Node, Pod, Secret
from dpf.runtime.meta import now
from dpf.runtime.testing import eventually, eventually_gone
from dpf_api.dpu import DPU, Phase
from dpf_api.names import ANNOTATION_RETRY
from dpf_api.nodemaintenance import NodeMaintenance
from test.integration.conftest import Planes
from test.integration.provisioning.conftest import FakeDms, World
from test.integration.provisioning.test_told import events_until

DRAIN = {"drain": {"automaticNodeReboot": True}}
READY = {
    "type": "Ready",
    "status": "True",
    "reason": "Ready",
    "message": "",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}


@pytest.fixture
async def idle(control_planes: Planes, host_client: Client, dpu_client: Client, namespace: str) -> AsyncIterator[World]:
    """A world in which no manager runs yet."""
    world = World(host_client, dpu_client, control_planes, namespace, FakeDms())
    yield world
    for client in (host_client, dpu_client):
        for node in await client.list(Node):
            if namespace in node.name:
                await client.delete(node)


async def provisioned(world: World, **spec: Any) -> DPU:
    """A DPU that is Ready."""
    node = await world.node()
    await world.bfb()
    await world.cluster()
    name = (await world.create_dpu(**spec)).name
    await world.pod_ready(f"{name}-dms")
    await world.eventually(DPU, name, until=lambda d: d.status.reboot is not None and d.status.reboot.issued_at)
    await world.boot(node, "boot-2")
    await world.pod_ready(f"{name}-hostnetwork")
    await world.join(name)
    found: DPU = await world.eventually(DPU, name, until=lambda d: d.status.phase is Phase.READY)
    return found


async def test_a_drain_that_takes_too_long_is_told_by_name_and_goes_on_when_it_ends(idle: World) -> None:
    idle.settings = {"drain_timeout": 1.0}
    async with idle.manager():
        await idle.node()
        await idle.cluster()
        dpu = await idle.create_dpu(nodeEffect=DRAIN)
        await idle.eventually(DPU, dpu.name, until=lambda d: d.status.reason == "DrainOverdue")
        assert (await events_until(idle, dpu, "DrainOverdue"))["DrainOverdue"].type == "Warning"
        asked = await idle.host.get(NodeMaintenance, idle.host_node, idle.namespace)
        for pods in (["apps/db-0"], ["apps/web-1"]):
            await idle.host.merge_patch(asked, {"status": {"drain": {"waitForEviction": pods}}}, subresource="status")
            await idle.eventually(DPU, dpu.name, until=lambda d, pods=pods: pods[0] in d.status.message)
    before = await idle.host.get(DPU, dpu.name, idle.namespace)
    async with idle.manager():
        again = await idle.host.get(DPU, dpu.name, idle.namespace)
        assert again.status.conditions == before.status.conditions, "a restart begins no time anew"
        asked = await idle.host.get(NodeMaintenance, idle.host_node, idle.namespace)
        await idle.host.merge_patch(asked, {"status": {"conditions": [READY]}}, subresource="status")
        await idle.eventually(DPU, dpu.name, until=lambda d: d.status.reason == "GetBFBFailed")


async def test_a_drain_is_owned_by_each_dpu_that_needs_it_and_outlives_the_one_that_made_it(world: World) -> None:
    await world.node()
    await world.cluster()
    first = await world.create_dpu("d1", nodeEffect=DRAIN)
    made = await world.eventually(NodeMaintenance, world.host_node)
    assert [(owner.uid, owner.controller) for owner in made.metadata.owner_references] == [(first.uid, True)]
    second = await world.create_dpu("d2", nodeEffect=DRAIN, pci="0000-05-00")

    def owners(*uids: str) -> Any:
        return lambda found: [owner.uid for owner in found.metadata.owner_references] == list(uids)

    both = await world.eventually(NodeMaintenance, made.name, until=owners(first.uid, second.uid))
    assert [owner.controller for owner in both.metadata.owner_references] == [True, False]
    await world.host.delete(first)
    await eventually_gone(world.host, DPU, first.name, world.namespace)
    kept = await world.eventually(NodeMaintenance, made.name, until=owners(second.uid))
    assert kept.uid == made.uid
    assert not kept.deleting
    await world.host.delete(second)
    await eventually_gone(world.host, DPU, second.name, world.namespace)
    await eventually_gone(world.host, NodeMaintenance, made.name, world.namespace)


async def test_a_drain_that_others_made_is_given_back_and_stays(world: World) -> None:
    await world.node()
    await world.cluster()
    spec = {"requestorID": "them", "nodeName": world.host_node}
    body = {"metadata": {"name": world.host_node, "namespace": world.namespace}, "spec": spec}
    theirs = await world.host.create(NodeMaintenance.model_validate(body))
    dpu = await world.create_dpu(nodeEffect=DRAIN)
    await world.eventually(NodeMaintenance, theirs.name, until=lambda found: found.spec.additional_requestors)
    await world.host.delete(dpu)
    await eventually_gone(world.host, DPU, dpu.name, world.namespace)
    left = await world.host.get(NodeMaintenance, theirs.name, world.namespace)
    assert (left.spec.additional_requestors, left.metadata.owner_references, left.deleting) == ([], [], False)


async def test_a_drain_that_others_delete_ends_once_its_dpu_is_done(world: World) -> None:
    """The maintenance operator, which the finalizer stands for, waits until nobody needs it any more."""
    await world.node()
    await world.cluster()
    spec = {"requestorID": "them", "nodeName": world.host_node}
    meta = {"name": world.host_node, "namespace": world.namespace, "finalizers": ["maintenance.nvidia.com/finalizer"]}
    theirs = await world.host.create(NodeMaintenance.model_validate({"metadata": meta, "spec": spec}))
    dpu = await world.create_dpu(nodeEffect=DRAIN)
    await world.eventually(NodeMaintenance, theirs.name, until=lambda found: found.spec.additional_requestors)
    await world.host.merge_patch(theirs, {"status": {"conditions": [READY]}}, subresource="status")
    await world.eventually(DPU, dpu.name, until=lambda d: d.status.reason == "GetBFBFailed")
    await world.host.delete(theirs)
    await world.host.delete(dpu)
    await eventually_gone(world.host, DPU, dpu.name, world.namespace)
    left = await world.host.get(NodeMaintenance, theirs.name, world.namespace)
    assert (left.spec.additional_requestors, left.deleting) == ([], True)
    await world.host.merge_patch(left, {"metadata": {"finalizers": None}})


async def test_a_reboot_that_dms_refuses_is_an_error_of_the_reboot_and_is_sent_again_as_the_same_request(
    world: World,
) -> None:
    node = await world.node()
    await world.bfb()
    await world.cluster()
    world.dms.reboot_error = Refused("INVALID_ARGUMENT: no such method")
    name = (await world.create_dpu()).name
    await world.pod_ready(f"{name}-dms")
    dpu = await world.eventually(DPU, name, until=lambda d: d.status.phase is Phase.ERROR)
    said = find(dpu.status.conditions, "Rebooted")
    assert said is not None
    assert (said.status, said.reason) == ("False", "RebootFailed")
    assert "no such method" in said.message
    assert (await events_until(world, dpu, "RebootFailed"))["RebootFailed"].type == "Warning"
    world.dms.reboot_error = None
    await world.host.merge_patch(dpu, {"metadata": {"annotations": {ANNOTATION_RETRY: "now"}}})
    await world.eventually(DPU, name, until=lambda d: d.status.reboot is not None and d.status.reboot.issued_at)
    asked = [call for call in world.dms.calls if call[0] == "reboot"]
    assert len(asked) == 2
    assert asked[0] == asked[1]
    await world.boot(node, "boot-2")
    await world.eventually(DPU, name, until=lambda d: d.status.phase is Phase.HOST_NETWORK_CONFIGURATION)


async def test_a_host_that_is_rebooted_by_hand_after_all_takes_its_dpu_out_of_error(world: World) -> None:
    node = await world.node()
    await world.bfb()
    await world.cluster()
    world.dms.reboot_error = Refused("no")
    name = (await world.create_dpu()).name
    await world.pod_ready(f"{name}-dms")
    await world.eventually(DPU, name, until=lambda d: d.status.phase is Phase.ERROR)
    await world.boot(node, "boot-2")
    dpu = await world.eventually(DPU, name, until=lambda d: d.status.phase is Phase.HOST_NETWORK_CONFIGURATION)
    assert is_true(dpu.status.conditions, "Rebooted")
    assert world.dms.count("reboot") == 1


async def test_a_pod_that_a_shutdown_of_the_host_has_ended_comes_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(podhealth, "PAUSE", 3600.0)
    node = await world.node()
    await world.bfb()
    await world.cluster()
    name = (await world.create_dpu()).name
    await world.pod_ready(f"{name}-dms")
    await world.eventually(DPU, name, until=lambda d: d.status.reboot is not None and d.status.reboot.issued_at)
    await world.boot(node, "boot-2")
    pod = await eventually(world.host, Pod, f"{name}-hostnetwork", world.namespace)
    aged = {"phase": "Failed", "reason": "Terminated", "message": "the node was shut down"}
    await world.host.merge_patch(pod, {"status": aged}, subresource="status")
    dpu = await world.eventually(DPU, name, until=lambda d: d.status.reason == "PodEnded")
    assert "the node was shut down" in dpu.status.message
    monkeypatch.setattr(podhealth, "PAUSE", 0.0)
    await world.host.merge_patch(dpu, {"metadata": {"labels": {"woken": "now"}}})
    found = await eventually(world.host, Pod, pod.name, world.namespace, until=lambda each: each.uid != pod.uid)
    assert found.status.phase == "Pending"


async def test_ready_is_the_health_of_the_host_network_and_a_dms_that_fails_is_only_said(world: World) -> None:
    dpu = await provisioned(world)
    pod = await world.host.get(Pod, f"{dpu.name}-hostnetwork", world.namespace)
    crashed = {
        "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [
            {
                "name": "hostnetwork",
                "image": "",
                "imageID": "",
                "ready": False,
                "restartCount": 4,
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
            }
        ],
    }
    await world.host.merge_patch(pod, {"status": crashed}, subresource="status")
    lost = await world.eventually(DPU, dpu.name, until=lambda d: not is_true(d.status.conditions, "Ready"))
    assert lost.status.phase is Phase.READY
    assert (lost.status.reason, lost.status.message) == (
        "HostNetworkNotReady",
        f"container hostnetwork of pod {pod.name}: CrashLoopBackOff: back-off",
    )
    await world.pod_ready(pod.name)
    await world.eventually(DPU, dpu.name, until=lambda d: is_true(d.status.conditions, "Ready"))
    dms = await world.host.get(Pod, f"{dpu.name}-dms", world.namespace)
    crashed["containerStatuses"][0]["name"] = "dms"  # type: ignore[index]
    await world.host.merge_patch(dms, {"status": crashed}, subresource="status")
    said = await world.eventually(DPU, dpu.name, until=lambda d: not is_true(d.status.conditions, "DMSRunning"))
    assert is_true(said.status.conditions, "Ready")
    assert said.status.reason == ""
    told = await events_until(world, dpu, "HostNetworkNotReady", "Recovered", "DMSPodNotRunning")
    assert told["DMSPodNotRunning"].type == "Warning"


async def test_what_the_cards_node_reports_is_said_and_ends(world: World) -> None:
    dpu = await provisioned(world)
    node = await world.dpu.get(Node, dpu.name)

    async def report(pressure: str) -> None:
        conditions = [
            {"type": "Ready", "status": "True"},
            {"type": "DiskPressure", "status": pressure, "message": "the disk is full"},
        ]
        await world.dpu.merge_patch(node, {"status": {"conditions": conditions}}, subresource="status")

    def healthy(status: str) -> Any:
        return lambda d: any((c.type, c.status) == ("DPUNodeHealthy", status) for c in d.status.conditions)

    await report("True")
    said = await world.eventually(DPU, dpu.name, until=healthy("False"))
    assert is_true(said.status.conditions, "Ready")
    found = find(said.status.conditions, "DPUNodeHealthy")
    assert found is not None
    assert "DiskPressure: the disk is full" in found.message
    await report("False")
    await world.eventually(DPU, dpu.name, until=healthy("True"))


async def test_the_token_of_a_card_that_has_not_joined_is_renewed_and_goes_once_it_has(world: World) -> None:
    node = await world.node()
    await world.bfb()
    await world.cluster()
    name = (await world.create_dpu()).name
    await world.pod_ready(f"{name}-dms")
    dpu = await world.eventually(DPU, name, until=lambda d: d.status.reboot is not None and d.status.reboot.issued_at)
    identity = join.token_id(dpu.uid, 0)
    await join.join_command(world.dpu, world.dpu.transport.kubeconfig, name, identity)
    secret = await world.dpu.get(Secret, f"bootstrap-token-{identity}", join.NAMESPACE)
    await world.boot(node, "boot-2")
    dpu = await world.eventually(DPU, name, until=lambda d: d.status.phase is Phase.HOST_NETWORK_CONFIGURATION)
    began = (now() - timedelta(hours=17)).replace(microsecond=0).isoformat()
    await world.host.merge_patch(dpu, {"status": {"install": {"startedAt": began}}}, subresource="status")
    # Status writes of others wake nobody: the pod does.
    await world.pod_ready(f"{name}-hostnetwork")
    dpu = await world.eventually(
        DPU, name, until=lambda d: d.status.install is not None and d.status.install.join_token_expires_at
    )
    assert dpu.status.install.join_token_expires_at > now() + timedelta(hours=23)
    renewed = await world.dpu.get(Secret, secret.name, join.NAMESPACE)
    assert renewed.text("token-secret") == secret.text("token-secret")
    assert renewed.text("expiration") == dpu.status.install.join_token_expires_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    await world.join(name)
    await world.eventually(DPU, name, until=lambda d: d.status.phase is Phase.READY)
    with pytest.raises(NotFound):
        await world.dpu.get(Secret, secret.name, join.NAMESPACE)


async def test_a_card_whose_token_is_gone_can_not_join_and_is_flashed_anew_on_retry(world: World) -> None:
    node = await world.node()
    await world.bfb()
    await world.cluster()
    name = (await world.create_dpu()).name
    await world.pod_ready(f"{name}-dms")
    await world.eventually(DPU, name, until=lambda d: d.status.reboot is not None and d.status.reboot.issued_at)
    await world.boot(node, "boot-2")
    dpu = await world.eventually(DPU, name, until=lambda d: d.status.phase is Phase.HOST_NETWORK_CONFIGURATION)
    began = (now() - timedelta(hours=17)).replace(microsecond=0).isoformat()
    await world.host.merge_patch(dpu, {"status": {"install": {"startedAt": began}}}, subresource="status")
    await world.pod_ready(f"{name}-hostnetwork")
    dpu = await world.eventually(DPU, name, until=lambda d: d.status.phase is Phase.ERROR)
    assert dpu.status.reason == "JoinTokenExpired"
    await world.host.merge_patch(dpu, {"metadata": {"annotations": {ANNOTATION_RETRY: "now"}}})
    again = await world.eventually(
        DPU, name, until=lambda d: d.status.install is not None and d.status.install.attempt == 1
    )
    assert again.status.install.join_token_expires_at is None


async def test_a_pass_that_changes_the_spec_need_not_say_the_same_again(world: World) -> None:
    await world.node()
    await world.bfb()
    await world.cluster()
    name = (await world.create_dpu()).name
    dpu = await world.eventually(DPU, name, until=lambda d: d.status.reason == "DMSPodStarting")
    assert dpu.metadata.generation == 2, "it was given its cluster"
    assert {each.observed_generation for each in dpu.status.conditions} == {2}
