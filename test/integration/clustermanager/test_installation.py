"""Where Kamaji is not installed yet, and under the rights that the manager is given."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from dpf.runtime.client import Client
from dpf.runtime.conditions import find
from dpf.runtime.errors import AlreadyExists, NotFound
from dpf.runtime.k8s import ConfigMap, CustomResourceDefinition, DaemonSet, Event, Namespace, Service
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import ObjectMeta
from dpf.runtime.testing import eventually, eventually_gone
from dpf.sandbox import manifests
from dpf.sandbox.api import Api, Json
from dpf_api.dpucluster import DPUCluster
from dpf_api.kamaji import DataStore, TenantControlPlane
from test.integration.clustermanager.conftest import World
from test.integration.conftest import Planes, crds, may, may_list

NAMESPACE = "dpf-operator-system"


def definitions(*names: str) -> list[Json]:
    """The CRDs with those plurals."""
    return [crd for crd in crds() if crd["spec"]["names"]["plural"] in names]


@pytest.fixture
async def bare(control_planes: Planes, dpu_client: Client, namespace: str) -> AsyncIterator[World]:
    """A namespace of a server that knows DPUClusters but not Kamaji: the other cluster of the run, in which nobody wants either."""
    await dpu_client.create(Namespace(metadata=ObjectMeta(name=namespace)))
    async with Api(Kubeconfig.load(control_planes.dpu), user_agent="test") as api:
        await manifests.Applier(api).install_crds(definitions("dpuclusters"))
    yield World(dpu_client, control_planes.dpu, namespace)
    # Nobody is left who would take the finalizers off, and with an object stays its definition.
    for kind in (DPUCluster, TenantControlPlane):
        with suppress(NotFound):
            for obj in await dpu_client.list(kind, namespace):
                await dpu_client.merge_patch(obj, {"metadata": {"finalizers": None}})
    for crd in definitions("dpuclusters", "tenantcontrolplanes", "datastores"):
        name = crd["metadata"]["name"]
        await dpu_client.delete(CustomResourceDefinition(metadata=ObjectMeta(name=name)))
        await eventually_gone(dpu_client, CustomResourceDefinition, name)


async def test_a_manager_waits_for_kamaji_to_be_installed_and_goes_on_when_it_is(
    bare: World, control_planes: Planes
) -> None:
    async with bare.manager():
        await bare.create()
        waiting = await bare.says("Created", "KamajiNotInstalled")
        assert "tenantcontrolplanes.kamaji.clastix.io" in waiting.message
        assert await bare.host.list(Service, bare.namespace) == []
        async with Api(Kubeconfig.load(control_planes.dpu), user_agent="test") as api:
            await manifests.Applier(api).install_crds(definitions("tenantcontrolplanes", "datastores"))
        await bare.says("Created", "DataStoreMissing")
        # Its objects are watched by now: what Kamaji says is heard.
        await bare.serve()
        await bare.says("Created", "Created")
        gone = CustomResourceDefinition(metadata=ObjectMeta(name=str(TenantControlPlane.RESOURCE)))
        await bare.host.delete(gone)
        assert (await bare.says("Created", "KamajiNotInstalled")).status == "False"


@pytest.mark.xdist_group("operator-namespace")  # managers of all rights there see each other's objects
async def test_its_rights_are_enough(control_planes: Planes, host_client: Client, data_store: None) -> None:
    with suppress(AlreadyExists):
        await host_client.create(Namespace(metadata=ObjectMeta(name=NAMESPACE)))
    async with Api(Kubeconfig.load(control_planes.host), user_agent="test") as api:
        await manifests.Applier(api).apply(manifests.documents(manifests.CONFIG / "rbac"))
    account = control_planes.account("kamaji-cluster-manager", NAMESPACE)
    world = World(host_client, account, NAMESPACE)
    await may_list(account, DPUCluster, namespace=NAMESPACE)
    await may(
        account,
        lambda client: client.get(CustomResourceDefinition, str(TenantControlPlane.RESOURCE)),
        lambda client: client.get(DataStore, "default"),
    )
    name = f"rights-{uuid.uuid4().hex[:8]}"
    keepalived = {"vip": "192.0.2.11", "virtualRouterID": 8, "interface": "eth0", "nodeSelector": {"test": "rights"}}
    async with world.manager():
        cluster = await world.create(name, clusterEndpoint={"keepalived": keepalived})
        await world.serve(name)
        await world.says("Created", "Created", name)
        await world.says("KeepalivedReady", "NoNodeFits", name)
        await eventually_event(host_client, name, "Created")
        await host_client.merge_patch(cluster, {"spec": {"clusterEndpoint": None}})
        await eventually_gone(host_client, DaemonSet, f"{name}-keepalived", NAMESPACE)
        await eventually_gone(host_client, ConfigMap, f"{name}-keepalived", NAMESPACE)
        await eventually(
            host_client,
            DPUCluster,
            name,
            NAMESPACE,
            until=lambda c: find(c.status.conditions, "KeepalivedReady") is None,
        )
    assert world.refused == 0
    await host_client.delete(cluster)


async def eventually_event(client: Client, cluster: str, reason: str) -> None:
    """Returns once there is an event of that reason on the cluster."""
    async for _, event in client.watch(Event, NAMESPACE):
        if (event.regarding.name, event.reason) == (cluster, reason):
            return
