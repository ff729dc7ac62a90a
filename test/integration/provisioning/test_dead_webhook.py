"""A dead webhook stops nothing but what may not go unchecked: all are registered as the manager does it, and nobody listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from hashlib import sha256
from itertools import count

import pytest

from dpf.provisioning.admission.register import registration, server
from dpf.runtime.client import Client
from dpf.runtime.errors import ApiError
from dpf.runtime.k8s import (
    MutatingWebhookConfiguration,
    Namespace,
    Node,
    Pod,
    ValidatingWebhookConfiguration,
    WebhookConfiguration,
)
from dpf.runtime.manager import Manager
from dpf.runtime.meta import Object, ObjectMeta
from dpf.runtime.testing import RETRY, eventually_gone
from dpf_api.bfb import BFB
from dpf_api.dpu import DPU, Phase
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.dpuset import DPUSet
from dpf_api.names import ANNOTATION_CHECKSUM, ANNOTATION_HOST_POWER_CYCLE_REQUIRED
from test.integration.provisioning.conftest import PCI, World
from test.integration.runtime.test_webhook import free_port

pytestmark = pytest.mark.xdist_group("webhook")  # registrations hold for the whole cluster

CHECKSUM = {ANNOTATION_CHECKSUM: f"sha256:{sha256(b'image').hexdigest()}"}
"""Of the image that the world has."""
POWER_CYCLE = {ANNOTATION_HOST_POWER_CYCLE_REQUIRED: "false"}
HELD = "test.dpf/held"


@dataclass
class Dead:
    """A namespace whose webhooks answered until just now."""

    world: World
    configurations: list[WebhookConfiguration]

    def bfb(self, name: str, namespace: str = "") -> BFB:
        meta = {"name": name, "namespace": namespace or self.world.namespace}
        return BFB.model_validate({"metadata": meta, "spec": {"url": "http://127.0.0.1:1/x.bfb"}})

    def flavor(self, name: str, namespace: str = "") -> DPUFlavor:
        return DPUFlavor(metadata=ObjectMeta(name=name, namespace=namespace or self.world.namespace))

    def dpu(self, name: str, annotations: dict[str, str]) -> DPU:
        meta = {"name": name, "namespace": self.world.namespace, "annotations": annotations}
        return DPU.model_validate({"metadata": meta, "spec": {"nodeName": "none", "bfb": "image"}})

    def dpuset(self, name: str, annotations: dict[str, str]) -> DPUSet:
        """A DPUSet that selects nothing."""
        spec = {"nodeSelector": {"matchLabels": {"test": "none"}}, "dpuTemplate": {"annotations": annotations}}
        return DPUSet.model_validate({"metadata": {"name": name, "namespace": self.world.namespace}, "spec": spec})


@pytest.fixture
async def dead(idle_world: World) -> AsyncIterator[Dead]:
    """Made while the webhooks answered: an image, a flavor, a host, a cluster, and a DPUSet whose DPU is on its way, all with the
    annotations that webhooks look at."""
    world, address = idle_world, f"127.0.0.1:{free_port()}"

    def serve(manager: Manager) -> None:
        server(manager, address)

    try:
        async with world.manager(prepare=serve):
            found = Dead(world, [])
            await _called(world.host, world.namespace)
            await world.host.merge_patch(await world.bfb(), {"metadata": {"annotations": CHECKSUM}})
            await world.host.create(found.flavor("flavor"))
            await world.cluster()
            await world.node()
            template = {
                "spec": {"bfb": {"name": "image"}, "nodeEffect": {"noEffect": True}},
                "annotations": POWER_CYCLE,
            }
            await world.dpuset(dpuTemplate=template)
            dpu = f"{world.host_node}-{PCI}"
            await world.eventually(DPU, dpu, until=lambda seen: seen.status.phase is Phase.DMS_DEPLOYMENT)
            leaving = await world.host.create(found.bfb("leaving"))
            await world.host.merge_patch(leaving, {"metadata": {"annotations": CHECKSUM, "finalizers": [HELD]}})
            await world.host.delete(leaving)
        own = registration(world.namespace)
        found.configurations = [
            await world.host.get(MutatingWebhookConfiguration, own.mutating),
            await world.host.get(ValidatingWebhookConfiguration, own.validating),
        ]
        yield found
    finally:
        await _unregister(world)


async def _called(client: Client, namespace: str) -> None:
    """Returns once the API server asks both kinds of webhook."""
    async with asyncio.timeout(30):
        for number in count():
            # Each of its own name: the one before may still be going.
            meta = {"name": f"probe-{number}", "namespace": namespace}
            image = {"metadata": meta, "spec": {"url": "http://127.0.0.1:1/x.bfb"}}
            # One that has just started refuses until it knows all objects.
            bfb = None
            try:
                bfb = await client.create(BFB.model_validate(image))
                await client.delete(bfb)
                wrong = {ANNOTATION_HOST_POWER_CYCLE_REQUIRED: "perhaps"}
                dpu = DPU.model_validate(
                    {"metadata": {**meta, "annotations": wrong}, "spec": {"nodeName": "none", "bfb": "image"}}
                )
                await client.delete(await client.create(dpu))
            except ApiError as error:
                if error.status == 422 and bfb is not None and bfb.spec.file_name:
                    return
            await asyncio.sleep(RETRY)


async def _unregister(world: World) -> None:
    own = registration(world.namespace)
    await world.host.delete(MutatingWebhookConfiguration(metadata=ObjectMeta(name=own.mutating)))
    await world.host.delete(ValidatingWebhookConfiguration(metadata=ObjectMeta(name=own.validating)))


async def refused(work: Awaitable[Object | None], webhook: str) -> None:
    """The API server does not do it, as it can't ask the webhook, and names that."""
    with pytest.raises(ApiError, match=f'failed calling webhook "{webhook}"') as raised:
        await work
    assert raised.value.status == 500


async def test_only_what_nobody_may_do_unchecked_is_refused_while_no_webhook_answers(
    dead: Dead, host_client: Client
) -> None:
    world, client = dead.world, host_client
    entries = {entry["name"]: entry for each in dead.configurations for entry in each.webhooks}
    assert {name: entry["failurePolicy"] for name, entry in entries.items()} == {
        "mbfb.kb.io": "Ignore",
        "mdpuset.kb.io": "Ignore",
        "vbfb.kb.io": "Fail",
        "vdpu.kb.io": "Fail",
        "vdpuflavor.kb.io": "Fail",
        "vdpuset.kb.io": "Fail",
    }
    for entry in entries.values():
        assert entry["timeoutSeconds"] == 5
        [selector] = entry["namespaceSelector"]["matchExpressions"]
        assert (selector["key"], selector["operator"]) == ("kubernetes.io/metadata.name", "In")
        assert selector["values"] == [world.namespace]
        [rule] = entry["rules"]
        assert rule["apiGroups"] == [BFB.RESOURCE.group]
        assert not any("/" in resource or "*" in resource for resource in rule["resources"]), "no status writes"

    image = await client.get(BFB, "image", world.namespace)
    dpuset = await client.get(DPUSet, "set", world.namespace)
    dpu = await client.get(DPU, f"{world.host_node}-{PCI}", world.namespace)
    yes = {ANNOTATION_HOST_POWER_CYCLE_REQUIRED: "true"}
    other = {ANNOTATION_CHECKSUM: f"sha256:{'1' * 64}"}
    await refused(client.create(dead.bfb("new")), "vbfb.kb.io")
    await refused(client.merge_patch(image, {"metadata": {"annotations": other}}), "vbfb.kb.io")
    await refused(client.delete(image), "vbfb.kb.io")
    await refused(client.create(dead.flavor("new")), "vdpuflavor.kb.io")
    await refused(client.delete(dead.flavor("flavor")), "vdpuflavor.kb.io")
    await refused(client.create(dead.dpu("new", POWER_CYCLE)), "vdpu.kb.io")
    await refused(client.merge_patch(dpu, {"metadata": {"annotations": yes}}), "vdpu.kb.io")
    await refused(client.create(dead.dpuset("new", POWER_CYCLE)), "vdpuset.kb.io")
    await refused(client.merge_patch(dpuset, {"spec": {"dpuTemplate": {"annotations": yes}}}), "vdpuset.kb.io")

    mislabelled = {"cluster": {"nodeLabels": {"ü☃": "1"}}}
    await refused(client.merge_patch(dpu, {"spec": mislabelled}), "vdpu.kb.io")
    await refused(client.merge_patch(dpuset, {"spec": {"dpuTemplate": {"spec": mislabelled}}}), "vdpuset.kb.io")

    # Objects that are there, annotated as they are, can be changed, their status written, and finalizers taken off.
    none = {ANNOTATION_HOST_POWER_CYCLE_REQUIRED: None}
    label = {"metadata": {"labels": {"test": "changed"}}}
    for each in (image, dpuset, dpu, dead.flavor("flavor")):
        await client.merge_patch(each, label)
    await client.merge_patch(dpuset, {"spec": {"strategy": {"type": "RollingUpdate"}}})
    labelled = {"cluster": {"nodeLabels": {"rack": "1"}}}
    await client.merge_patch(dpu, {"spec": labelled})
    await client.merge_patch(dpuset, {"spec": {"dpuTemplate": {"spec": labelled}}})
    await client.merge_patch(image, {"status": {"message": "changed"}}, subresource="status")
    await client.merge_patch(dpu, {"status": {"message": "changed"}}, subresource="status")
    await client.merge_patch(dead.bfb("leaving"), {"metadata": {"finalizers": None}})
    await eventually_gone(client, BFB, "leaving", world.namespace)
    await client.merge_patch(dpu, {"metadata": {"annotations": none}})

    # What has nothing to be checked is created; nobody fills in defaults.
    await client.delete(await client.create(dead.dpu("new", {})))
    plain = await client.create(dead.dpuset("new", {}))
    assert plain.spec.strategy is None
    await client.delete(plain)

    # Other namespaces and other kinds do not know of it.
    elsewhere = await client.create(Namespace(metadata=ObjectMeta(name=f"{world.namespace}-elsewhere")))
    await client.delete(await client.create(dead.bfb("new", elsewhere.name)))
    await client.delete(await client.create(dead.flavor("new", elsewhere.name)))
    container = {"name": "c", "image": "none"}
    meta = {"name": "pod", "namespace": world.namespace}
    pod = Pod.model_validate({"metadata": meta, "spec": {"nodeName": world.host_node, "containers": [container]}})
    await client.delete(await client.create(pod))
    await client.merge_patch(Node(metadata=ObjectMeta(name=world.host_node)), label)

    # Without the registrations nothing is held up any more: that is the way out, and the order of an uninstallation.
    await _unregister(world)
    await _gone(client, dead.flavor("flavor"))
    await _gone(client, image)


async def _gone(client: Client, obj: Object) -> None:
    """Deletes it; the API server takes a moment to forget a webhook."""
    async with asyncio.timeout(30):
        while True:
            try:
                await client.delete(obj)
                return
            except ApiError as error:
                if "failed calling webhook" not in error.message:
                    raise
            await asyncio.sleep(RETRY)


async def test_dpus_become_ready_and_go_while_no_webhook_answers(dead: Dead, host_client: Client) -> None:
    """Of a DPUSet whose template bears the annotation, and with an image that bears one: the managers write to all of them."""
    world = dead.world
    dpu = f"{world.host_node}-{PCI}"
    async with world.manager():
        ready = await world.goes_the_way(dpu, await host_client.get(Node, world.host_node))
        assert POWER_CYCLE.items() <= ready.annotations.items()
        dpuset = await host_client.get(DPUSet, "set", world.namespace)
        await host_client.delete(dpuset)
        await eventually_gone(host_client, DPUSet, "set", world.namespace)
        await host_client.delete(ready)
        await eventually_gone(host_client, DPU, dpu, world.namespace)
        await eventually_gone(world.dpu, Node, dpu)
    await refused(host_client.delete(await host_client.get(BFB, "image", world.namespace)), "vbfb.kb.io")
