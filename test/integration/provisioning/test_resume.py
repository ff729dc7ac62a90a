"""A manager that ends anywhere on the way of a DPU: the next one goes on where the card is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from dpf.provisioning.dpu.install import Refused, Report
from dpf.runtime.client import Client
from dpf.runtime.k8s import Node
from dpf.runtime.testing import eventually_gone
from dpf_api.dpu import DPU, Phase
from test.integration.conftest import Planes
from test.integration.provisioning.conftest import PCI, FakeDms, World


class SlowDms(FakeDms):
    """Stays at work on what was activated until the test lets it end."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self.finished = asyncio.Event()
        self.flashed: set[str] = set()
        self.followed = asyncio.Event()
        """Set once it was asked how far it is for some seconds."""
        self._asked = 0

    async def activate(self, version: str) -> None:
        await super().activate(version)
        self.flashed.add(version)
        self.begun.set()

    def asked_anew(self) -> None:
        """Counts from here how often it is asked."""
        self._asked = 0
        self.followed.clear()

    async def report(self) -> Report:
        self._asked += 1
        if self._asked >= 6:
            self.followed.set()
        if self.begun.is_set() and not self.finished.is_set():
            return Report(active=True, outcome="unknown", text="installing: 40 %", percent=40)
        return Report(active=False, outcome="success" if self.finished.is_set() else "unknown", text="")


@pytest.fixture
async def idle(control_planes: Planes, host_client: Client, dpu_client: Client, namespace: str) -> AsyncIterator[World]:
    """A world in which no manager runs yet."""
    world = World(host_client, dpu_client, control_planes, namespace, SlowDms())
    yield world
    for client in (host_client, dpu_client):
        for node in await client.list(Node):
            if namespace in node.name:
                await client.delete(node)


async def test_a_manager_that_takes_over_goes_on_with_the_same_installation(idle: World) -> None:
    dms = idle.dms
    assert isinstance(dms, SlowDms)
    node = await idle.node()
    await idle.bfb()
    async with idle.manager():
        await idle.cluster()
        name = (await idle.create_dpu()).name
        await idle.pod_ready(f"{name}-dms")
        await asyncio.wait_for(dms.begun.wait(), 60)
    before = await idle.host.get(DPU, name, idle.namespace)
    assert before.status.phase is Phase.OS_INSTALLING
    async with idle.manager():
        dms.finished.set()
        rebooting = await idle.eventually(
            DPU, name, until=lambda dpu: dpu.status.reboot is not None and dpu.status.reboot.issued_at
        )
        assert before.status.install is not None
        assert rebooting.status.install.config_sha256 == before.status.install.config_sha256
        assert rebooting.status.install.started_at == before.status.install.started_at
        assert len(dms.flashed) == 1
    async with idle.manager():
        await idle.boot(node, "boot-2")
        await idle.pod_ready(f"{name}-hostnetwork")
    assert dms.count("reboot") == 1
    await idle.join(name)
    async with idle.manager():
        await idle.eventually(DPU, name, until=lambda dpu: dpu.status.phase is Phase.READY)
    assert dms.count("reboot") == 1


async def test_a_dpu_that_waited_for_its_turn_for_hours_has_all_its_time_under_the_next_manager(idle: World) -> None:
    dms = idle.dms
    assert isinstance(dms, SlowDms)
    idle.settings["installs"] = 1
    await idle.node()
    await idle.bfb()
    names = []
    async with idle.manager():
        await idle.cluster()
        for name, pci in (("d1", PCI), ("d2", "0000-05-00")):
            names.append((await idle.create_dpu(name, pci=pci)).name)
            await idle.pod_ready(f"{names[-1]}-dms")
            await idle.eventually(DPU, names[-1], until=lambda dpu: dpu.status.install is not None)
        _, second = names
        waiting = await idle.eventually(DPU, second, until=lambda dpu: dpu.status.reason == "Queued")
        assert waiting.status.install.activated_at is None
    long_ago = waiting.status.install.started_at - timedelta(hours=5)
    for name in names:
        status = {"install": {"startedAt": long_ago.isoformat()}}
        begun = await idle.host.get(DPU, name, idle.namespace)
        await idle.host.merge_patch(begun, {"status": status}, subresource="status")
    dms.asked_anew()
    async with idle.manager():
        await asyncio.wait_for(dms.followed.wait(), 60)
        dms.finished.set()
        for name in names:
            dpu = await idle.eventually(DPU, name, until=lambda dpu: dpu.status.phase is Phase.REBOOTING)
            assert dpu.status.install.finished_at is not None
        assert dpu.status.install.started_at == long_ago


async def test_a_deleted_dpu_cancels_its_install(idle: World) -> None:
    dms = idle.dms
    assert isinstance(dms, SlowDms)
    await idle.node()
    await idle.bfb()
    async with idle.manager():
        await idle.cluster()
        dpu = await idle.create_dpu()
        await idle.pod_ready(f"{dpu.name}-dms")
        await asyncio.wait_for(dms.begun.wait(), 60)
        await idle.host.delete(await idle.host.get(DPU, dpu.name, idle.namespace))
        await eventually_gone(idle.host, DPU, dpu.name, idle.namespace)
    assert dms.count("reboot") == 0


async def test_an_installation_that_fails_is_an_error_that_says_why(idle: World) -> None:
    idle.dms.error = Refused("the card refuses its mode")
    await idle.node()
    await idle.bfb()
    async with idle.manager():
        await idle.cluster()
        name = (await idle.create_dpu()).name
        await idle.pod_ready(f"{name}-dms")
        dpu = await idle.eventually(DPU, name, until=lambda dpu: dpu.status.phase is Phase.ERROR)
    assert (dpu.status.reason, dpu.status.message) == ("InstallationFailed", "the card refuses its mode")
