"""The whole system on this machine: real API servers, every manager as its own process, a simulated fleet without delays."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import aiohttp

from dpf.ctl.samples import samples
from dpf.runtime.client import Client
from dpf.runtime.errors import ApiError
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.testing import eventually
from dpf.sandbox import control
from dpf.sandbox.api import Api, Json
from dpf.sandbox.layout import NAMESPACE, Layout
from dpf.sandbox.managers import MANAGERS
from dpf.sandbox.manifests import Applier
from dpf.sandbox.settings import Settings
from dpf_api.bfb import BFB
from dpf_api.bfb import Phase as BFBPhase
from dpf_api.dpu import DPU, Phase
from test.bench.result import Result, median, say, spread

SIZES = (10, 100, 1000)
ROUNDS = 3
REST = 60.0
"""Seconds that a fleet at rest is watched."""
TICK = os.sysconf("SC_CLK_TCK")
WRITES = {"POST", "PUT", "PATCH", "DELETE"}
_REQUESTS = re.compile(
    r'^rest_client_requests_total\{code="\d+",host="[^"]*",method="(\w+)"\} ([0-9.e+]+)$', re.MULTILINE
)


@dataclass
class Process:
    """A manager, seen from outside."""

    name: str
    pid: int

    @property
    def metrics_url(self) -> str:
        flags = Path(f"/proc/{self.pid}/cmdline").read_bytes().decode().split("\0")
        return f"http://{flags[flags.index('--metrics-bind-address') + 1]}/metrics"

    def cpu(self) -> float:
        """Seconds of processor time it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def memory(self, what: str) -> float:
        """``VmRSS`` or ``VmHWM`` (the most there ever was) in MiB."""
        found = re.search(rf"^{what}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        return int(found[1]) / 1024 if found else 0.0

    async def requests(self) -> tuple[int, int]:
        """All its requests to API servers so far, and the writes among them."""
        async with aiohttp.ClientSession() as http, http.get(self.metrics_url) as response:
            text = await response.text()
        counts = [(method, int(float(number))) for method, number in _REQUESTS.findall(text)]
        return sum(n for _, n in counts), sum(n for method, n in counts if method in WRITES)


@dataclass
class Sandbox:
    """A sandbox that is up."""

    layout: Layout
    settings: Settings
    client: Client
    processes: dict[str, Process] = field(default_factory=dict)


@asynccontextmanager
async def sandbox(dpus: int) -> AsyncIterator[Sandbox]:
    """A sandbox with so many DPUs, none of them provisioned; all of it is gone after the block."""
    with tempfile.TemporaryDirectory(prefix="dpf-bench-", dir="/tmp") as folder:
        dpfctl = [sys.executable, "-m", "dpf_cmd.dpfctl", "sandbox"]
        where = ["--data-dir", folder]
        up = [*dpfctl, "up", *where, "--dpus", str(dpus), "--no-delays"]
        await asyncio.to_thread(subprocess.run, up, check=True, stdout=sys.stderr)
        try:
            layout = Layout(Path(folder).resolve())
            rows = await control.ask(layout.control_socket, "GET", "/processes")
            found = {row["name"]: Process(row["name"], row["pid"]) for row in rows if row["name"] in MANAGERS}
            async with Client(Kubeconfig.load(layout.host_kubeconfig), field_owner="bench") as client:
                yield Sandbox(layout, Settings.read(layout), client, found)
        finally:
            await asyncio.to_thread(subprocess.run, [*dpfctl, "down", *where], check=True, stdout=sys.stderr)


@dataclass
class Run:
    """What provisioning a fleet took."""

    wall: float
    first: float
    requests: float
    writes: float
    cpu_ms: float
    peak_mib: float


async def prepared(box: Sandbox) -> Json:
    """A DPUSet of all cards, that does nothing to their hosts and is not applied; all that it refers to is there and Ready."""
    objects = samples(box.settings)
    others = [obj for obj in objects if obj["kind"] != "DPUSet"]
    dpuset = next(obj for obj in objects if obj["kind"] == "DPUSet")
    dpuset["spec"]["dpuTemplate"]["spec"]["nodeEffect"] = {"noEffect": True}
    await apply(box, *others)
    for obj in others:
        if obj["kind"] == "BFB":
            await eventually(box.client, BFB, obj["metadata"]["name"], NAMESPACE, until=_bfb_ready)
    return dpuset


async def apply(box: Sandbox, *objects: Json) -> None:
    """Applies objects as their user would."""
    async with Api(Kubeconfig.load(box.layout.host_kubeconfig), user_agent="bench") as api:
        await Applier(api).apply(objects)


async def provision(box: Sandbox, dpus: int) -> Run:
    """Applies a DPUSet of all cards and waits until all are Ready. Figures of ``provisioning-manager``, per DPU."""
    manager = box.processes["provisioning-manager"]
    dpuset = await prepared(box)
    cpu, (requests, writes) = manager.cpu(), await manager.requests()
    started = monotonic()
    await apply(box, dpuset)
    first, last = await _all_ready(box.client, dpus, started)
    if not Path(f"/proc/{manager.pid}").exists():
        raise RuntimeError("provisioning-manager ended meanwhile: its figures would be those of two processes")
    requests_after, writes_after = await manager.requests()
    return Run(
        wall=last,
        first=first,
        requests=(requests_after - requests) / dpus,
        writes=(writes_after - writes) / dpus,
        cpu_ms=(manager.cpu() - cpu) * 1000 / dpus,
        peak_mib=manager.memory("VmHWM"),
    )


def _bfb_ready(bfb: BFB) -> bool:
    return bfb.status.phase is BFBPhase.READY


async def _all_ready(client: Client, number: int, started: float, *, timeout: float = 1200.0) -> tuple[float, float]:
    """Seconds until the first and until the last DPU was Ready.

    :raises RuntimeError: if one fails, or nothing moves any more; with what those wait for that are not.
    """
    ready: set[str] = set()
    first = 0.0
    try:
        async with asyncio.timeout(timeout), aclosing(client.watch(DPU, NAMESPACE)) as events:
            async for _, dpu in events:
                if dpu.status.phase is Phase.ERROR:
                    raise RuntimeError(f"DPU {dpu.name} is in Error: {dpu.status.message}")
                if dpu.status.phase is Phase.READY and dpu.name not in ready:
                    ready.add(dpu.name)
                    first = first or monotonic() - started
                    if len(ready) % 100 == 0:
                        say(f"{len(ready)} of {number} DPUs are Ready after {monotonic() - started:.0f} s")
                    if len(ready) == number:
                        return first, monotonic() - started
    except (ApiError, TimeoutError) as error:
        say(f"the watch ended: {error}")
    others = [dpu for dpu in await client.list(DPU, NAMESPACE) if dpu.name not in ready]
    said = "; ".join(f"{dpu.name}: {dpu.status.phase}: {dpu.status.message}" for dpu in others[:5])
    raise RuntimeError(f"{len(ready)} of {number} DPUs are Ready; of the {len(others)} others: {said}")


async def _at_rest(box: Sandbox) -> float:
    """Requests per minute of all managers once nothing happens any more."""
    await asyncio.sleep(10)
    before = sum([(await process.requests())[0] for process in box.processes.values()])
    await asyncio.sleep(REST)
    after = sum([(await process.requests())[0] for process in box.processes.values()])
    return (after - before) * 60 / REST


@dataclass(frozen=True)
class Figure:
    """What is told of a fleet of each size.

    :param everywhere: whether the goal holds for every size, or for the largest alone.
    :param upstream: what DPF v24.10 takes for the largest.
    """

    field: str
    name: str
    unit: str
    goal: float
    everywhere: bool
    upstream: str = ""

    def result(self, dpus: int, values: list[float]) -> Result:
        """The median of some runs."""
        largest = dpus == SIZES[-1]
        return Result(
            f"provision.{dpus}.{self.name}",
            median(values),
            self.unit,
            self.goal if largest or self.everywhere else None,
            compared_with=f"DPF v24.10: {self.upstream}" if largest and self.upstream else "",
            detail=spread(values),
        )


FIGURES = (
    Figure("wall", "wall", "s", 180.0, everywhere=False, upstream="654"),
    Figure("first", "first_ready", "s", 10.0, everywhere=True, upstream="297"),
    Figure("requests", "requests", "requests per DPU", 18.0, everywhere=True, upstream="33 to 42"),
    Figure("writes", "writes", "writes per DPU", 15.0, everywhere=True),
    Figure("cpu_ms", "cpu", "ms CPU per DPU", 80.0, everywhere=False, upstream="535"),
    Figure("peak_mib", "peak_rss", "MiB", 200.0, everywhere=True, upstream="210"),
)
AT_REST = Figure("", "rest", "requests per minute", 60.0, everywhere=False, upstream="24 per DPU")


async def fleet() -> list[Result]:
    """10, 100 and 1,000 DPUs, each the median of three runs in sandboxes of their own."""
    results: list[Result] = []
    cpu: dict[int, float] = {}
    for dpus in SIZES:
        largest = dpus == SIZES[-1]
        runs, rest = [], []
        for _ in range(ROUNDS):
            async with sandbox(dpus) as box:
                runs.append(await provision(box, dpus))
                say(f"{dpus} DPUs: {runs[-1]}")
                if largest:
                    rest.append(await _at_rest(box))
        cpu[dpus] = median([run.cpu_ms for run in runs])
        results += [figure.result(dpus, [getattr(run, figure.field) for run in runs]) for figure in FIGURES]
        if largest:
            results.append(AT_REST.result(dpus, rest))
    growth = cpu[SIZES[-1]] / cpu[100]
    unit = "CPU per DPU at 1,000 over 100"
    return [*results, Result("provision.cpu_growth", growth, unit, 1.2, compared_with="DPF v24.10: 2.8")]


async def one() -> list[Result]:
    """One DPU from applied to Ready; the median of three."""
    walls = []
    for _ in range(ROUNDS):
        async with sandbox(1) as box:
            walls.append((await provision(box, 1)).wall)
    return [Result("one", median(walls), "s", 3.0, compared_with="DPF v24.10: 15 to 21", detail=spread(walls))]


async def footprint() -> list[Result]:
    """What a manager takes before it has anything to do: time until its caches are filled, the median of three, and memory at
    idle."""
    results = []
    async with sandbox(1) as box:
        for name, process in box.processes.items():
            starts = [await _start(box, name) for _ in range(ROUNDS)]
            peer = "controller-runtime: "
            results += [
                Result(
                    f"footprint.{name}.start",
                    median(starts),
                    "s from exec to caches filled",
                    1.0,
                    compared_with=f"{peer}0.1",
                    detail=spread(starts),
                ),
                Result(
                    f"footprint.{name}.rss",
                    process.memory("VmRSS"),
                    "MiB at idle",
                    64.0,
                    compared_with=f"{peer}48",
                ),
            ]
    return results


async def _start(box: Sandbox, name: str) -> float:
    """Starts a second process of the manager with the first one's flags and takes the time until it is ready."""
    flags = Path(f"/proc/{box.processes[name].pid}/cmdline").read_bytes().decode().split("\0")[:-1]
    health = "127.0.0.1:18081"
    for flag, value in (("--health-probe-bind-address", health), ("--metrics-bind-address", "0")):
        flags[flags.index(flag) + 1] = value
    if "--webhook-bind-address" in flags:
        flags[flags.index("--webhook-bind-address") + 1] = "0"
    started = monotonic()
    process = await asyncio.create_subprocess_exec(*flags, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with aiohttp.ClientSession() as http, asyncio.timeout(30):
            while not await _ready(http, f"http://{health}/readyz"):
                await asyncio.sleep(0.01)
        return monotonic() - started
    finally:
        process.kill()
        await process.wait()


async def _ready(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(url) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False
