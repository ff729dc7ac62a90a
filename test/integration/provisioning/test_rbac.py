"""The managers get by with the rights of config/rbac, and need nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from dpf.runtime.client import Client
from dpf.runtime.errors import AlreadyExists, NotFound
from dpf.runtime.k8s import Namespace, Node, Pod, Secret
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import Object, ObjectMeta
from dpf.runtime.testing import eventually_gone
from dpf.sandbox import manifests
from dpf.sandbox.api import Api
from dpf_api.bfb import BFB
from dpf_api.dpu import DPU
from dpf_api.dpucluster import DPUCluster
from dpf_api.dpuset import DPUSet
from dpf_api.nodemaintenance import NodeMaintenance
from test.integration.conftest import Planes, may_list
from test.integration.provisioning.conftest import PCI, FakeDms, World

NAMESPACE = "dpf-operator-system"


MADE: tuple[type[Object], ...] = (DPUSet, DPU, Pod, NodeMaintenance, BFB, DPUCluster)
"""What there may be in the namespace after the test, besides its Secret and its Nodes."""


@pytest.fixture
async def accounts(control_planes: Planes, host_client: Client, dpu_client: Client) -> AsyncIterator[None]:
    """The accounts and their rights, as a user applies them. The namespace is not the test's own, so that it is left as it was:
    another try of it has the same names."""
    with suppress(AlreadyExists):
        await host_client.create(Namespace(metadata=ObjectMeta(name=NAMESPACE)))
    async with Api(Kubeconfig.load(control_planes.host), user_agent="test") as api:
        await manifests.Applier(api).apply(manifests.documents(manifests.CONFIG / "rbac"))
    yield
    for kind in MADE:
        for obj in await host_client.list(kind, NAMESPACE):
            with suppress(NotFound):
                await host_client.merge_patch(obj, {"metadata": {"finalizers": None}})
            await host_client.delete(obj)
    await host_client.delete(Secret(metadata=ObjectMeta(name="c1-kubeconfig", namespace=NAMESPACE)))
    for client in (host_client, dpu_client):
        for node in await client.list(Node):
            if NAMESPACE in node.name:
                await client.delete(node)


@pytest.mark.xdist_group("operator-namespace")  # managers of all rights there see each other's objects
async def test_the_rights_of_the_provisioning_manager_are_enough(
    accounts: None, control_planes: Planes, host_client: Client, dpu_client: Client
) -> None:
    account = control_planes.account("provisioning-manager", NAMESPACE)
    world = World(host_client, dpu_client, control_planes, NAMESPACE, FakeDms(), account=account)
    await may_list(account, DPU, Node, namespace=NAMESPACE)
    async with world.manager():
        await world.bfb()
        await world.cluster()
        node = await world.node()
        drain = {"drain": {"automaticNodeReboot": True}}
        template = {"spec": {"bfb": {"name": "image"}, "nodeEffect": {"customLabel": {"busy": "yes"}}}}
        dpuset = await world.dpuset(dpuTemplate=template)
        name = f"{world.host_node}-{PCI}"
        await world.goes_the_way(name, node)
        drained = await world.create_dpu("drained", pci="0000-85-00", nodeEffect=drain)
        await world.eventually(DPU, drained.name, until=lambda dpu: dpu.status.reason == "Draining")
        await host_client.delete(drained)
        await eventually_gone(host_client, DPU, drained.name, NAMESPACE)
        await host_client.delete(dpuset)
        await eventually_gone(host_client, DPUSet, "set", NAMESPACE)
        # The garbage collector takes half a minute to learn of new kinds; this is not about it.
        await host_client.delete(await host_client.get(DPU, name, NAMESPACE))
        await eventually_gone(host_client, DPU, name, NAMESPACE)
        await eventually_gone(dpu_client, Node, name)
    assert world.refused == 0
