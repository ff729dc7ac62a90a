"""What is told of a DPU on its way, as events on a real API server and as metrics."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from dpf.runtime.k8s import Event, Node
from dpf.runtime.testing import eventually
from dpf_api.dpu import DPU, Phase
from test.integration.provisioning.conftest import World


async def events_until(world: World, dpu: DPU, *reasons: str) -> dict[str, Event]:
    """The DPU's events by reason, once there is one for each of these."""
    found: dict[str, Event] = {}
    async with asyncio.timeout(30), aclosing(world.host.watch(Event, world.namespace)) as watch:
        async for _, event in watch:
            if event.regarding.uid == dpu.uid:
                assert event.reason not in found or event.series is not None, "once each"
                found[event.reason] = event
            if found.keys() >= set(reasons):
                break
    return found


async def test_the_way_of_a_dpu_can_be_read_from_its_events_and_metrics(world: World) -> None:
    node = await world.node()
    await world.bfb()
    await world.cluster()
    name = (await world.create_dpu(nodeEffect={"taint": {"key": "dpu", "effect": "NoSchedule"}})).name
    await world.pod_ready(f"{name}-dms")
    await world.eventually(DPU, name, until=lambda d: d.status.reboot is not None and d.status.reboot.issued_at)
    await world.boot(node, "boot-2")
    await world.pod_ready(f"{name}-hostnetwork")
    card = await world.join(name)
    dpu = await world.eventually(DPU, name, until=lambda d: d.status.phase is Phase.READY)
    steps = "ClusterAssigned NodeEffectApplied InstallStarted Installed RebootRequested Rebooted NodeEffectUndone Ready"
    told = await events_until(world, dpu, *steps.split())
    related = {reason: event.related.kind for reason, event in told.items() if event.related is not None}
    assert related["ClusterAssigned"] == "DPUCluster"
    assert related["NodeEffectApplied"] == related["RebootRequested"] == "Node"
    assert {event.type for event in told.values()} == {"Normal"}
    [manager] = world.managers
    text = b"".join([piece async for piece in manager.metrics.scrape()])
    for line in (b'dpf_dpu_installs_total{outcome="success"} 1.0', b'dpf_host_reboots_total{method="WARM"} 1.0'):
        assert line in text
    ready = next(line for line in text.splitlines() if line.startswith(b"dpu_status_phase") and b'"Ready"' in line)
    assert f'name="{name}"'.encode() in ready
    assert ready.endswith(b" 1")

    conditions = [{"type": "Ready", "status": "False"}]
    await world.dpu.merge_patch(card, {"status": {"conditions": conditions}}, subresource="status")
    lost = (await events_until(world, dpu, "DPUNodeNotReady"))["DPUNodeNotReady"]
    assert lost.type == "Warning"
    await world.dpu.merge_patch(
        await eventually(world.dpu, Node, name),
        {"status": {"conditions": [{"type": "Ready", "status": "True"}]}},
        subresource="status",
    )
    assert (await events_until(world, dpu, "Recovered"))["Recovered"].type == "Normal"
