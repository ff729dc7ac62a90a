"""The webhooks of provisioning, called by a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from dpf.provisioning.admission.register import registration, webhooks
from dpf.runtime.client import Client
from dpf.runtime.cluster import Cluster
from dpf.runtime.errors import Forbidden, Invalid
from dpf.runtime.k8s import WebhookConfiguration
from dpf.runtime.metrics import Metrics
from dpf.runtime.webhook import Endpoint, WebhookServer
from dpf_api.bfb import BFB
from dpf_api.dpu import DPU
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.dpuset import DPUSet, StrategyType
from dpf_api.names import ANNOTATION_CHECKSUM, ANNOTATION_HOST_POWER_CYCLE_REQUIRED
from test.integration.runtime.test_webhook import free_port
from test.spec import spec

pytestmark = pytest.mark.xdist_group("webhook")  # registrations hold for the whole cluster

URL = "https://example.com/bf.bfb"


class Scoped(WebhookServer):
    """Asked about one namespace only: other tests write these kinds too."""

    def configurations(self) -> list[WebhookConfiguration]:
        found = super().configurations()
        selector = {"matchLabels": {"kubernetes.io/metadata.name": self._registration.namespace}}
        return [
            each.model_copy(update={"webhooks": [entry | {"namespaceSelector": selector} for entry in each.webhooks]})
            for each in found
        ]


@asynccontextmanager
async def serving(client: Client, namespace: str) -> AsyncIterator[None]:
    port = free_port()
    own = replace(registration(namespace), mutating=f"mutating-{namespace}", validating=f"validating-{namespace}")
    endpoint = Endpoint(url=f"https://127.0.0.1:{port}")
    server = Scoped(client, f"127.0.0.1:{port}", endpoint, own, Metrics())
    cluster = Cluster("host", client, namespace=namespace)
    server.add(*webhooks(cluster))
    tasks = [asyncio.create_task(part.run()) for part in (cluster.cache, server)]
    try:
        await cluster.cache.synced()
        await _called(client, namespace)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for configuration in server.configurations():
            await client.delete(configuration)


async def _called(client: Client, namespace: str) -> None:
    """The API server takes a moment to call a webhook that was just registered; one of each configuration is tried."""
    filled = refused = False
    async with asyncio.timeout(30):
        while not (filled and refused):
            bfb = await client.create(bfb_of("probe", namespace))
            filled = bool(bfb.spec.file_name)
            await client.delete(bfb)
            try:
                await client.delete(await client.create(dpu_of("probe", namespace, POWER_CYCLE)))
            except Invalid:
                refused = True


NO_LABELS = {"": "x", "ü☃": "x"}
POWER_CYCLE = {ANNOTATION_HOST_POWER_CYCLE_REQUIRED: "yes"}


def bfb_of(name: str, namespace: str, **spec: str) -> BFB:
    return BFB.model_validate({"metadata": {"name": name, "namespace": namespace}, "spec": {"url": URL} | spec})


def dpu_of(name: str, namespace: str, annotations: dict[str, str]) -> DPU:
    meta = {"name": name, "namespace": namespace, "annotations": annotations}
    return DPU.model_validate({"metadata": meta, "spec": {"nodeName": "n", "bfb": "image", "dpuFlavor": "flavor"}})


def dpuset_of(name: str, namespace: str, **spec: Any) -> DPUSet:
    return DPUSet.model_validate({"metadata": {"name": name, "namespace": namespace}, "spec": spec})


@spec("provisioning:10")
async def test_provisioning_is_admitted_as_upstream_admits_it(host_client: Client, namespace: str) -> None:
    """One test of all: the registrations hold for the whole cluster and had better be short."""
    async with serving(host_client, namespace):
        bfb = await host_client.create(bfb_of("image", namespace))
        assert bfb.spec.file_name == f"{namespace}-image.bfb"
        again = await host_client.replace(bfb_of("image", namespace).model_copy(update={"metadata": bfb.metadata}))
        assert again.spec.file_name == bfb.spec.file_name
        with pytest.raises(Invalid, match=rf"spec\.fileName: .* is the file of BFB {namespace}/image already"):
            await host_client.create(bfb_of("other", namespace, fileName=bfb.spec.file_name))

        with pytest.raises(Invalid, match=r"spec\.fileName: .*may have 255 characters.* gets <namespace>-<name>\.bfb"):
            await host_client.create(bfb_of("b" * 250, namespace))

        with pytest.raises(Invalid, match=r"metadata\.annotations\[.*/checksum\]: must be sha256: and 64"):
            await host_client.merge_patch(again, {"metadata": {"annotations": {ANNOTATION_CHECKSUM: "md5:1"}}})

        flavor = await host_client.create(
            DPUFlavor.model_validate({"metadata": {"name": "flavor", "namespace": namespace}})
        )
        huge = {"configFiles": [{"path": "/a", "raw": "x" * 140_000}]}
        meta = {"name": "huge", "namespace": namespace}
        with pytest.raises(Invalid, match=r"spec\.configFiles: .*a card takes 131072"):
            await host_client.create(DPUFlavor.model_validate({"metadata": meta, "spec": huge}))
        with pytest.raises(Invalid, match=r"spec\.configFiles: .*a card takes 131072"):
            await host_client.merge_patch(flavor, {"spec": huge})
        flavor = await host_client.merge_patch(flavor, {"spec": {"sysctl": {"parameters": ["a=1"]}}})
        dpu = await host_client.create(dpu_of("d1", namespace, {}))
        for used in (bfb, flavor):
            with pytest.raises(Forbidden, match="is in use by DPU d1; delete those first"):
                await host_client.delete(used)
        with pytest.raises(Invalid, match=r"DPU\.provisioning\.dpu\.nvidia\.com .* is not a boolean"):
            await host_client.merge_patch(dpu, {"metadata": {"annotations": POWER_CYCLE}})
        for labels in (NO_LABELS, {"p" * 254 + "/n": ""}, {"a": "v" * 64}, {"a": "-"}):
            with pytest.raises(Invalid, match=r"spec\.cluster\.nodeLabels\[.*: a label's (key|value) is"):
                await host_client.merge_patch(dpu, {"spec": {"cluster": {"nodeLabels": labels}}})
            effect = {"drain": None, "customLabel": labels}
            with pytest.raises(Invalid, match=r"spec\.nodeEffect\.customLabel\[.*: a label's (key|value) is"):
                await host_client.merge_patch(dpu, {"spec": {"nodeEffect": effect}})
        await host_client.merge_patch(dpu, {"spec": {"cluster": {"nodeLabels": {"p" * 253 + "/n": "v" * 63}}}})
        await host_client.delete(dpu)
        await host_client.delete(bfb)
        await host_client.delete(flavor)

        dpuset = await host_client.create(dpuset_of("set", namespace))
        assert dpuset.spec.strategy is not None
        assert dpuset.spec.strategy.type is StrategyType.RECREATE
        rolling = await host_client.merge_patch(
            dpuset, {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {}}}}
        )
        assert rolling.spec.strategy is not None
        assert rolling.spec.strategy.rolling_update is not None
        assert rolling.spec.strategy.rolling_update.max_unavailable == 1
        with pytest.raises(Invalid, match=r"spec\.dpuTemplate\.annotations\[.*is not a boolean"):
            await host_client.merge_patch(rolling, {"spec": {"dpuTemplate": {"annotations": POWER_CYCLE}}})
        template = {"dpuTemplate": {"spec": {"cluster": {"nodeLabels": NO_LABELS}}}}
        with pytest.raises(Invalid, match=r"spec\.dpuTemplate\.spec\.cluster\.nodeLabels\[\]: a label's key is"):
            await host_client.merge_patch(rolling, {"spec": template})
        with pytest.raises(Invalid, match=r"spec\.dpuTemplate\.spec\.cluster\.nodeLabels\[ü☃\]: a label's key is"):
            await host_client.create(dpuset_of("other", namespace, **template))
        template = {"dpuTemplate": {"spec": {"nodeEffect": {"customLabel": NO_LABELS}}}}
        with pytest.raises(Invalid, match=r"spec\.dpuTemplate\.spec\.nodeEffect\.customLabel\[ü☃\]: a label's key is"):
            await host_client.create(dpuset_of("other", namespace, **template))
