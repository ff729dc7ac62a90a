"""How a process starts and ends, with a cache that is fed by hand; real processes are tested on a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from dpf.runtime import memory
from dpf.runtime.client import Client
from dpf.runtime.cluster import Cluster
from dpf.runtime.controller import Controller, For
from dpf.runtime.events import EventRecorder
from dpf.runtime.k8s import Node
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.leader import LeaderElector, LeadershipLost
from dpf.runtime.manager import Manager
from dpf.runtime.metrics import Metrics
from dpf.runtime.options import ManagerOptions, Seconds
from dpf.runtime.reflector import Reflector
from dpf.runtime.testing import run_virtual
from test.unit.runtime.widgets import Widget, raw


class Elector:
    """Stands for the election: elected and deposed by the test."""

    def __init__(self, record: Callable[[str], None]) -> None:
        self.elected = asyncio.Event()
        self.lost = asyncio.Event()
        self._record = record

    async def run(self) -> None:
        self._record("stands for election")
        try:
            await self.lost.wait()
            raise LeadershipLost("held by another")
        finally:
            self._record("lease released")


class Part:
    """A part of a process that records its life."""

    def __init__(self, name: str, record: Callable[[str], None], *, needs_leader: bool) -> None:
        self.name = name
        self.needs_leader = needs_leader
        self.fails = asyncio.Event()
        self._record = record

    async def run(self) -> None:
        self._record(f"{self.name} starts")
        try:
            await self.fails.wait()
            raise OSError(f"{self.name} failed")
        finally:
            self._record(f"{self.name} ends")


class Process:
    """A manager with one controller and a part of each sort; :attr:`story` is what happened, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.story: list[str] = []
        self.hold = asyncio.Event()
        """Reconciles end when it is set."""
        defaults = {"metrics_bind_address": "0", "health_probe_bind_address": "0", "leader_elect": True}
        self.options = ManagerOptions(**{**defaults, **options})
        self.metrics = Metrics()
        cluster = Cluster("test", Client(Kubeconfig("http://127.0.0.1:1"), field_owner="test"))
        self.manager = Manager("test", cluster, self.options, self.metrics)
        self.elector = Elector(self.story.append)
        self.follower = Part("follower", self.story.append, needs_leader=False)
        self.leader = Part("leader", self.story.append, needs_leader=True)
        self.manager.add(self.leader, self.follower, Controller("widget", self, watches=[For(Widget)]))
        self.widgets = cluster.cache[Widget]
        monkeypatch.setattr(LeaderElector, "from_options", lambda *_: self.elector)
        monkeypatch.setattr(Reflector, "run", self._list)
        monkeypatch.setattr(EventRecorder, "run", self._say)

    async def reconcile(self, obj: Widget) -> None:
        self.story.append(f"reconciles {obj.name}")
        try:
            await self.hold.wait()
            self.story.append(f"writes {obj.name}")
        except asyncio.CancelledError:
            self.story.append(f"cancelled {obj.name}")
            raise

    async def _list(self) -> None:
        self.story.append("cache starts")
        await self._until_ended("cache ends")

    async def _say(self) -> None:
        await self._until_ended("events end")

    async def _until_ended(self, text: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.story.append(text)

    def start(self, begin: Callable[[], Awaitable[None]] | None = None) -> asyncio.Task[None]:
        return asyncio.create_task(self.manager.run(begin))

    async def lead(self) -> asyncio.Task[None]:
        """Runs until it leads and reconciles the widget ``a``."""
        task = self.start()
        await asyncio.sleep(1)
        self.widgets.replace([raw("a", 1)], 1)
        self.elector.elected.set()
        await asyncio.sleep(1)
        assert self.story[-1] == "reconciles a"
        return task


def test_caches_come_before_leadership_and_leadership_before_what_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        p = Process(monkeypatch)
        task = p.start()
        await asyncio.sleep(5)
        assert sorted(p.story) == ["cache starts", "follower starts"]
        p.widgets.replace([raw("a", 1)], 1)
        await asyncio.sleep(5)
        assert p.story[2:] == ["stands for election"]
        p.elector.elected.set()
        await asyncio.sleep(1)
        assert p.story[3:] == ["leader starts", "reconciles a"]
        p.hold.set()
        p.manager.stop()
        await task

    run_virtual(body)


def test_memory_is_settled_when_the_caches_are_filled_before_anything_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        p = Process(monkeypatch)
        monkeypatch.setattr(memory, "settle", lambda: p.story.append(f"settles with {len(p.widgets)}"))
        task = await p.lead()
        assert p.story[2:4] == ["settles with 1", "stands for election"]
        p.hold.set()
        p.manager.stop()
        await task

    run_virtual(body)


def test_without_election_what_acts_waits_for_the_caches_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        p = Process(monkeypatch, leader_elect=False)
        p.hold.set()
        task = p.start()
        await asyncio.sleep(5)
        assert not [each for each in p.story if "reconciles" in each or "leader" in each]
        p.widgets.replace([raw("a", 1)], 1)
        await asyncio.sleep(1)
        assert p.story[2:] == ["leader starts", "reconciles a", "writes a"]
        p.manager.stop()
        await task

    run_virtual(body)


async def test_it_is_alive_from_the_first_moment_and_ready_when_the_caches_are_filled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    p = Process(monkeypatch, health_probe_bind_address="127.0.0.1:0")
    nodes = p.manager.cluster.cache[Node]
    ready = [True]
    p.manager.add_readiness("webhook", lambda: ready[0])
    reached, waiting = asyncio.Event(), asyncio.Event()

    async def begin() -> None:
        waiting.set()
        await reached.wait()

    task = p.start(begin)
    await waiting.wait()
    host, port = p.manager._servers.bound["health"]
    async with aiohttp.ClientSession(f"http://{host}:{port}") as http:

        async def ask(path: str) -> tuple[int, str]:
            async with http.get(path) as response:
                return response.status, await response.text()

        assert await ask("/healthz") == (200, "ok")
        assert await ask("/readyz") == (503, "not ready: API server, caches")
        assert p.story == [], "nothing starts before the API server is there"
        reached.set()
        assert (await ask("/readyz"))[1].endswith("caches")
        p.widgets.replace([], 1)
        assert await ask("/readyz") == (503, "not ready: caches"), "one of two is filled"
        nodes.replace([], 1)
        assert await ask("/readyz") == (200, "ok"), "a candidate is ready too: it serves webhooks"
        ready[0] = False
        assert await ask("/readyz") == (503, "not ready: webhook")
    p.manager.stop()
    await task


def test_stopping_lets_reconciles_finish_and_then_ends_from_the_inside_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        p = Process(monkeypatch, graceful_shutdown_timeout=Seconds(8))
        task = await p.lead()
        p.story.clear()
        p.manager.stop()
        await asyncio.sleep(1)
        p.widgets.apply("ADDED", raw("b", 2))
        await asyncio.sleep(5)
        assert p.story == [], "what runs may go on, nothing more is taken"
        p.hold.set()
        await task
        assert p.story[:3] == ["writes a", "leader ends", "lease released"]
        assert sorted(p.story[3:5]) == ["cache ends", "follower ends"]
        assert p.story[5:] == ["events end"]

    run_virtual(body)


def test_what_does_not_finish_within_the_grace_period_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        p = Process(monkeypatch, graceful_shutdown_timeout=Seconds(8))
        task = await p.lead()
        p.story.clear()
        stopped = asyncio.get_running_loop().time()
        p.manager.stop()
        await task
        assert asyncio.get_running_loop().time() - stopped == pytest.approx(8, abs=0.1)
        assert p.story[0] == "cancelled a"
        assert "writes a" not in p.story
        assert p.story.index("lease released") > 0, "the lease is kept for as long as anything acts"

    run_virtual(body)


def test_lost_leadership_ends_it_at_once_without_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        p = Process(monkeypatch, graceful_shutdown_timeout=Seconds(60))
        task = await p.lead()
        lost = asyncio.get_running_loop().time()
        p.elector.lost.set()
        with pytest.raises(BaseExceptionGroup) as ended:
            await task
        assert ended.group_contains(LeadershipLost)
        assert asyncio.get_running_loop().time() == lost
        assert "cancelled a" in p.story
        assert "writes a" not in p.story

    run_virtual(body)


def test_leadership_lost_while_stopping_ends_the_grace_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        p = Process(monkeypatch, graceful_shutdown_timeout=Seconds(60))
        task = await p.lead()
        p.manager.stop()
        await asyncio.sleep(1)
        lost = asyncio.get_running_loop().time()
        p.elector.lost.set()
        with pytest.raises(BaseExceptionGroup):
            await task
        assert asyncio.get_running_loop().time() == lost
        assert "writes a" not in p.story

    run_virtual(body)


@pytest.mark.parametrize("part", ["follower", "leader"])
def test_a_part_that_fails_ends_it_with_its_error(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    async def body() -> None:
        p = Process(monkeypatch)
        task = await p.lead()
        getattr(p, part).fails.set()
        with pytest.raises(BaseExceptionGroup) as ended:
            await asyncio.wait_for(task, 60)
        assert ended.group_contains(OSError, match=f"{part} failed")
        assert {"lease released", "cache ends", "events end", "cancelled a"} <= set(p.story)

    run_virtual(body)


@pytest.mark.parametrize("stage", ["server", "caches", "election"])
def test_it_can_be_stopped_at_every_stage_of_its_start(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    async def body() -> None:
        p = Process(monkeypatch)

        async def begin() -> None:
            if stage == "server":
                await asyncio.Event().wait()

        task = p.start(begin)
        await asyncio.sleep(1)
        if stage == "election":
            p.widgets.replace([raw("a", 1)], 1)
            await asyncio.sleep(1)
        stopped = asyncio.get_running_loop().time()
        p.manager.stop()
        await task
        assert asyncio.get_running_loop().time() == stopped
        assert not [each for each in p.story if "reconciles" in each]

    run_virtual(body)


def test_caches_that_stay_empty_end_it_and_say_which(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        p = Process(monkeypatch)
        p.manager.cluster.cache[Node].replace([], 1)
        with pytest.raises(BaseExceptionGroup) as ended:
            await p.start()
        assert ended.group_contains(TimeoutError, match=r"no list of widgets\S* within.*are the CRDs installed")
        assert "stands for election" not in p.story

    run_virtual(body)


def test_two_controllers_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        p = Process(monkeypatch)
        with pytest.raises(ValueError, match="two controllers are called widget"):
            p.manager.add(Controller("widget", p, watches=[For(Widget)]))

    run_virtual(body)


def test_what_is_added_when_it_runs_already_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        p = Process(monkeypatch)
        p.hold.set()
        added = Part("added at begin", p.story.append, needs_leader=False)

        async def begin() -> None:
            p.manager.add(added)

        task = p.start(begin)
        await asyncio.sleep(1)
        assert "added at begin starts" in p.story
        with pytest.raises(RuntimeError, match="before the manager runs them"):
            p.manager.add(Part("late", p.story.append, needs_leader=True))
        p.manager.stop()
        await task

    run_virtual(body)


def test_an_unreadable_object_gets_an_event_and_a_metric_in_kinds_that_are_cached_late_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body() -> None:
        p = Process(monkeypatch)
        said: list[tuple[str, str]] = []
        monkeypatch.setattr(p.manager.events, "warning", lambda obj, reason, _: said.append((obj.name, reason)))
        task = await p.lead()
        p.widgets.apply("ADDED", raw("bad", 2, size="big"))
        late = p.manager.cluster.cache[Node]
        late.replace([raw("worse", 3, kind="Node", namespace="", labels=7)], 3)
        assert len(p.widgets.list()) + len(late.list()) == 1
        assert said == [("bad", "Unreadable"), ("worse", "Unreadable")]
        for kind in (b"Widget", b"Node"):
            assert b'dpf_cache_unreadable_objects_total{kind="%s"} 1.0' % kind in p.metrics.render()
        p.hold.set()
        p.manager.stop()
        await task

    run_virtual(body)
