"""The library against a peer at the same small job, on a real API server.

Ours is :mod:`test.bench.peer`. The other is any program that keeps the same contract (see there); the one to compare with is
built on controller-runtime. It is looked for under ``$DPF_PEERS`` or beside the clone, and without it ours runs alone. Server and
driver are on the first core and the peer on the second, and the two run in turn, because these figures drift with the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dpf.runtime.client import Client
from dpf.runtime.k8s import Namespace
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import ObjectMeta
from dpf.sandbox import manifests
from dpf.sandbox.api import Api
from dpf.sandbox.controlplane import binaries
from dpf.sandbox.controlplane.planes import ControlPlanes
from dpf.sandbox.controlplane.running import running
from test.bench.peer import Widget
from test.bench.result import Result, median, say, spread

ROOT = Path(__file__).parents[2]
NAMESPACE = "bench"
LIVE, CACHED = 2_000, 10_000
ROUNDS = 3
WIDTH = 16
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Contender:
    """A program that keeps the contract."""

    name: str
    command: Sequence[str]


def contenders() -> list[Contender]:
    """Ours, and the peer where there is one."""
    ours = Contender("ours", [sys.executable, "-m", "test.bench.peer"])
    source = Path(os.environ.get("DPF_PEERS", ROOT.parent / "shared" / "peers")) / "controller-runtime"
    if not (source / "go.mod").is_file() or shutil.which("go") is None:
        say("no peer to compare with; ours runs alone")
        return [ours]
    binary = binaries.cache_root() / "bench" / "controller-runtime-peer"
    if not binary.exists():
        say("building the controller-runtime peer, once (about two minutes)")
        binary.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["go", "build", "-o", str(binary), "."], cwd=source, check=True)
    return [ours, Contender("controller-runtime", [str(binary)])]


class Peer:
    """A running contender."""

    def __init__(self, process: asyncio.subprocess.Process, stats: mmap.mmap, started: float) -> None:
        self.process = process
        self.started = started
        self._stats = stats

    @property
    def calls(self) -> int:
        """How often its reconciler was called."""
        count: int = struct.unpack_from("<q", self._stats, 0)[0]
        return count

    def cpu(self) -> float:
        """Seconds of processor time it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def rss(self) -> float:
        """Resident memory in MiB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    async def until(self, holds: Callable[[], bool], seconds: float = 120.0) -> None:
        """Looks at what it shares until that holds; looking costs the peer nothing."""
        async with asyncio.timeout(seconds):
            while not holds():
                await asyncio.sleep(0.005)

    async def at_rest(self) -> None:
        """Returns when it has used no processor time for half a second."""
        before = -1.0
        while (now := self.cpu()) != before:
            before = now
            await asyncio.sleep(0.5)

    async def trimmed(self) -> float:
        """Resident memory after it was asked to give back what it can."""
        await self.at_rest()
        self.process.send_signal(signal.SIGUSR1)
        await asyncio.sleep(0.3)
        await self.at_rest()
        return self.rss()


@asynccontextmanager
async def peer(contender: Contender, kubeconfig: Path, *, cache_only: bool = False) -> AsyncIterator[Peer]:
    """Runs a contender on the second core."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(16))
        file.flush()
        stats = mmap.mmap(file.fileno(), 16)
        env = {**os.environ, "KUBECONFIG": str(kubeconfig), "WORKERS": "32", "STATS": file.name}
        env |= {"CACHE_ONLY": "1"} if cache_only else {}
        started = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *contender.command,
            env=env,
            cwd=ROOT,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=None,
            preexec_fn=_second_core,
        )
        try:
            yield Peer(process, stats, started)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


def _second_core() -> None:
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {1})


@contextmanager
def on_first_core() -> Iterator[None]:
    """Keeps this process and the servers it starts off the peer's core."""
    before = os.sched_getaffinity(0)
    if len(before) > 1:
        os.sched_setaffinity(0, {0})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass
class Bench:
    """An API server with the widgets' kind."""

    client: Client
    kubeconfig: Path

    async def each(self, one: Callable[[int], object], number: int) -> None:
        """Calls ``one`` for 0 to ``number``, some at once."""
        todo = iter(range(number))

        async def work() -> None:
            for index in todo:
                await one(index)  # type: ignore[misc]

        async with asyncio.TaskGroup() as group:
            for _ in range(WIDTH):
                group.create_task(work())

    async def create(self, index: int) -> None:
        await self.client.request("POST", Widget.RESOURCE.path(NAMESPACE), body=widget(index))

    async def finish(self, index: int) -> None:
        """Does a contender's work for one widget."""
        status = {"observedGeneration": 1, "size": index % 100, "conditions": [READY]}
        path = Widget.RESOURCE.path(NAMESPACE, name_of(index), "status")
        await self.client.request("PATCH", path, body={"status": status}, content_type="application/merge-patch+json")

    async def clear(self) -> None:
        """Removes all widgets."""
        await self.client.request("DELETE", Widget.RESOURCE.path(NAMESPACE))

    async def all_done(self, number: int) -> None:
        """Returns when a watch has seen so many widgets done."""
        done: set[str] = set()
        async with aclosing(self.client.watch(Widget, NAMESPACE)) as events:
            async for _, obj in events:
                if obj.status.observed_generation == obj.metadata.generation:
                    done.add(obj.name)
                    if len(done) == number:
                        return


@asynccontextmanager
async def bench_server() -> AsyncIterator[Bench]:
    """Control planes of their own, on the first core."""
    with tempfile.TemporaryDirectory(prefix="dpf-bench-") as folder, on_first_core():
        planes = ControlPlanes(Path(folder), binaries.ensure())
        async with running(planes):
            kubeconfig = planes.host.admin_kubeconfig
            async with Api(Kubeconfig.load(kubeconfig), user_agent="bench") as api:
                await manifests.Applier(api).install_crds(manifests.documents(ROOT / "test"))
            async with Client(Kubeconfig.load(kubeconfig), field_owner="bench") as client:
                await client.create(Namespace(metadata=ObjectMeta(name=NAMESPACE)))
                yield Bench(client, kubeconfig)


READY = {
    "type": "Ready",
    "status": "True",
    "reason": "Done",
    "message": "the size was taken over",
    "observedGeneration": 1,
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}


def name_of(index: int) -> str:
    return f"widget-{index:06d}"


def widget(index: int) -> dict[str, object]:
    """About 2.4 KiB once the server has added its fields, as a custom resource of the field is."""
    name = name_of(index)
    labels = {"app.kubernetes.io/name": "widget", "app.kubernetes.io/instance": name, "zone": f"zone-{index % 3}"}
    annotations = {"owner": f"team-{index % 20}@example.com", "checksum": f"{index * 2654435761 % 2**64:064x}"}
    return {
        "apiVersion": "bench.dpf.dev/v1",
        "kind": "Widget",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels, "annotations": annotations},
        "spec": {"size": index % 100, "note": f"{name}: " + "a note as long as people write them. " * 22},
    }


async def live_round(bench: Bench, contender: Contender) -> float:
    """Milliseconds of processor time per widget created while the contender watches."""
    async with peer(contender, bench.kubeconfig) as running_peer:
        await bench.create(LIVE)
        await running_peer.until(lambda: running_peer.calls > 0)
        await running_peer.at_rest()
        before = running_peer.cpu()
        async with asyncio.TaskGroup() as group:
            group.create_task(bench.all_done(LIVE + 1))
            group.create_task(bench.each(bench.create, LIVE))
        await running_peer.at_rest()
        return (running_peer.cpu() - before) * 1000 / LIVE


async def reconcile() -> list[Result]:
    """Processor time per object, ours over the peer's."""
    figures: dict[str, list[float]] = {}
    async with bench_server() as bench:
        for number in range(ROUNDS):
            for contender in contenders():
                figure = await live_round(bench, contender)
                say(f"reconcile round {number + 1}: {contender.name} {figure:.2f} ms per object")
                figures.setdefault(contender.name, []).append(figure)
                await bench.clear()
    return _compared("reconcile", "ms CPU per object", figures, goal=0.7)


async def cache() -> list[Result]:
    """Memory of 10,000 cached objects over idle, and the time of a restart over them, ours over the peer's."""
    idle: dict[str, list[float]] = {}
    full: dict[str, list[float]] = {}
    wall: dict[str, list[float]] = {}
    async with bench_server() as bench:
        for contender in contenders():
            async with peer(contender, bench.kubeconfig, cache_only=True) as running_peer:
                await asyncio.sleep(1)
                idle[contender.name] = [await running_peer.trimmed()]
        say(f"creating {CACHED} objects")
        await bench.each(bench.create, CACHED)
        await bench.each(bench.finish, CACHED)
        for number in range(ROUNDS):
            for contender in contenders():
                async with peer(contender, bench.kubeconfig, cache_only=True) as running_peer:
                    await running_peer.until(lambda p=running_peer: p.calls >= CACHED)  # type: ignore[misc]
                    seconds = time.monotonic() - running_peer.started
                    grown = await running_peer.trimmed() - idle[contender.name][0]
                say(f"cache round {number + 1}: {contender.name} {grown:.1f} MiB, {seconds:.2f} s")
                full.setdefault(contender.name, []).append(grown)
                wall.setdefault(contender.name, []).append(seconds)
    return [
        *_compared("cache", "MiB over idle", full, goal=0.7),
        *_compared("restart", "s to reconcile 10,000", wall, goal=1.2),
    ]


def _compared(name: str, unit: str, figures: dict[str, list[float]], *, goal: float) -> list[Result]:
    ours = figures["ours"]
    results = [Result(f"{name}.ours", median(ours), unit, detail=spread(ours))]
    for other, values in figures.items():
        if other != "ours":
            ratio = median([a / b for a, b in zip(ours, values, strict=True)])
            results.append(Result(f"{name}.{other}", median(values), unit, detail=spread(values)))
            results.append(Result(name, ratio, f"ratio of {unit}", goal, compared_with=other))
    return results
