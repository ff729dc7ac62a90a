"""A fleet of 1,000 Ready DPUs: what it costs to leave it alone for five minutes, and to give all of it another flavor."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from time import monotonic

from dpf.ctl.samples import samples
from dpf.runtime.conditions import is_true
from dpf.sandbox.layout import NAMESPACE
from dpf_api.dpu import DPU
from dpf_api.dpuset import DPUSet
from test.bench.result import Result, say, size
from test.bench.system import Sandbox, apply, provision, sandbox

DPUS = size("DPF_BENCH_DPUS", 1000)
REST = float(size("DPF_BENCH_REST", 300))
"""Seconds."""
SETTLES = 15.0
"""Seconds between the last DPU's being Ready and a fleet at rest: its last events are written, its last lists are read."""
BUDGET = DPUS // 10
ROLLED_OUT_WITHIN = 1800.0
NEW = "rolled-out"
"""The flavor that all get."""


async def upkeep() -> list[Result]:
    """At rest, then under a rolling update."""
    async with sandbox(DPUS) as box:
        say(f"{DPUS} DPUs are Ready: {await provision(box, DPUS)}")
        return [*await _rest(box), *await _rollout(box)]


async def _rest(box: Sandbox) -> list[Result]:
    managers = box.processes.values()
    await asyncio.sleep(SETTLES)
    cpu = sum(manager.cpu() for manager in managers)
    requests = sum([(await manager.requests())[0] for manager in managers])
    await asyncio.sleep(REST)
    cpu = sum(manager.cpu() for manager in managers) - cpu
    requests = sum([(await manager.requests())[0] for manager in managers]) - requests
    detail = f"{DPUS} Ready DPUs, {len(managers)} managers, {REST:g} s"
    return [
        Result("rest.cpu", 100 * cpu / REST, "% of one core", 2.0, detail=detail),
        Result("rest.requests", requests * 60 / REST, "requests per minute", 60.0, detail=detail),
    ]


@dataclass
class Count:
    """Who is available, and how few there were at worst; as told by one watch, so each state is one that there was."""

    ready: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    worst: int = 0

    def see(self, event: str, dpu: DPU) -> None:
        """Counts a change."""
        if event != "DELETED" and not dpu.deleting and is_true(dpu.status.conditions, "Ready"):
            self.ready.add(dpu.name)
            if dpu.spec.dpu_flavor == NEW:
                self.done.add(dpu.name)
        else:
            self.ready.discard(dpu.name)
        self.worst = max(self.worst, DPUS - len(self.ready))


async def _rollout(box: Sandbox) -> list[Result]:
    manager = box.processes["provisioning-manager"]
    before, started = (await manager.requests())[0], 0.0
    count = Count()
    async with asyncio.timeout(ROLLED_OUT_WITHIN), aclosing(box.client.watch(DPU, NAMESPACE)) as changes:
        async for event, dpu in changes:
            done = len(count.done)
            count.see(event, dpu)
            if not started and len(count.ready) == DPUS:
                # All that there is has been told, and is Ready: what comes now is the update.
                started, count.worst = monotonic(), 0
                await _change_flavor(box)
            if len(count.done) > done and len(count.done) % 100 == 0:
                say(f"{len(count.done)} of {DPUS} DPUs have the new flavor after {monotonic() - started:.0f} s")
            if len(count.done) == DPUS:
                break
    requests = (await manager.requests())[0] - before
    detail = f"{DPUS} DPUs in {monotonic() - started:.0f} s"
    return [
        Result("rollout.unavailable", count.worst, "DPUs at worst", BUDGET, detail=detail),
        Result("rollout.requests", requests / DPUS, "requests per DPU", 22.0, detail=detail),
    ]


async def _change_flavor(box: Sandbox) -> None:
    objects = {obj["kind"]: obj for obj in samples(box.settings)}
    flavor = objects["DPUFlavor"]
    flavor["metadata"]["name"] = NEW
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}}
    await apply(box, flavor)
    dpuset = await box.client.get(DPUSet, objects["DPUSet"]["metadata"]["name"], NAMESPACE)
    spec = {"strategy": strategy, "dpuTemplate": {"spec": {"dpuFlavor": NEW}}}
    await box.client.merge_patch(dpuset, {"spec": spec})
