"""What a controller guarantees to its reconciler, in virtual time: what wakes it, in which order, and how it ends."""

from __future__ import annotations

import asyncio

import pytest

from dpf.runtime.client import decode
from dpf.runtime.controller import Controller, For, Owns, Watch
from dpf.runtime.k8s import Node, Pod
from dpf.runtime.meta import Key
from dpf.runtime.metrics import Metrics
from dpf.runtime.predicates import generation_changed
from dpf.runtime.testing import run_virtual
from test.unit.runtime.controllers import Recording, Running, nothing, running
from test.unit.runtime.widgets import Widget, raw


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


def test_who_holds_something_of_an_object_is_told_when_it_is_gone_and_not_while_at_it() -> None:
    class Holding(Recording):
        async def gone(self, key: Key) -> None:
            self.calls.append((f"{key.name} gone", 0.0))
            if self.names.count("a gone") == 1:
                raise RuntimeError("is a retry")

    async def body() -> None:
        async def act(_: Widget) -> None:
            await asyncio.sleep(10)
            recording.calls.append(("a done", 0.0))

        recording = Holding(act)
        async with running(recording, workers=2) as r:
            r.widgets.apply("ADDED", raw("a", 2))
            await asyncio.sleep(1)
            r.widgets.apply("DELETED", raw("a", 3))
            await asyncio.sleep(60)
            assert recording.names == ["a", "a done", "a gone", "a gone"]
            recording.act = nothing
            r.widgets.apply("ADDED", raw("a", 4))
            r.widgets.apply("DELETED", raw("a", 5))
            r.widgets.apply("ADDED", raw("a", 6))
            await asyncio.sleep(1)
        assert recording.names[4:] == ["a"], "one of that name is there"

    run_virtual(body)


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
