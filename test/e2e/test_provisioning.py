"""The way of a DPU and back, with everything real but the card."""

from __future__ import annotations

import uuid

import pytest

from dpf.runtime import conditions
from dpf.runtime.errors import Forbidden
from dpf.runtime.k8s import Node, Pod, Secret
from dpf.runtime.meta import Object, ObjectMeta
from dpf.runtime.testing import eventually, eventually_gone
from dpf.sandbox.layout import NAMESPACE
from dpf_api.bfb import BFB, BFBSpec
from dpf_api.bfb import Phase as BFBPhase
from dpf_api.dpu import DPU, ConditionType, Phase
from dpf_api.dpucluster import DPUCluster
from dpf_api.dpucluster import Phase as ClusterPhase
from dpf_api.dpuset import DPUSet
from dpf_api.nodemaintenance import NodeMaintenance
from test.e2e.conftest import Box
from test.spec import spec

DONE = set(ConditionType) - {ConditionType.DPU_NODE_HEALTHY}
"""Conditions of a DPU that has gone all the way."""


def true_of(dpu: DPU) -> set[str]:
    """The conditions that hold."""
    return {c.type for c in dpu.status.conditions if c.status == "True"}


@spec("provisioning:101")
async def test_a_dpu_becomes_ready_and_goes_leaving_nothing_behind(box: Box, host: str) -> None:
    name = await box.provision(host)
    await box.ready(name)
    # A DPU is Ready though its DMS is still being started again behind the host's reboot.
    await eventually(box.client, DPU, name, NAMESPACE, until=lambda dpu: true_of(dpu) == DONE)
    node = await box.dpu_client.get(Node, name)
    assert node.labels["provisioning.dpu.nvidia.com/host"] == host
    assert node.ready
    await box.client.delete(DPUSet(metadata=ObjectMeta(name=f"set-{host}", namespace=NAMESPACE)))
    await eventually_gone(box.client, DPU, name, NAMESPACE)
    await eventually_gone(box.dpu_client, Node, name)
    left: list[Object] = [
        *await box.client.list(Pod, NAMESPACE),
        *await box.client.list(Secret, NAMESPACE),
        *await box.dpu_client.list(Secret, "kube-system"),
    ]
    assert [obj.name for obj in left if name in obj.name or name in str(getattr(obj, "data", ""))] == []
    assert [m.name for m in await box.client.list(NodeMaintenance, NAMESPACE) if m.name == host] == []
    # The cluster's own taints come and go while another test has the API server killed.
    taints = (await box.client.get(Node, host)).spec.taints
    assert [taint.key for taint in taints if not taint.key.startswith("node.kubernetes.io/")] == []


@pytest.mark.parametrize(
    "effect",
    [
        {"noEffect": True},
        {"customLabel": {"dpf.example/busy": "yes"}},
        {"taint": {"key": "dpf", "effect": "NoSchedule"}},
    ],
    ids=lambda effect: next(iter(effect)),
)
async def test_a_node_effect_holds_while_the_card_is_provisioned_and_is_undone(
    box: Box, host: str, effect: dict[str, object]
) -> None:
    dpu = await box.provision(host, nodeEffect=effect)
    await box.in_phase(dpu, Phase.OS_INSTALLING)
    node = await box.client.get(Node, host)
    assert ("dpf.example/busy" in node.labels) == ("customLabel" in effect)
    assert any(taint.key == "dpf" for taint in node.spec.taints) == ("taint" in effect)
    await box.ready(dpu)
    await eventually(
        box.client,
        Node,
        host,
        until=lambda n: "dpf.example/busy" not in n.labels and not any(t.key == "dpf" for t in n.spec.taints),
    )


@spec("provisioning:100")
async def test_every_dpu_cluster_of_the_sandbox_is_ready(box: Box) -> None:
    def is_ready(cluster: DPUCluster) -> bool:
        return cluster.status.phase is ClusterPhase.READY and conditions.is_true(cluster.status.conditions, "Ready")

    # One whose API server another test has killed is so again in a moment.
    for cluster in await box.client.list(DPUCluster):
        await eventually(box.client, DPUCluster, cluster.name, cluster.namespace, until=is_ready)


@spec("provisioning:102")
async def test_a_bfb_in_use_cannot_be_deleted_until_its_last_dpu_is_gone(box: Box, host: str) -> None:
    name = f"bfb-{host}"
    bfb = await box.client.create(
        BFB(metadata=ObjectMeta(name=name, namespace=NAMESPACE), spec=BFBSpec(url=box.settings.bfb_url))
    )
    dpu = await box.provision(host, bfb={"name": name})
    await box.in_phase(dpu, Phase.OS_INSTALLING)
    with pytest.raises(Forbidden, match=f"in use by DPUSet set-{host}"):
        await box.client.delete(bfb)
    await box.client.delete(DPUSet(metadata=ObjectMeta(name=f"set-{host}", namespace=NAMESPACE)))
    await eventually_gone(box.client, DPU, dpu, NAMESPACE)
    await box.client.delete(bfb)
    await eventually_gone(box.client, BFB, name, NAMESPACE)


async def test_an_image_that_is_not_there_is_named_and_stops_nobody(box: Box) -> None:
    name, url = f"missing-{uuid.uuid4().hex[:8]}", box.settings.bfb_url.replace(".bfb", "-missing.bfb")
    await box.client.create(BFB(metadata=ObjectMeta(name=name, namespace=NAMESPACE), spec=BFBSpec(url=url)))
    bfb = await eventually(box.client, BFB, name, NAMESPACE, until=lambda obj: obj.status.phase is BFBPhase.ERROR)
    assert bfb.status.reason == "HTTPStatus"
    assert "404" in bfb.status.message
    await box.client.delete(bfb)
    await eventually_gone(box.client, BFB, name, NAMESPACE)
