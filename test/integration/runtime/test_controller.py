"""Controllers on a real API server, run by a manager in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from dpf.runtime.client import MERGE_PATCH, Client
from dpf.runtime.cluster import Cluster
from dpf.runtime.controller import Controller, For, Owns, Result
from dpf.runtime.informer import Change
from dpf.runtime.k8s import ConfigMap, Event
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.manager import Manager
from dpf.runtime.meta import Condition, Key, ObjectMeta, owner_reference
from dpf.runtime.metrics import Metrics
from dpf.runtime.options import ManagerOptions
from dpf.runtime.testing import eventually, eventually_gone
from test.integration.conftest import Planes
from test.unit.runtime.widgets import Widget, WidgetSpec, WidgetStatus

FINALIZER = "bench.dpf.dev/undo"


class Reconciler:
    """Records what it is called with, and does as it is told."""

    def __init__(self) -> None:
        self.seen: list[Widget] = []
        self.act: Callable[[Widget], Awaitable[None]] = self._nothing
        self._called = asyncio.Condition()

    async def reconcile(self, obj: Widget) -> None:
        await self.act(obj)
        await self._record(obj)

    async def calls(self, holds: Callable[[list[Widget]], bool]) -> None:
        """Returns once it holds of all calls so far."""
        async with asyncio.timeout(30), self._called:
            await self._called.wait_for(lambda: holds(self.seen))

    async def _record(self, obj: Widget) -> None:
        self.seen.append(obj)
        async with self._called:
            self._called.notify_all()

    async def _nothing(self, _: Widget) -> None:
        pass


class Undoing(Reconciler):
    """One that has something to undo: it needs two looks for that, the second when it is allowed."""

    finalizer = FINALIZER
    puts_finalizer_on = True

    def __init__(self) -> None:
        super().__init__()
        self.finalized = 0
        self.allowed = asyncio.Event()

    async def finalize(self, obj: Widget) -> Result | None:
        self.finalized += 1
        await self._record(obj)
        if self.finalized == 1:
            return Result(requeue_after=0.01)
        await self.allowed.wait()
        return None


class Running:
    """A manager at work."""

    def __init__(self, manager: Manager) -> None:
        self.cluster = manager.cluster
        self.metrics = manager.metrics


@asynccontextmanager
async def running(client: Client, namespace: str, *controllers: Controller[Widget]) -> AsyncIterator[Running]:
    """Runs the controllers inside the block."""
    options = ManagerOptions(namespace=namespace, metrics_bind_address="0", health_probe_bind_address="0")
    manager = Manager("test", Cluster("host", client, namespace=namespace), options, Metrics())
    manager.add(*controllers)
    task = asyncio.create_task(manager.run())
    try:
        yield Running(manager)
        assert not task.done()
    finally:
        manager.stop()
        await task


def controller(reconciler: Reconciler, *more: Owns) -> Controller[Widget]:
    return Controller("widget", reconciler, watches=[For(Widget), *more])


@pytest.fixture
def widget(host_client: Client, namespace: str) -> Callable[..., Awaitable[Widget]]:
    """Makes a widget."""

    async def make(name: str, **spec: int) -> Widget:
        meta = ObjectMeta(name=name, namespace=namespace)
        return await host_client.create(Widget(metadata=meta, spec=WidgetSpec(**spec)))

    return make


Make = Callable[..., Awaitable[Widget]]


async def test_a_finalizer_is_put_on_before_the_first_reconcile_and_taken_off_when_all_is_undone(
    host_client: Client, namespace: str, widget: Make
) -> None:
    undoing = Undoing()
    made = await widget("a")
    others = {"metadata": {"finalizers": ["bench.dpf.dev/other"]}}
    await host_client.merge_patch(made, others)
    async with running(host_client, namespace, controller(undoing)):
        await undoing.calls(lambda seen: bool(seen))
        assert FINALIZER in undoing.seen[0].metadata.finalizers
        on_server = await host_client.get(Widget, "a", namespace)
        assert sorted(on_server.metadata.finalizers) == ["bench.dpf.dev/other", FINALIZER]

        await host_client.delete(made)
        await undoing.calls(lambda _: undoing.finalized == 2)
        going = await host_client.get(Widget, "a", namespace)
        assert going.deleting
        assert FINALIZER in going.metadata.finalizers, "a finalizer stays until finalize says that it is done"
        undoing.allowed.set()
        left = await eventually(
            host_client, Widget, "a", namespace, until=lambda w: FINALIZER not in w.metadata.finalizers
        )
        assert left.metadata.finalizers == ["bench.dpf.dev/other"]
        await host_client.merge_patch(left, {"metadata": {"finalizers": None}})
        await eventually_gone(host_client, Widget, "a", namespace)
    assert not any(each.deleting for each in undoing.seen[:1])
    assert undoing.finalized == 2, "whose finalizer is off is nobody's any more"


async def test_a_finalizer_of_others_is_only_taken_off(host_client: Client, namespace: str, widget: Make) -> None:
    undoing = Undoing()
    undoing.puts_finalizer_on = False
    undoing.allowed.set()
    made = await widget("a")
    async with running(host_client, namespace, controller(undoing)):
        await undoing.calls(lambda seen: bool(seen))
        assert (await host_client.get(Widget, "a", namespace)).metadata.finalizers == []
        await host_client.merge_patch(made, {"metadata": {"finalizers": [FINALIZER]}})
        await host_client.delete(made)
        await eventually_gone(host_client, Widget, "a", namespace)


async def test_an_unreadable_object_gets_an_event_and_a_metric_and_stops_nobody(
    host_client: Client, namespace: str, widget: Make
) -> None:
    reconciler = Reconciler()
    good = await widget("good")
    bad = await widget("bad")
    broken = {"spec": {"size": "big"}}
    await host_client.request("PATCH", Widget.RESOURCE.path(namespace, "bad"), body=broken, content_type=MERGE_PATCH)
    async with running(host_client, namespace, controller(reconciler)) as r:
        await reconciler.calls(lambda seen: bool(seen))
        assert {each.name for each in reconciler.seen} == {"good"}
        event = await _event_of(host_client, namespace, "bad")
        assert (event.type, event.reason) == ("Warning", "Unreadable")
        assert "spec.size" in event.note
        assert event.regarding is not None
        assert event.regarding.uid == bad.uid
        assert b'dpf_cache_unreadable_objects_total{kind="Widget"} 1.0' in r.metrics.render()

        await host_client.merge_patch(good, {"spec": {"size": 2}})
        await reconciler.calls(lambda seen: seen[-1].spec.size == 2)
        await host_client.merge_patch(bad, {"spec": {"size": 3}})
        await reconciler.calls(lambda seen: seen[-1].name == "bad")


async def _event_of(client: Client, namespace: str, name: str) -> Event:
    async with asyncio.timeout(30):
        async for kind, event in client.watch(Event, namespace):
            if kind != "DELETED" and event.regarding is not None and event.regarding.name == name:
                return event
    raise AssertionError("the watch ended")


async def test_an_owner_is_woken_by_what_it_manages(host_client: Client, namespace: str, widget: Make) -> None:
    reconciler = Reconciler()
    owner, stranger = await widget("owner"), await widget("stranger")
    async with running(host_client, namespace, controller(reconciler, Owns(ConfigMap))) as r:
        await reconciler.calls(lambda seen: len({each.name for each in seen}) == 2)
        reconciler.seen.clear()
        meta = ObjectMeta(name="owned", namespace=namespace, owner_references=[owner_reference(owner)])
        loose = [owner_reference(stranger, controller=False)]
        async with Client(host_client.transport.kubeconfig, field_owner="somebody-else") as other:
            await other.create(
                ConfigMap(metadata=ObjectMeta(name="loose", namespace=namespace, owner_references=loose))
            )
            owned = await other.create(ConfigMap(metadata=meta))
            await reconciler.calls(lambda seen: len(seen) == 1)
            await other.merge_patch(owned, {"data": {"x": "1"}})
            await reconciler.calls(lambda seen: len(seen) == 2)
            await other.delete(owned)
            await reconciler.calls(lambda seen: len(seen) == 3)
        assert {each.name for each in reconciler.seen} == {"owner"}
        assert r.cluster.cache[ConfigMap].get("owned", namespace) is None


async def test_a_reconcile_reads_what_it_wrote(host_client: Client, namespace: str, widget: Make) -> None:
    reconciler = Reconciler()
    read: list[bool] = []

    async with running(host_client, namespace, controller(reconciler)) as r:
        widgets = r.cluster.cache[Widget]

        async def act(obj: Widget) -> None:
            written = await host_client.status(obj).set(obj.status.model_copy(update={"size": obj.spec.size}))
            cached = widgets.get(obj.name, namespace)
            read.append(cached is not None and cached.status.size == written.status.size == obj.spec.size)

        reconciler.act = act
        made = [await widget(f"w{number}") for number in range(10)]
        for size in range(1, 6):
            for each in made:
                await host_client.merge_patch(each, {"spec": {"size": size}})
        for each in made:
            await eventually(host_client, Widget, each.name, namespace, until=lambda w: w.status.size == 5)
    assert all(read)
    assert len(read) >= 10


async def test_two_controllers_of_one_object_do_not_lose_each_others_status(
    control_planes: Planes, host_client: Client, namespace: str, widget: Make
) -> None:
    """Each process writes a condition of its own into the same list; the lock on the version makes the slower one look again."""

    class Writer(Reconciler):
        def __init__(self, name: str, client: Client) -> None:
            super().__init__()
            self.name = name
            self._client = client

        async def reconcile(self, obj: Widget) -> None:
            if not any(each.type == self.name for each in obj.status.conditions):
                conditions = [*obj.status.conditions, Condition(type=self.name, status="True", reason="Done")]
                await self._client.status(obj).set(WidgetStatus(conditions=conditions))

    def lost(change: Change[Widget]) -> None:
        before, after = ({c.type for c in w.status.conditions} if w else set() for w in (change.old, change.new))
        losses.extend(before - after)

    losses: list[str] = []
    async with AsyncExitStack() as stack:
        for name in ("One", "Two", "Three"):
            client = Client(Kubeconfig.load(control_planes.host), field_owner=name)
            writer = Writer(name, await stack.enter_async_context(client))
            made = Controller(name, writer, watches=[For(Widget)], workers=4)
            r = await stack.enter_async_context(running(client, namespace, made))
            r.cluster.cache[Widget].add_handler(lost)
        keys = [(await widget(f"w{number}")).key for number in range(10)]
        for key in keys:
            await eventually(host_client, Widget, *_name(key), until=lambda w: len(w.status.conditions) == 3)
    assert losses == []


def _name(key: Key) -> tuple[str, str]:
    return key.name, key.namespace
