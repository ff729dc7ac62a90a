"""What a controller guarantees to its reconciler, in virtual time with a cache that is fed by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import pytest

from dpf.runtime.client import Client, decode
from dpf.runtime.cluster import Cluster
from dpf.runtime.controller import Controller, For, Owns, Result, Watch, WatchRemote, WatchRemoteHealth
from dpf.runtime.errors import ApiError, ClusterUnavailable, Conflict, Terminal, Waiting
from dpf.runtime.informer import Informer
from dpf.runtime.k8s import Node, Pod
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import Key
from dpf.runtime.metrics import Metrics
from dpf.runtime.places import MOMENT, PLACES, Places, elsewhere
from dpf.runtime.predicates import generation_changed
from dpf.runtime.remote import RemoteClusters
from dpf.runtime.testing import run_virtual
from test.unit.runtime.widgets import Widget, raw

Act = Callable[[Widget], Awaitable[Result | None]]


async def nothing(_: Widget) -> None:
    return None


class Recording:
    """Records what it is called with, and when; then does as it is told."""

    def __init__(self, act: Act = nothing) -> None:
        self.calls: list[tuple[str, float]] = []
        self.act = act

    async def reconcile(self, obj: Widget) -> Result | None:
        self.calls.append((obj.name, round(asyncio.get_running_loop().time(), 3)))
        return await self.act(obj)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


class Running:
    """A controller at work on a cache without a server."""

    def __init__(self, controller: Controller[Widget], metrics: Metrics) -> None:
        self.controller = controller
        self.metrics = metrics.controller(controller.name, controller.workers)
        self.cluster = Cluster("test", Client(Kubeconfig(server="http://127.0.0.1:1"), field_owner="test"))
        controller.register(self.cluster, metrics)
        self.widgets: Informer[Widget] = self.cluster.cache[Widget]

    async def __aenter__(self) -> Running:
        self._task = asyncio.create_task(self.controller.run())
        await asyncio.sleep(0)
        for informer in self.cluster.cache.informers():
            if not informer.synced.is_set():
                informer.replace([], 1)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


def running(
    reconciler: Recording, *more: Owns | Watch[Node] | WatchRemote[Node] | WatchRemoteHealth, **options: object
) -> Running:
    watches = [For(Widget), *more]
    return Running(Controller("widget", reconciler, watches=watches, **options), Metrics())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "parts",
    [
        {"finalizer": "bench.dpf.dev/undo"},
        {"finalize": nothing},
        {"finalizer": "", "puts_finalizer_on": True, "finalize": nothing},
    ],
)
def test_a_reconciler_that_could_not_undo_what_it_says_is_refused(parts: dict[str, object]) -> None:
    """Its objects could never go."""
    half = type("Half", (Recording,), parts)
    with pytest.raises(TypeError, match="Half needs both finalizer and finalize"):
        Controller("widget", half(), watches=[For(Widget)])


def test_nothing_is_reconciled_before_every_watched_kind_is_listed() -> None:
    async def body() -> None:
        recording = Recording()
        r = running(recording, Owns(Pod))
        r.widgets.replace([raw("a", 1)], 1)
        task = asyncio.create_task(r.controller.run())
        await asyncio.sleep(5)
        assert recording.calls == []
        r.cluster.cache[Pod].replace([], 1)
        await asyncio.sleep(1)
        assert recording.names == ["a"]
        task.cancel()

    run_virtual(body)


def test_an_object_is_never_with_two_workers_and_runs_again_if_it_changed_meanwhile() -> None:
    async def body() -> None:
        inside = 0

        async def slow(_: Widget) -> None:
            nonlocal inside
            inside += 1
            assert inside == 1
            await asyncio.sleep(1)
            inside -= 1

        recording = Recording(slow)
        async with running(recording, workers=4) as r:
            for version in range(2, 7):
                r.widgets.apply("MODIFIED", raw("a", version))
                await asyncio.sleep(0.1)
            await asyncio.sleep(10)
        assert recording.names == ["a", "a"]

    run_virtual(body)


def test_a_reconcile_that_waits_elsewhere_takes_no_worker_from_others() -> None:
    whose: ContextVar[str] = ContextVar("whose", default="")
    found: list[str] = []

    async def body() -> None:
        async def act(obj: Widget) -> None:
            found.append(whose.get())
            whose.set(obj.name)
            if obj.name.startswith("away"):
                async with elsewhere():
                    await asyncio.sleep(30)

        recording = Recording(act)
        async with running(recording, workers=1) as r:
            for version, name in enumerate(("away1", "away2", "away3", "near"), start=2):
                r.widgets.apply("ADDED", raw(name, version))
            await asyncio.sleep(60)
        assert recording.names == ["away1", "away2", "away3", "near"]
        assert recording.calls[-1][1] - recording.calls[0][1] == pytest.approx(3 * MOMENT)
        assert found == ["", "", "", ""], "a worker that is hired works in nobody's name"

    run_virtual(body)


def test_when_those_who_waited_elsewhere_are_back_there_are_as_many_workers_as_before() -> None:
    async def body() -> None:
        inside, most = 0, 0

        async def act(obj: Widget) -> None:
            nonlocal inside, most
            if obj.name.startswith("away"):
                async with elsewhere():
                    await asyncio.sleep(5)
                return
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(1)
            inside -= 1

        recording = Recording(act)
        async with running(recording, workers=2) as r:
            for version in range(2, 12):
                r.widgets.apply("ADDED", raw(f"away{version}", version))
            await asyncio.sleep(10)
            for version in range(12, 22):
                r.widgets.apply("ADDED", raw(f"near{version}", version))
            await asyncio.sleep(10)
        assert len(recording.calls) == 20
        assert most == 2

    run_virtual(body)


def test_a_moment_elsewhere_costs_no_worker() -> None:
    async def body() -> None:
        hired = 0

        def hire() -> None:
            nonlocal hired
            hired += 1

        places = Places(hire)
        PLACES.set(places)
        async with elsewhere():
            await asyncio.sleep(MOMENT / 2)
        await asyncio.sleep(1)
        assert hired == 0
        async with elsewhere(), elsewhere():
            await asyncio.sleep(1)
        assert hired == 2
        assert [places.is_one_too_many() for _ in range(3)] == [True, True, False]

    run_virtual(body)


def test_an_error_is_retried_with_growing_waits_and_a_success_forgets_it() -> None:
    async def body() -> None:
        async def fail(_: Widget) -> None:
            if len(recording.calls) < 4:
                raise RuntimeError("not yet")

        recording = Recording(fail)
        async with running(recording) as r:
            r.widgets.apply("ADDED", raw("a", 2))
            await asyncio.sleep(10)
            waits = [b[1] - a[1] for a, b in zip(recording.calls, recording.calls[1:], strict=False)]
            assert waits == pytest.approx([0.005, 0.01, 0.02], abs=0.002)
            assert r.metrics.results["error"] == 3
            assert r.metrics.results["success"] == 1
            assert r.controller._queue is not None
            assert r.controller._queue.limiter.failures == {}

    run_virtual(body)


def test_requeue_after_forgets_failures_too() -> None:
    async def body() -> None:
        async def act(_: Widget) -> Result | None:
            if len(recording.calls) == 1:
                raise RuntimeError("once")
            return Result(requeue_after=60) if len(recording.calls) == 2 else None

        recording = Recording(act)
        async with running(recording) as r:
            r.widgets.apply("ADDED", raw("a", 2))
            await asyncio.sleep(30)
            assert r.controller._queue is not None
            assert r.controller._queue.limiter.failures == {}
            await asyncio.sleep(70)
        assert recording.calls[2][1] - recording.calls[1][1] == pytest.approx(60, abs=0.01)

    run_virtual(body)


def test_terminal_is_not_retried_until_the_object_changes() -> None:
    async def body() -> None:
        async def act(_: Widget) -> None:
            raise Terminal("BadSpec", "size must be even")

        recording = Recording(act)
        async with running(recording) as r:
            r.widgets.apply("ADDED", raw("a", 2))
            await asyncio.sleep(10_000)
            assert recording.names == ["a"]
            r.widgets.apply("MODIFIED", raw("a", 3))
            await asyncio.sleep(1)
            assert recording.names == ["a", "a"]
            assert r.metrics.terminal == 2

    run_virtual(body)


def test_waiting_counts_no_failure_and_looks_again_only_when_asked_to() -> None:
    async def body() -> None:
        async def act(obj: Widget) -> None:
            raise Waiting("Other", "somebody else acts", retry_after=30 if obj.name == "timed" else None)

        recording = Recording(act)
        async with running(recording) as r:
            r.widgets.apply("ADDED", raw("timed", 2))
            r.widgets.apply("ADDED", raw("watching", 3))
            await asyncio.sleep(70)
            assert sorted(recording.names) == ["timed", "timed", "timed", "watching"]
            assert r.metrics.errors == 0
            assert r.controller._queue is not None
            assert r.controller._queue.limiter.failures == {}

    run_virtual(body)


def test_a_deadline_that_passes_is_a_retry_and_counted() -> None:
    async def body() -> None:
        async def hang(_: Widget) -> None:
            if len(recording.calls) == 1:
                await asyncio.sleep(1000)

        recording = Recording(hang)
        async with running(recording, timeout=5) as r:
            r.widgets.apply("ADDED", raw("a", 2))
            await asyncio.sleep(20)
            assert recording.names == ["a", "a"]
            assert r.metrics.timeouts == 1

    run_virtual(body)


@pytest.mark.parametrize("error", [Conflict(409, "Conflict", "m"), ApiError(418, "Teapot", "m"), ValueError("a bug")])
def test_whatever_is_raised_other_objects_go_on(error: Exception) -> None:
    async def body() -> None:
        async def act(obj: Widget) -> None:
            if obj.name == "bad":
                raise error

        recording = Recording(act)
        async with running(recording) as r:
            r.widgets.apply("ADDED", raw("bad", 2))
            r.widgets.apply("ADDED", raw("good", 3))
            await asyncio.sleep(1)
        assert "good" in recording.names
        assert recording.names.count("bad") > 2

    run_virtual(body)


def test_a_call_that_is_cancelled_under_a_worker_is_a_retry_and_the_worker_goes_on() -> None:
    """gRPC does that: a call whose channel is closed raises CancelledError in whoever awaits it."""

    async def body() -> None:
        async def act(_: Widget) -> None:
            if len(recording.calls) == 1:
                call: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                call.cancel()
                await call

        recording = Recording(act)
        async with running(recording) as r:
            r.widgets.apply("ADDED", raw("a", 2))
            await asyncio.sleep(1)
            assert r.metrics.errors == 1
        assert recording.names == ["a", "a"]

    run_virtual(body)


def of_remote_kind(remotes: RemoteClusters) -> WatchRemote[Node]:
    return WatchRemote(Node, remotes, to=lambda *_: ())


@pytest.mark.parametrize("watch", [of_remote_kind, WatchRemoteHealth])
def test_work_for_an_unavailable_cluster_waits_for_its_circuit_to_close(
    watch: Callable[[RemoteClusters], WatchRemote[Node] | WatchRemoteHealth],
) -> None:
    async def body() -> None:
        async def act(_: Widget) -> None:
            if len(recording.calls) in {1, 3}:
                raise ClusterUnavailable("n/c", "away")

        recording = Recording(act)
        remotes = RemoteClusters(field_owner="test", metrics=Metrics())
        async with running(recording, watch(remotes)) as r:
            r.widgets.apply("ADDED", raw("a", 2))
            await asyncio.sleep(10)
            assert recording.names == ["a"]
            remotes._tell(Key("n", "c"), ok=False)
            remotes._tell(Key("n", "other"), ok=True)
            await asyncio.sleep(1)
            assert recording.names == ["a"]
            remotes._tell(Key("n", "c"), ok=True)
            await asyncio.sleep(1)
            assert recording.names == ["a", "a"]
            r.widgets.apply("MODIFIED", raw("a", 3))
            await asyncio.sleep(120)
        assert recording.calls[3][1] - recording.calls[2][1] == pytest.approx(60, abs=0.01), "though nobody says so"

    run_virtual(body)


def test_what_is_parked_is_forgotten_when_it_is_looked_at_or_gone() -> None:
    async def body() -> None:
        async def act(obj: Widget) -> None:
            if obj.metadata.resource_version == "2":
                raise ClusterUnavailable("n/c", "away")

        recording = Recording(act)
        async with running(recording) as r:
            for name in "ab":
                r.widgets.apply("ADDED", raw(name, 2))
            await asyncio.sleep(1)
            assert r.controller._parked == {"n/c": {Key("n", "a"), Key("n", "b")}}
            r.widgets.apply("DELETED", raw("a", 3))
            r.widgets.apply("MODIFIED", raw("b", 4))
            await asyncio.sleep(1)
            assert r.controller._parked == {}

    run_virtual(body)


def test_a_circuit_that_closes_while_work_is_on_its_way_to_be_parked_is_not_missed() -> None:
    async def body() -> None:
        async def act(_: Widget) -> None:
            if len(recording.calls) == 1:
                await asyncio.sleep(1)
                raise ClusterUnavailable("n/c", "away a second ago")

        recording = Recording(act)
        async with running(recording) as r:
            r.widgets.apply("ADDED", raw("a", 2))
            await asyncio.sleep(0.5)
            r.controller._unpark(Key("n", "c"), healthy=True)
            await asyncio.sleep(2)
        assert recording.names == ["a", "a"]

    run_virtual(body)


def test_clusters_that_come_and_go_leave_nothing_behind() -> None:
    async def body() -> None:
        async with running(Recording()) as r:
            for number in range(3):
                r.controller._unpark(Key("n", f"c{number}"), healthy=True)
                r.controller._unpark(Key("n", f"c{number}"), healthy=False)
            assert r.controller._closed_at == {}

    run_virtual(body)


def test_an_owner_is_woken_by_what_it_manages() -> None:
    async def body() -> None:
        owner = {"apiVersion": "bench.dpf.dev/v1", "kind": "Widget", "name": "a", "uid": "uid-a", "controller": True}
        strangers = [
            {**owner, "apiVersion": "other.group/v1"},
            {**owner, "kind": "Gadget"},
            {**owner, "controller": False},
        ]
        recording = Recording()
        async with running(recording, Owns(Pod)) as r:
            r.widgets.apply("ADDED", raw("a", 2))
            await asyncio.sleep(1)
            r.cluster.cache[Pod].apply("ADDED", raw("p", 3, kind="Pod", ownerReferences=[owner]))
            await asyncio.sleep(1)
            r.cluster.cache[Pod].apply("ADDED", raw("q", 4, kind="Pod", ownerReferences=strangers))
            await asyncio.sleep(1)
        assert recording.names == ["a", "a"]

    run_virtual(body)


def test_a_reference_that_moves_wakes_both_sides() -> None:
    async def body() -> None:
        recording = Recording()
        to_label = Watch(Node, to=lambda node: [Key("n", node.labels["widget"])])
        async with running(recording, to_label) as r:
            for number, name in enumerate(("a", "b", "c"), start=2):
                r.widgets.apply("ADDED", raw(name, number))
            await asyncio.sleep(1)
            recording.calls.clear()
            nodes = r.cluster.cache[Node]
            nodes.apply("ADDED", raw("node", 5, kind="Node", namespace="", labels={"widget": "a"}))
            await asyncio.sleep(1)
            nodes.apply("MODIFIED", raw("node", 6, kind="Node", namespace="", labels={"widget": "b"}))
            await asyncio.sleep(1)
        assert recording.names[0] == "a"
        assert sorted(recording.names[1:]) == ["a", "b"]

    run_virtual(body)


def test_a_predicate_keeps_a_controller_asleep() -> None:
    async def body() -> None:
        recording = Recording()
        controller = Controller("widget", recording, watches=[For(Widget, when=generation_changed)])
        async with Running(controller, Metrics()) as r:
            r.widgets.apply("ADDED", raw("a", 2, generation=1))
            await asyncio.sleep(1)
            r.widgets.apply("MODIFIED", raw("a", 3, generation=1))
            await asyncio.sleep(1)
            assert recording.names == ["a"]
            r.widgets.apply("MODIFIED", raw("a", 4, generation=2))
            await asyncio.sleep(1)
        assert recording.names == ["a", "a"]

    run_virtual(body)


def test_a_reconcile_is_not_woken_by_its_own_locked_write_but_others_are() -> None:
    async def body() -> None:
        async def write(obj: Widget) -> None:
            await asyncio.sleep(0.1)
            if int(obj.metadata.resource_version) < 5:
                body = raw("a", 5, size=5)
                r.widgets.wrote(body, decode(Widget, body), based_on=obj.metadata.resource_version)

        writer, reader = Recording(write), Recording()
        other = Controller("other", reader, watches=[For(Widget)])
        async with running(writer) as r:
            other.register(r.cluster, Metrics())
            task = asyncio.create_task(other.run())
            r.widgets.apply("ADDED", raw("a", 2))
            await asyncio.sleep(1)
            r.widgets.apply("MODIFIED", raw("a", 5, size=5))
            await asyncio.sleep(1)
            assert (writer.names, reader.names) == (["a"], ["a", "a"])
            r.widgets.apply("MODIFIED", raw("a", 6))
            await asyncio.sleep(1)
            assert (writer.names, reader.names) == (["a", "a"], ["a", "a", "a"])
            task.cancel()
            await asyncio.wait([task])

    run_virtual(body)


def test_changes_that_come_fast_are_taken_together() -> None:
    async def body() -> None:
        async def act(obj: Widget) -> None:
            seen.append(obj.metadata.resource_version)

        seen: list[str] = []
        async with running(Recording(act), min_interval=1.0) as r:
            for version in range(2, 32):
                r.widgets.apply("MODIFIED", raw("a", version))
                await asyncio.sleep(0.1)
            await asyncio.sleep(5)
        assert 3 <= len(seen) <= 5
        assert seen[-1] == "31", "the last is not lost"

    run_virtual(body)


def test_what_happens_now_goes_before_what_was_listed() -> None:
    async def body() -> None:
        recording = Recording()
        r = running(recording)
        r.widgets.replace([raw(f"old{number}", number) for number in range(1, 6)], 6)
        async with r:
            r.widgets.apply("ADDED", raw("new", 7))
            await asyncio.sleep(1)
        assert recording.names[0] == "new"

    run_virtual(body)


def test_a_controller_may_say_what_is_urgent() -> None:
    async def body() -> None:
        async def slow(_: Widget) -> None:
            await asyncio.sleep(1)

        recording = Recording(slow)
        async with running(recording, priority=lambda w: w.spec.size) as r:
            for number, name in enumerate(("first", "dull", "urgent"), start=2):
                r.widgets.apply("ADDED", raw(name, number, size={"urgent": 9}.get(name, 1)))
                await asyncio.sleep(0.01)
            await asyncio.sleep(10)
        assert recording.names == ["first", "urgent", "dull"]

    run_virtual(body)


def test_stopping_lets_what_runs_finish_and_takes_nothing_more() -> None:
    async def body() -> None:
        finished: list[str] = []

        async def slow(obj: Widget) -> None:
            await asyncio.sleep(5)
            finished.append(obj.name)

        recording = Recording(slow)
        async with running(recording) as r:
            r.widgets.apply("ADDED", raw("a", 2))
            r.widgets.apply("ADDED", raw("b", 3))
            await asyncio.sleep(1)
            r.controller.stop()
            await r._task
        assert finished == ["a"]

    run_virtual(body)


def test_a_gone_object_is_forgotten() -> None:
    async def body() -> None:
        async def fail(_: Widget) -> None:
            raise RuntimeError("always")

        recording = Recording(fail)
        async with running(recording, min_interval=0.1) as r:
            r.widgets.apply("ADDED", raw("a", 2))
            await asyncio.sleep(1)
            r.widgets.apply("DELETED", raw("a", 3))
            await asyncio.sleep(1000)
            assert r.controller._queue is not None
            assert r.controller._queue.limiter.failures == {}
            assert r.controller._ran_at == {}

    run_virtual(body)


def test_a_controller_is_for_exactly_one_kind() -> None:
    with pytest.raises(ValueError, match="exactly one kind"):
        Controller("none", Recording(), watches=[])
