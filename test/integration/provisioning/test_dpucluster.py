"""DPUClusters on real API servers, and DPUs given to them."""

from __future__ import annotations

import pytest
import yaml

from dpf.runtime.conditions import find, is_true, new, set_condition
from dpf.runtime.k8s import Secret, encoded
from dpf.runtime.meta import Key, ObjectMeta
from dpf.runtime.testing import eventually_gone
from dpf_api.dpu import DPU
from dpf_api.dpucluster import DPUCluster, Phase
from dpf_api.names import FINALIZER_DPUCLUSTER
from test.integration.provisioning.conftest import World
from test.spec import spec


@spec("provisioning:67", "provisioning:68")
@pytest.mark.parametrize(
    "more", [{}, {"clusterEndpoint": {"keepalived": {"vip": "10.0.0.9", "virtualRouterID": 1, "interface": "br-dpu"}}}]
)
async def test_a_cluster_gets_its_finalizer_and_waits_for_its_manager(world: World, more: dict[str, object]) -> None:
    spec_ = {"type": "nobody.io/none", "version": "v1.31.0", **more}
    meta = {"name": "c", "namespace": world.namespace}
    await world.host.create(DPUCluster.model_validate({"metadata": meta, "spec": spec_}))
    found = await world.eventually(DPUCluster, "c", until=lambda each: each.status.phase is Phase.CREATING)
    assert found.metadata.finalizers == [FINALIZER_DPUCLUSTER]
    await world.host.delete(found)
    await eventually_gone(world.host, DPUCluster, "c", world.namespace)


@spec("provisioning:98")
async def test_a_manager_leaves_clusters_of_other_types_alone(world: World) -> None:
    await world.cluster("ours")
    meta = {"name": "theirs", "namespace": world.namespace}
    spec_ = {"type": "other.io/x", "version": "", "kubeconfig": "ours-kubeconfig"}
    await world.host.create(DPUCluster.model_validate({"metadata": meta, "spec": spec_}))
    await world.eventually(DPUCluster, "theirs", until=lambda each: each.status.phase is Phase.CREATING)
    assert find((await world.host.get(DPUCluster, "theirs", world.namespace)).status.conditions, "Created") is None


@spec("provisioning:96", "provisioning:97")
async def test_all_clusters_are_connected_by_kubeconfigs_without_context_whatever_their_state(world: World) -> None:
    config = yaml.safe_load(world.planes.dpu.read_text())
    bare = {key: value for key, value in config.items() if key not in ("contexts", "current-context")}
    assert (len(bare["clusters"]), len(bare["users"])) == (1, 1)
    keys = [Key(world.namespace, name) for name in ("c1", "c2", "c3")]
    for key in keys:
        meta = ObjectMeta(name=f"{key.name}-kubeconfig", namespace=key.namespace)
        await world.host.create(Secret(metadata=meta, data=encoded({"admin.conf": yaml.safe_dump(bare)})))
        body = {"type": "static", "version": "", "kubeconfig": meta.name}
        await world.host.create(
            DPUCluster.model_validate({"metadata": {"name": key.name, "namespace": key.namespace}, "spec": body})
        )
    for key in keys:
        found = await world.eventually(DPUCluster, key.name, until=lambda each: each.status.phase is Phase.READY)
    down = set_condition(found.status.conditions, new("KeepalivedReady", False, "PodsNotReady"))
    await world.host.status(found).set(found.status.model_copy(update={"conditions": down}))
    await world.eventually(DPUCluster, "c3", until=lambda each: each.status.phase is Phase.NOT_READY)
    assert world.remotes is not None
    assert world.remotes.keys() == keys
    for key in keys:
        kubeconfig = world.remotes.get(key).client.transport.kubeconfig
        assert kubeconfig.server == bare["clusters"][0]["cluster"]["server"]


async def test_a_cluster_is_ready_when_its_server_answers_and_says_which_version(world: World) -> None:
    cluster = await world.cluster()
    assert is_true(cluster.status.conditions, "Created")
    assert is_true(cluster.status.conditions, "Ready")
    assert cluster.status.version.startswith("v1.")
    assert cluster.status.endpoint.startswith("https://")


async def test_a_kubeconfig_that_cannot_be_used_is_named_and_can_be_mended(world: World) -> None:
    meta = {"name": "k", "namespace": world.namespace}
    await world.host.create(Secret.model_validate({"metadata": meta, "data": encoded({"admin.conf": "nonsense"})}))
    body = {"type": "static", "version": "", "kubeconfig": "k"}
    await world.host.create(
        DPUCluster.model_validate({"metadata": {"name": "c", "namespace": world.namespace}, "spec": body})
    )
    broken = await world.eventually(DPUCluster, "c", until=lambda each: each.status.phase is Phase.NOT_READY)
    assert "Secret k" in broken.status.message
    secret = await world.host.get(Secret, "k", world.namespace)
    await world.host.merge_patch(secret, {"data": encoded({"admin.conf": world.planes.dpu.read_text()})})
    await world.eventually(DPUCluster, "c", until=lambda each: each.status.phase is Phase.READY)


@spec("provisioning:57", "provisioning:61", "provisioning:62")
async def test_max_nodes_holds_and_a_free_place_is_given_on(world: World) -> None:
    await world.node()
    await world.cluster(max_nodes=1)
    first = await world.create_dpu("d1")
    first = await world.eventually(DPU, first.name, until=lambda dpu: dpu.spec.cluster.name == "c1")
    second = await world.create_dpu("d2", pci="0000-85-00")
    waiting = await world.eventually(DPU, second.name, until=lambda dpu: dpu.status.reason == "DPUClusterNotReady")
    assert "full" in waiting.status.message
    assert waiting.spec.cluster.name == ""
    await world.host.delete(first)
    await world.eventually(DPU, second.name, until=lambda dpu: dpu.spec.cluster.name == "c1")
