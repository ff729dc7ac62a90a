"""A DPU goes though its DPU cluster is away; what it left there is removed when the cluster is back."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from dpf.provisioning.bfcfg import join
from dpf.runtime.client import Client
from dpf.runtime.errors import NotFound
from dpf.runtime.k8s import Node, Pod, Secret, encoded
from dpf.runtime.testing import eventually, eventually_gone
from dpf_api.dpu import DPU, Phase
from dpf_api.dpucluster import DPUCluster
from dpf_api.dpucluster import Phase as ClusterPhase
from dpf_api.names import LEFT_NODE, bfcfg_file
from test.integration.conftest import Planes
from test.integration.provisioning.conftest import FakeDms, World
from test.integration.provisioning.test_told import events_until
from test.integration.provisioning.test_waits import provisioned


@pytest.fixture
def patience() -> float:
    """Seconds that deleted DPUs wait for what is left of them; more than the second to which an API server rounds down when that
    was, or it would be over at the first look."""
    return 3.0


@pytest.fixture
async def hasty(
    control_planes: Planes, host_client: Client, dpu_client: Client, namespace: str, patience: float
) -> AsyncIterator[World]:
    """A world in which deleted DPUs wait a moment for their cluster."""
    settings = {"deletion_timeout": patience}
    world = World(host_client, dpu_client, control_planes, namespace, FakeDms(), settings=settings)
    async with world.manager():
        yield world
    for client in (host_client, dpu_client):
        for node in await client.list(Node):
            if namespace in node.name:
                await client.delete(node)


async def reach(world: World, *, answers: bool) -> None:
    """Lets the managers reach the DPU cluster, or not."""
    text = world.planes.dpu.read_text()
    server = world.dpu.transport.kubeconfig.server
    text = text if answers else text.replace(server, "https://127.0.0.1:1")
    secret = await world.host.get(Secret, "c1-kubeconfig", world.namespace)
    await world.host.merge_patch(secret, {"data": encoded({"admin.conf": text})})
    wanted = ClusterPhase.READY if answers else ClusterPhase.NOT_READY
    await world.eventually(DPUCluster, "c1", until=lambda found: found.status.phase is wanted)


async def pods_end(world: World, name: str) -> None:
    for pod in (f"{name}-dms", f"{name}-hostnetwork"):
        await eventually_gone(world.host, Pod, pod, world.namespace)


async def test_a_dpu_whose_cluster_is_away_goes_after_the_deadline_and_its_node_when_the_cluster_is_back(
    hasty: World,
) -> None:
    dpu = await provisioned(hasty)
    identity = join.token_id(dpu.uid, 0)
    await join.join_command(hasty.dpu, hasty.dpu.transport.kubeconfig, dpu.name, identity)
    await reach(hasty, answers=False)
    await hasty.host.delete(dpu)
    await eventually_gone(hasty.host, DPU, dpu.name, hasty.namespace)
    await pods_end(hasty, dpu.name)
    told = await events_until(hasty, dpu, "NodeLeftBehind")
    assert told["NodeLeftBehind"].type == "Warning"
    assert told["NodeLeftBehind"].related is not None
    assert told["NodeLeftBehind"].related.name == "c1"
    cluster = await hasty.host.get(DPUCluster, "c1", hasty.namespace)
    assert f"{LEFT_NODE}/{dpu.name}" in cluster.annotations
    assert (await hasty.dpu.get(Node, dpu.name)).name == dpu.name
    await reach(hasty, answers=True)
    await eventually_gone(hasty.dpu, Node, dpu.name)
    cluster = await hasty.eventually(DPUCluster, "c1", until=lambda found: not found.annotations)
    await events_until(hasty, cluster, "LeftNodesRemoved")
    with pytest.raises(NotFound):
        await hasty.dpu.get(Secret, f"bootstrap-token-{identity}", join.NAMESPACE)


async def test_a_card_that_was_flashed_since_keeps_the_node_of_its_name(hasty: World) -> None:
    dpu = await provisioned(hasty)
    key = f"{LEFT_NODE}/{dpu.name}"
    cluster = await hasty.host.get(DPUCluster, "c1", hasty.namespace)
    long_ago = '{"at": "2020-01-01T00:00:00+00:00", "token": ""}'
    await hasty.host.merge_patch(cluster, {"metadata": {"annotations": {key: long_ago, f"{LEFT_NODE}/x": "{"}}})
    await hasty.eventually(DPUCluster, "c1", until=lambda found: key not in found.annotations)
    assert not (await hasty.dpu.get(Node, dpu.name)).deleting
    assert (await hasty.host.get(DPU, dpu.name, hasty.namespace)).status.phase is Phase.READY


async def test_a_node_that_is_held_in_its_cluster_holds_no_dpu_for_ever(hasty: World) -> None:
    dpu = await provisioned(hasty)
    node = await hasty.dpu.get(Node, dpu.name)
    await hasty.dpu.merge_patch(node, {"metadata": {"finalizers": ["example.com/held"]}})
    await hasty.host.delete(dpu)
    await eventually_gone(hasty.host, DPU, dpu.name, hasty.namespace)
    note = (await events_until(hasty, dpu, "NodeLeftBehind"))["NodeLeftBehind"].note
    assert "example.com/held" in note
    held = await eventually(hasty.dpu, Node, dpu.name)
    await hasty.dpu.merge_patch(held, {"metadata": {"finalizers": None}})
    await eventually_gone(hasty.dpu, Node, dpu.name)


@pytest.mark.parametrize("patience", [15.0])  # its Node must be gone before that is over
async def test_a_configuration_that_the_volume_keeps_holds_no_dpu_for_ever(hasty: World) -> None:
    dpu = await provisioned(hasty)
    kept = hasty.volume / bfcfg_file(dpu.name)
    kept.mkdir()  # can't be removed as a file
    await hasty.host.delete(dpu)
    await eventually_gone(hasty.host, DPU, dpu.name, hasty.namespace)
    await pods_end(hasty, dpu.name)
    await eventually_gone(hasty.dpu, Node, dpu.name)
    told = (await events_until(hasty, dpu, "ConfigLeftBehind"))["ConfigLeftBehind"]
    assert told.type == "Warning"
    assert told.note.startswith(f"{kept.name} can't be removed from the shared volume: ")
    assert "DeletionFailed" in await events_until(hasty, dpu, "DeletionFailed")
