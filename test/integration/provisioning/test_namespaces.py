"""DPUClusters in namespaces of their own, while all else is in the operator's."""

from __future__ import annotations

import pytest

from dpf.provisioning.dpucluster.kubeconfigs import READER
from dpf.runtime.client import Client
from dpf.runtime.k8s import Namespace, Secret, encoded
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import ObjectMeta
from dpf.runtime.testing import eventually, eventually_gone
from dpf.sandbox import manifests
from dpf.sandbox.api import Api
from dpf_api.dpu import DPU
from dpf_api.dpucluster import DPUCluster
from dpf_api.dpucluster import Phase as ClusterPhase
from dpf_api.dpuset import DPUSet
from dpf_api.names import FINALIZER_DPUCLUSTER
from test.integration.conftest import Planes
from test.integration.provisioning.conftest import PCI, FakeDms, World

KUBECONFIG = "tenant-kubeconfig"


@pytest.fixture
async def tenant(host_client: Client, namespace: str) -> str:
    """A namespace besides that of the test."""
    return (await host_client.create(Namespace(metadata=ObjectMeta(name=f"{namespace}-tenant")))).name


async def create_cluster(world: World, tenant: str, name: str = "c1") -> DPUCluster:
    """A static DPUCluster; its Secret is a matter of its own."""
    metadata = {"name": name, "namespace": tenant, "labels": {"test": world.namespace}}
    spec = {"type": "static", "version": "", "kubeconfig": KUBECONFIG}
    return await world.host.create(DPUCluster.model_validate({"metadata": metadata, "spec": spec}))


async def create_secret(world: World, tenant: str, text: str = "") -> Secret:
    """The Secret that they name."""
    data = encoded({"admin.conf": text or world.planes.dpu.read_text()})
    return await world.host.create(Secret(metadata=ObjectMeta(name=KUBECONFIG, namespace=tenant), data=data))


async def in_phase(world: World, cluster: DPUCluster, phase: ClusterPhase, *, saying: str = "") -> DPUCluster:
    """The cluster once it is in the phase, with those words in its message."""
    return await eventually(
        world.host,
        DPUCluster,
        cluster.name,
        cluster.namespace,
        until=lambda c: c.status.phase is phase and saying in c.status.message,
    )


async def test_a_dpu_is_given_to_a_cluster_of_another_namespace_and_goes_all_the_way(
    idle_world: World, tenant: str
) -> None:
    world = idle_world
    world.everywhere = True
    async with world.manager():
        await create_secret(world, tenant)
        cluster = await create_cluster(world, tenant)
        await in_phase(world, cluster, ClusterPhase.READY)
        await world.bfb()
        node = await world.node()
        dpuset = await world.dpuset()
        name = f"{world.host_node}-{PCI}"
        dpu = await world.goes_the_way(name, node)
        assert (dpu.spec.cluster.namespace, dpu.spec.cluster.name) == cluster.key
        counted = await eventually(world.host, DPUCluster, "c1", tenant, until=lambda c: c.status.assigned_dpus == 1)
        # Its DPU keeps it, from the other namespace.
        await world.host.delete(counted)
        held = await in_phase(world, cluster, ClusterPhase.READY, saying=name)
        assert held.status.reason == "InUse"
        await world.host.delete(dpuset)
        await eventually_gone(world.host, DPUSet, "set", world.namespace)
        await world.host.delete(dpu)
        await eventually_gone(world.host, DPU, name, world.namespace)
        await eventually_gone(world.host, DPUCluster, "c1", tenant)


async def test_a_secret_of_another_namespace_may_come_later_and_change(idle_world: World, tenant: str) -> None:
    world = idle_world
    world.everywhere = True
    async with world.manager():
        cluster = await create_cluster(world, tenant)
        missing = await in_phase(world, cluster, ClusterPhase.NOT_READY)
        assert missing.status.message == f"no Secret {KUBECONFIG} (type Opaque) in namespace {tenant}; create it"
        secret = await create_secret(world, tenant, "nonsense")
        await in_phase(world, cluster, ClusterPhase.NOT_READY, saying="can't be used")
        await world.host.merge_patch(secret, {"data": encoded({"admin.conf": world.planes.dpu.read_text()})})
        await in_phase(world, cluster, ClusterPhase.READY)
        # Made anew under its name it has another watch, and the former one is gone.
        await world.host.delete(cluster)
        await eventually_gone(world.host, DPUCluster, cluster.name, tenant)
        await in_phase(world, await create_cluster(world, tenant), ClusterPhase.READY)


async def test_without_the_flag_clusters_of_other_namespaces_are_left_alone(world: World, tenant: str) -> None:
    theirs = await create_cluster(world, tenant)
    # When ours is Ready, theirs would have been seen too.
    await world.cluster()
    assert FINALIZER_DPUCLUSTER not in (await world.host.get(DPUCluster, theirs.name, tenant)).metadata.finalizers


@pytest.mark.xdist_group("operator-namespace")  # managers of all rights there see each other's objects
async def test_a_secret_that_may_not_be_read_is_named_and_read_once_it_may(
    control_planes: Planes, host_client: Client, dpu_client: Client, namespace: str, tenant: str
) -> None:
    async with Api(Kubeconfig.load(control_planes.host), user_agent="test") as api:
        applier = manifests.Applier(api)
        await host_client.apply(Namespace(metadata=ObjectMeta(name="dpf-operator-system")))
        await applier.apply(manifests.documents(manifests.CONFIG / "rbac"))
        account = control_planes.account("provisioning-manager", "dpf-operator-system")
        world = World(host_client, dpu_client, control_planes, "dpf-operator-system", FakeDms(), account=account)
        # By label: clusters that other tests make are none of its business.
        world.everywhere = True
        async with world.manager():
            await create_secret(world, tenant)
            cluster = await create_cluster(world, tenant)
            refused = await in_phase(world, cluster, ClusterPhase.NOT_READY, saying=READER)
            assert f'"system:serviceaccount:{world.namespace}:provisioning-manager" cannot' in refused.status.message
            assert f'in the namespace "{tenant}"' in refused.status.message
            kind, group = "ClusterRole", "rbac.authorization.k8s.io"
            binding = {
                "apiVersion": f"{group}/v1",
                "kind": "RoleBinding",
                "metadata": {"name": READER, "namespace": tenant},
                "roleRef": {"apiGroup": group, "kind": kind, "name": READER},
                "subjects": [{"kind": "ServiceAccount", "name": "provisioning-manager", "namespace": world.namespace}],
            }
            await applier.apply([binding])
            await in_phase(world, cluster, ClusterPhase.READY)
            others = world.refused
            await host_client.delete(cluster)
            await eventually_gone(host_client, DPUCluster, cluster.name, tenant)
            assert world.refused == others, "all else was its right"
