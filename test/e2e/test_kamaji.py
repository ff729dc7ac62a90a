"""A DPU cluster that is made on demand, and a card that joins it: Kamaji is the one part that is stood in for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from dpf.ctl.samples import kamaji_cluster
from dpf.runtime.client import Client
from dpf.runtime.errors import AlreadyExists, NotFound
from dpf.runtime.k8s import Namespace, Node, Secret, Service
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import ObjectMeta
from dpf.runtime.testing import eventually, eventually_gone
from dpf.sandbox.layout import NAMESPACE
from dpf_api.dpu import DPU
from dpf_api.dpucluster import DPUCluster, Phase
from dpf_api.dpuset import DPUSet
from dpf_api.kamaji import TenantControlPlane
from test.e2e.conftest import READY_WITHIN, Box


@pytest.fixture(params=[NAMESPACE, "dpu-cplane-tenant1"])
async def cluster(box: Box, request: pytest.FixtureRequest) -> AsyncIterator[DPUCluster]:
    """A cluster of type kamaji, gone again after the test: cards of other tests must not be given to it. Among the other
    objects, and in a namespace of its own as the guides of v24.10 have it."""
    body = kamaji_cluster(box.settings)
    body["metadata"]["namespace"] = request.param
    with suppress(AlreadyExists):
        await box.client.create(Namespace(metadata=ObjectMeta(name=request.param)))
    made = await box.client.create(DPUCluster.model_validate(body))
    yield made
    await box.client.delete(made)
    for kind in (DPUCluster, TenantControlPlane, Service):
        await eventually_gone(box.client, kind, made.name, made.namespace, timeout=READY_WITHIN)


async def test_a_cluster_of_type_kamaji_becomes_ready_and_a_card_joins_it(
    box: Box, cluster: DPUCluster, host: str
) -> None:
    ready = await eventually(
        box.client,
        DPUCluster,
        cluster.name,
        cluster.namespace,
        until=lambda c: c.status.phase is Phase.READY,
        timeout=READY_WITHIN,
    )
    assert ready.spec.kubeconfig == f"{cluster.name}-admin-kubeconfig"
    dpu = await box.ready(await box.provision(host))
    assert (dpu.spec.cluster.namespace, dpu.spec.cluster.name) == cluster.key
    secret = await box.client.get(Secret, ready.spec.kubeconfig, cluster.namespace)
    kubeconfig = Kubeconfig.parse(secret.text("admin.conf"))
    assert kubeconfig.server == ready.status.endpoint
    async with Client(kubeconfig, field_owner="test") as inside:
        assert (await inside.get(Node, dpu.name)).ready
        with pytest.raises(NotFound):
            await box.dpu_client.get(Node, dpu.name)
        await box.client.delete(DPUSet(metadata=ObjectMeta(name=f"set-{host}", namespace=NAMESPACE)))
        await eventually_gone(box.client, DPU, dpu.name, NAMESPACE)
        await eventually_gone(inside, Node, dpu.name)
