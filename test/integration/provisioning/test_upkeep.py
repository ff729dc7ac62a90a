"""What changes around a DPU that is Ready, or is to be: the MTU, another DPU for its card, what is left on the volume."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from dpf.provisioning.dpu.install import Refused
from dpf.provisioning.volume import VolumeFile
from dpf.runtime.conditions import is_true
from dpf.runtime.k8s import Event, Node, Pod
from dpf.runtime.testing import eventually_gone
from dpf_api import names
from dpf_api.dpu import DPU, Phase
from dpf_api.names import ANNOTATION_REBOOT_COMMAND
from dpf_api.operatorconfig import DPFOperatorConfig
from test.integration.provisioning.conftest import FakeDms, World

OTHER_CARD = "0000-85-00"


def mtu(pod: Pod) -> str:
    return str(next(variable["value"] for variable in pod.spec.containers[0].env if variable["name"] == "vf_mtu"))


async def told(world: World, reason: str) -> Event:
    """The event with that reason, once there is one."""
    async with asyncio.timeout(30), aclosing(world.host.watch(Event, world.namespace)) as watch:
        async for _, event in watch:
            if event.reason == reason:
                return event
    raise AssertionError


async def prepared(world: World) -> Node:
    """A host that is not rebooted, image and cluster."""
    node = await world.node(dpu_1_pci_address=OTHER_CARD)
    await world.host.merge_patch(node, {"metadata": {"annotations": {ANNOTATION_REBOOT_COMMAND: "skip"}}})
    await world.bfb()
    await world.cluster()
    return node


async def configure(world: World, name: str, mtu: int) -> DPFOperatorConfig:
    spec = {"networking": {"highSpeedMTU": mtu}}
    body = {"metadata": {"name": name, "namespace": world.namespace}, "spec": spec}
    return await world.host.create(DPFOperatorConfig.model_validate(body))


async def test_a_changed_mtu_reaches_the_hosts_of_ready_dpus_one_card_after_the_other(world: World) -> None:
    await prepared(world)
    first, second = [await world.ready_dpu("d1"), await world.ready_dpu("d2", pci=OTHER_CARD)]
    pods = [await world.eventually(Pod, names.hostnetwork_pod(dpu.name)) for dpu in (first, second)]
    assert [mtu(pod) for pod in pods] == ["1500", "1500"]
    config = await configure(world, "config", 9000)
    remade = await world.eventually(Pod, pods[0].name, until=lambda pod: mtu(pod) == "9000")
    assert (await world.host.get(Pod, pods[1].name, world.namespace)).uid == pods[1].uid, "one after the other"
    await world.pod_ready(remade.name)
    await world.eventually(Pod, pods[1].name, until=lambda pod: mtu(pod) == "9000")
    await world.pod_ready(pods[1].name)
    assert (await told(world, "HostNetworkChanged")).note.endswith("MTU 1500 became 9000")
    for dpu in (first, second):
        await world.eventually(DPU, dpu.name, until=lambda dpu: is_true(dpu.status.conditions, "Ready"))

    before = len(world.requests)
    await world.host.merge_patch(config, {"spec": {"networking": {"controlPlaneMTU": 1400}}})
    await world.clock_past(config)
    await configure(world, "younger", 1400)
    await world.host.delete(await world.host.get(Pod, remade.name, world.namespace))
    again = await world.eventually(Pod, remade.name, until=lambda pod: pod.uid != remade.uid)
    assert mtu(again) == "9000", "of two the older one counts"
    assert (await told(world, "ConfigIgnored")).regarding.name == "younger"
    assert "DELETE" not in world.requests[before:], "another setting concerns nobody"


async def test_of_two_dpus_for_one_card_the_older_one_has_it_and_the_other_waits(world: World) -> None:
    await prepared(world)
    effect = {"customLabel": {"busy": "yes"}}
    owner = await world.create_dpu("z-first", nodeEffect=effect)
    await world.eventually(Pod, names.dms_pod(owner.name))
    await world.clock_past(owner)
    waiting = await world.create_dpu("a-second", nodeEffect=effect)
    waiting = await world.eventually(DPU, waiting.name, until=lambda dpu: dpu.status.reason == "CardTaken")
    assert waiting.status.phase is Phase.INITIALIZING
    assert owner.name in waiting.status.message
    pods = [pod.name for pod in await world.host.list(Pod, world.namespace)]
    assert pods == [names.dms_pod(owner.name)]
    await world.host.delete(await world.host.get(DPU, owner.name, world.namespace))
    await eventually_gone(world.host, DPU, owner.name, world.namespace)
    await world.eventually(DPU, waiting.name, until=lambda dpu: dpu.status.phase is Phase.DMS_DEPLOYMENT)


async def test_a_dpu_goes_on_when_the_one_that_had_its_card_is_given_another(world: World) -> None:
    await world.node(dpu_1_pci_address=OTHER_CARD)
    await world.cluster()
    first = await world.create_dpu("d1")
    await world.eventually(DPU, first.name, until=lambda dpu: dpu.status.reason == "GetBFBFailed")
    await world.clock_past(first)
    second = await world.create_dpu("d2")
    await world.eventually(DPU, second.name, until=lambda dpu: dpu.status.reason == "CardTaken")
    await world.host.merge_patch(first, {"metadata": {"labels": {names.LABEL_DPU_PCI_ADDRESS: OTHER_CARD}}})
    await world.eventually(DPU, second.name, until=lambda dpu: dpu.status.reason == "GetBFBFailed")


async def test_of_dpus_made_at_the_same_instant_one_flashes_the_card(world: World) -> None:
    await prepared(world)
    dpus = await asyncio.gather(*(world.create_dpu(f"d{number}") for number in range(5)))
    first = min(dpus, key=lambda dpu: (dpu.metadata.creation_timestamp, dpu.uid))
    for dpu in dpus:
        if dpu.uid != first.uid:
            await world.eventually(DPU, dpu.name, until=lambda dpu: dpu.status.reason == "CardTaken")
    await world.pod_ready(names.dms_pod(first.name))
    await world.eventually(DPU, first.name, until=lambda dpu: dpu.status.phase is Phase.HOST_NETWORK_CONFIGURATION)
    assert world.dms.count("activate") == 1
    for dpu in dpus:
        if dpu.uid != first.uid:
            now = await world.host.get(DPU, dpu.name, world.namespace)
            assert (now.status.phase, now.status.reason) == (Phase.INITIALIZING, "CardTaken")
            await eventually_gone(world.host, Pod, names.dms_pod(dpu.name), world.namespace)


class LeavingDms(FakeDms):
    """Keeps a bf.cfg on the volume, as a DMS does that is not ours."""

    volume: Path | None = None

    async def install(self, version: str, content: VolumeFile | bytes) -> bool:
        if isinstance(content, bytes) and self.volume is not None:
            (self.volume / version).write_bytes(content)
        return await super().install(version, content)

    async def activate(self, version: str) -> None:
        assert self.volume is not None
        assert (self.volume / version.partition(";")[2]).exists()
        await super().activate(version)
        if self.error is not None:
            raise self.error

    async def set_mode(self, mode: str) -> None:
        self.calls.append(("set_mode", mode))


@pytest.mark.parametrize("error", [None, Refused("write error")], ids=["done", "failed"])
async def test_no_bfcfg_is_left_on_the_volume_when_an_installation_has_ended(
    world: World, error: Exception | None
) -> None:
    dms = LeavingDms(error=error)
    world.dms, dms.volume = dms, world.volume
    await prepared(world)
    name = (await world.create_dpu()).name
    await world.pod_ready(names.dms_pod(name))
    ended = (Phase.HOST_NETWORK_CONFIGURATION, Phase.ERROR)
    dpu = await world.eventually(DPU, name, until=lambda dpu: dpu.status.phase in ended)
    assert dms.count("activate") == 1
    assert (dpu.status.phase is Phase.ERROR) == (error is not None)
    assert [path.name for path in world.volume.iterdir()] == ["image.bfb"]
