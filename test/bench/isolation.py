"""Dead and silent parts among living ones: 100 DPUs of which 10 are held up, against the other 90 DPUs alone.

Held up by what they alone depend on, one kind at a time:

* ``hosts``: five are dead from the beginning, and five die when their cards are being flashed, so that the manager has to do with
  hosts that were never there as well as with connections that break and peers that fall silent;
* ``dms``: five accept connections and never answer, and five stop in the middle of an installation;
* ``cluster``: a DPU cluster that falls silent when ten DPUs have been given to it. Its connections stay open.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from time import monotonic

from dpf.runtime.conditions import is_true
from dpf.runtime.testing import eventually
from dpf.sandbox import control
from dpf.sandbox.api import Json
from dpf.sandbox.fleet.faults import Fault
from dpf.sandbox.layout import NAMESPACE
from dpf.sandbox.objects import DPU_CLUSTER, dpu_cluster
from dpf_api.dpu import DPU, Phase
from dpf_api.dpucluster import DPUCluster
from test.bench.result import Result, median, say, spread
from test.bench.silence import SilentOnDemand
from test.bench.system import Sandbox, apply, prepared, sandbox

DPUS, LOST = 100, 10
ROUNDS = 3
READY_WITHIN = 300.0
OTHER_CLUSTER = "dpu-cluster-0"
"""The first in order of name is filled first."""


async def isolation() -> list[Result]:
    """Wall until the 90 are Ready, with the lost over without them; in turn, and the median of three ratios for each kind."""
    ratios: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(ROUNDS):
        alone = await _wall(DPUS - LOST, _nothing)
        for kind, lose in KINDS.items():
            wall = await _wall(DPUS, lose)
            ratios[kind].append(wall / alone)
            say(f"{DPUS - LOST} DPUs: {alone:.1f} s alone, {wall:.1f} s beside {LOST} that are lost: {kind}")
    unit = f"wall of {DPUS - LOST} DPUs beside {LOST} lost ones over alone"
    names = {kind: "isolation" if kind == "hosts" else f"isolation.{kind}" for kind in KINDS}
    return [Result(names[kind], median(found), unit, 1.1, detail=spread(found)) for kind, found in ratios.items()]


@dataclass
class Loss:
    """What is lost of a sandbox."""

    is_lost: Callable[[DPU], bool] = lambda _: False
    seen: Callable[[DPU], None] = lambda _: None
    """Told of each change of a DPU."""
    dying: set[str] = field(default_factory=set)
    """DPUs that are to be lost when they are being flashed."""


Lose = Callable[[Sandbox], AbstractAsyncContextManager[Loss]]


async def _wall(dpus: int, lose: Lose) -> float:
    """Seconds from the DPUSet until the 90 living DPUs are Ready."""
    async with sandbox(dpus) as box, lose(box) as loss:
        ready: set[str] = set()
        dpuset, started = await prepared(box), monotonic()
        await apply(box, dpuset)
        async with asyncio.timeout(READY_WITHIN), aclosing(box.client.watch(DPU, NAMESPACE)) as changes:
            async for _, dpu in changes:
                loss.seen(dpu)
                if dpu.name in loss.dying and dpu.status.phase is Phase.OS_INSTALLING:
                    loss.dying.remove(dpu.name)
                    await _fault(box, dpu.name, Fault.HOST_DEAD)
                if is_true(dpu.status.conditions, "Ready") and not loss.is_lost(dpu):
                    ready.add(dpu.name)
                if len(ready) == DPUS - LOST:
                    break
        wall = monotonic() - started
        lost = [dpu for dpu in await box.client.list(DPU, NAMESPACE) if loss.is_lost(dpu)]
        if loss.dying or len(lost) != dpus - len(ready) or any(is_true(dpu.status.conditions, "Ready") for dpu in lost):
            raise RuntimeError(f"not lost as they were to be: {sorted(loss.dying)}, {len(lost)} lost")
        return wall


def _nothing(_: Sandbox) -> AbstractAsyncContextManager[Loss]:
    return nullcontext(Loss())


def _some(box: Sandbox) -> list[str]:
    """Ten DPUs spread over the fleet, for hosts are taken in order."""
    return [card.dpu for card in box.settings.inventory.cards()][:: DPUS // LOST]


@asynccontextmanager
async def _hosts(box: Sandbox) -> AsyncIterator[Loss]:
    lost = _some(box)
    for card in lost[1::2]:
        await _fault(box, card, Fault.HOST_DEAD)
    yield Loss(lambda dpu: dpu.name in lost, dying=set(lost[::2]))


@asynccontextmanager
async def _dms(box: Sandbox) -> AsyncIterator[Loss]:
    lost = _some(box)
    for number, card in enumerate(lost):
        await _fault(box, card, Fault.DMS_SILENT if number % 2 else Fault.INSTALL_HANGS)
    yield Loss(lambda dpu: dpu.name in lost)


@asynccontextmanager
async def _cluster(box: Sandbox) -> AsyncIterator[Loss]:
    version = (await box.client.get(DPUCluster, DPU_CLUSTER, NAMESPACE)).spec.version
    kubeconfig = box.layout.dpu_kubeconfig.read_text()
    async with SilentOnDemand.before(kubeconfig) as (silencer, through_it):
        await apply(box, *map(_renamed, dpu_cluster(through_it.encode(), version)))
        await eventually(box.client, DPUCluster, OTHER_CLUSTER, NAMESPACE, until=lambda c: c.status.phase == "Ready")
        given: set[str] = set()

        def seen(dpu: DPU) -> None:
            if is_lost(dpu):
                given.add(dpu.name)
                if len(given) == LOST:
                    silencer.silent = True

        def is_lost(dpu: DPU) -> bool:
            return dpu.spec.cluster is not None and dpu.spec.cluster.name == OTHER_CLUSTER

        yield Loss(is_lost, seen)


def _renamed(obj: Json) -> Json:
    """Of the sandbox's own cluster, the other's object."""
    name = obj["metadata"]["name"].replace(DPU_CLUSTER, OTHER_CLUSTER)
    found = obj | {"metadata": {**obj["metadata"], "name": name}}
    if obj["kind"] == "DPUCluster":
        secret = obj["spec"]["kubeconfig"].replace(DPU_CLUSTER, OTHER_CLUSTER)
        found["spec"] = {**obj["spec"], "maxNodes": LOST, "kubeconfig": secret}
    return found


KINDS: dict[str, Lose] = {"hosts": _hosts, "dms": _dms, "cluster": _cluster}


async def _fault(box: Sandbox, card: str, fault: Fault) -> None:
    await control.ask(box.layout.fleet_socket, "PUT", f"/cards/{card}/fault", {"fault": fault.value})
