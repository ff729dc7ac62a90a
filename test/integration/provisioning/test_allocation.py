"""Hundreds of DPUs at once and clusters with few places, on a real API server: ``maxNodes`` is never exceeded, whoever dies."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from random import Random
from typing import Any

import pytest

from dpf.provisioning.dpucluster.allocator import REASON
from dpf.runtime.client import Client
from dpf.runtime.errors import Unavailable
from dpf.runtime.informer import Informer
from dpf.runtime.k8s import Secret, encoded
from dpf.runtime.manager import Manager
from dpf.runtime.meta import ObjectMeta
from dpf_api.dpu import DPU
from dpf_api.dpucluster import DPUCluster, Phase
from test.integration.provisioning.conftest import World
from test.spec import spec

pytestmark = pytest.mark.timeout(400)

DPUS, HOSTS = 320, 40
PLACES = {"c1": 7, "c2": 1, "c3": 120, "c4": 63, "c5": 90}
"""``maxNodes`` of each cluster: room for 281."""
ROOM = sum(PLACES.values())
CALM = 8


class Books:
    """Watches all DPUs of a namespace from the beginning, and keeps account of who was given what."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client, self._namespace = client, namespace
        self.dpus: dict[str, DPU] = {}
        self.overbooked: list[str] = []
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[Books]:
        task = asyncio.create_task(self._keep())
        try:
            yield self
            assert not self.overbooked
            assert not task.done(), "the watch must not have ended"
        finally:
            task.cancel()

    async def _keep(self) -> None:
        version = ""
        while True:
            # A server ends the watch of who is slow; from the last version on nothing is missed.
            watch = self._client.watch(DPU, self._namespace, resource_version=version)
            async with aclosing(watch) as events:
                async for event, dpu in events:
                    version = dpu.metadata.resource_version
                    async with self._changed:
                        self._enter(event, dpu)
                        self._changed.notify_all()

    def _enter(self, event: str, dpu: DPU) -> None:
        self.dpus[dpu.name] = dpu
        if event == "DELETED":
            del self.dpus[dpu.name]
        self.overbooked += [f"{name}: {count}" for name, count in self.taken().items() if count > PLACES[name]]

    def taken(self) -> Counter[str]:
        """How many DPUs each cluster has now; those that are being deleted have left it."""
        return Counter(d.spec.cluster.name for d in self.dpus.values() if d.spec.cluster.name and not d.deleting)

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(100), self._changed:
                await self._changed.wait_for(holds)
        except TimeoutError:
            reasons = Counter((d.status.phase, d.status.reason) for d in self.dpus.values())
            raise AssertionError(f"{what} did not come: {self.taken()}, {reasons}") from None

    def told(self) -> int:
        """How many were told that there is no room."""
        return sum(not d.spec.cluster.name and d.status.reason == REASON for d in self.dpus.values())

    def settled(self) -> bool:
        """Everybody has a place or was told why not, and no place is free."""
        return sum(self.taken().values()) == ROOM and ROOM + self.told() == len(self.dpus)


@pytest.fixture
async def books(idle_world: World) -> AsyncIterator[Books]:
    """Many hosts, and clusters that are Ready; no manager is at work."""
    world = idle_world
    await _each([world.node(f"h{n}-{world.namespace}") for n in range(HOSTS)])
    meta = ObjectMeta(name="shared", namespace=world.namespace)
    await world.host.create(Secret(metadata=meta, data=encoded({"admin.conf": world.planes.dpu.read_text()})))
    for name, places in PLACES.items():
        spec = {"type": "static", "version": "", "maxNodes": places, "kubeconfig": "shared"}
        body = {"metadata": {"name": name, "namespace": world.namespace}, "spec": spec}
        await world.host.create(DPUCluster.model_validate(body))
    async with world.manager():
        for name in PLACES:
            await world.eventually(DPUCluster, name, until=lambda c: c.status.phase is Phase.READY)
    async with Books(world.host, world.namespace).kept() as kept:
        yield kept


async def make(world: World, first: int, last: int, **more: Any) -> None:
    """DPUs, eight to a host."""
    await _each(
        [
            world.create_dpu(
                f"d{n:03}", pci=f"0000-{n // HOSTS:02x}-00", nodeName=f"h{n % HOSTS}-{world.namespace}", **more
            )
            for n in range(first, last)
        ]
    )


def losing_answers(manager: Manager) -> None:
    """Of the manager's assignments some get no answer: half of those were stored, half never arrived."""
    client, random = manager.cluster.client, Random(4)
    send = client.request

    async def request(method: str, path: str, *, body: Any = None, **more: Any) -> bytes:
        assigns = method == "PATCH" and isinstance(body, dict) and "cluster" in body.get("spec", {})
        lost = assigns and random.random() < 0.25
        if lost and random.random() < 0.5:
            raise Unavailable(0, "NoAnswer", "lost on the way")
        answer = await send(method, path, body=body, **more)
        if lost:
            raise Unavailable(0, "NoAnswer", "lost on the way back")
        return answer

    client.request = request  # type: ignore[method-assign]


def hearing_late(manager: Manager) -> None:
    """What others write to DPUs reaches the manager's cache a second late."""
    informer: Informer[DPU] = manager.cluster.cache[DPU]
    apply, loop = informer.apply, asyncio.get_running_loop()
    informer.apply = lambda *event: loop.call_later(1.0, apply, *event)  # type: ignore[method-assign,assignment]


class Deaf:
    """A manager whose watch of DPUs is far behind."""

    def __init__(self) -> None:
        self.deaf = False
        self._missed: list[tuple[Any, ...]] = []
        self._apply: Callable[..., None] = lambda *_: None

    def to(self, manager: Manager) -> None:
        informer: Informer[DPU] = manager.cluster.cache[DPU]
        self._apply = informer.apply
        informer.apply = self._take  # type: ignore[method-assign,assignment]
        bookmark = informer.bookmark
        # Who is far behind has not been shown what a bookmark says that it was.
        informer.bookmark = lambda version: None if self.deaf else bookmark(version)  # type: ignore[method-assign]

    def _take(self, event: str, raw: Any) -> None:
        if self.deaf:
            self._missed.append((event, bytes(raw)))
        else:
            self._apply(event, raw)

    def hear(self) -> None:
        self.deaf = False
        for missed in self._missed:
            self._apply(*missed)


def both(manager: Manager) -> None:
    losing_answers(manager)
    hearing_late(manager)


@spec("provisioning:61", "provisioning:62", "provisioning:66")
async def test_hundreds_at_once_never_get_more_places_than_there_are(idle_world: World, books: Books) -> None:
    by_hand = {"name": "c3", "namespace": idle_world.namespace}
    await make(idle_world, 0, 20, cluster=by_hand)
    async with idle_world.manager(prepare=both, workers=16):
        await make(idle_world, 20, DPUS)
        await books.until(lambda: len(books.dpus) == DPUS and books.settled(), "a place for as many as there is room")
        assert books.taken() == PLACES
        waiting = [dpu for dpu in books.dpus.values() if not dpu.spec.cluster.name]
        for name, places in PLACES.items():
            assert all(f"{name} is full (maxNodes {places})" in dpu.status.message for dpu in waiting)
        # Whoever leaves makes room for one that waits.
        leaving = Random(7).sample([dpu for dpu in books.dpus.values() if dpu.spec.cluster.name], len(waiting) - 5)
        await _each([idle_world.host.delete(dpu) for dpu in leaving])
        gone = {dpu.name for dpu in leaving}
        await books.until(lambda: not gone & books.dpus.keys() and books.settled(), "the places that became free")


@spec("provisioning:64")
async def test_a_manager_that_is_killed_has_given_no_place_twice(idle_world: World, books: Books) -> None:
    await make(idle_world, 0, DPUS)
    for stage in (40, 110, 190):
        async with idle_world.manager(prepare=losing_answers, workers=16) as manager:
            await books.until(lambda stage=stage: sum(books.taken().values()) >= stage, f"{stage} places")  # type: ignore[misc]
            await idle_world.kill(manager)
    async with idle_world.manager(workers=16):
        await books.until(books.settled, "a place for as many as there is room")


async def test_a_manager_that_takes_over_counts_what_the_one_before_it_gave_away(
    idle_world: World, books: Books
) -> None:
    lease: dict[str, Any] = {"leader_elect": True, "leader_elect_namespace": idle_world.namespace, "workers": 16}
    deaf, late = Deaf(), f"late-{idle_world.namespace}"
    async with idle_world.manager(**lease) as first:
        await make(idle_world, 0, ROOM // 2)
        await _each(
            [idle_world.create_dpu(f"late{n:03}", pci=f"0000-{n:02x}-00", nodeName=late) for n in range(DPUS - ROOM)]
        )
        await books.until(lambda: sum(books.taken().values()) == ROOM // 2, "half the places")
        async with idle_world.manager(prepare=deaf.to, **lease) as second:
            await asyncio.gather(*(informer.synced.wait() for informer in second.cluster.cache.informers()))
            deaf.deaf = True
            await make(idle_world, ROOM // 2, ROOM)
            await books.until(lambda: sum(books.taken().values()) == ROOM, "all places")
            first.stop()
            await idle_world.node(late)
            await books.until(lambda: books.told() >= (DPUS - ROOM) // 4, "that others are told")
            deaf.hear()
            await books.until(books.settled, "that all others are told")


async def _each(work: list[Any]) -> None:
    limit = asyncio.Semaphore(CALM)

    async def one(coroutine: Any) -> None:
        async with limit:
            await coroutine

    async with asyncio.TaskGroup() as group:
        for coroutine in work:
            group.create_task(one(coroutine))
