"""A controller's workers, in virtual time: whom they take, and when they lend their place."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

import pytest

from dpf.runtime.places import MOMENT, PLACES, Places, elsewhere
from dpf.runtime.testing import run_virtual
from test.unit.runtime.controllers import Recording, running
from test.unit.runtime.widgets import Widget, raw


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
