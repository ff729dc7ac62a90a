"""The work queue's guarantees, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from dpf.runtime.queue import INITIAL_PRIORITY, RateLimiter, ShutDown, WorkQueue
from dpf.runtime.testing import run_virtual


def test_a_key_added_twice_is_handed_out_once() -> None:
    async def body() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("a")
        queue.add("a")
        queue.add("a", 3)
        assert await queue.get() == ("a", 3)
        queue.done("a")
        assert len(queue) == 0
        queue.add("b", -1)
        assert await queue.get() == ("b", -1)

    run_virtual(body)


def test_a_key_added_while_processed_is_handed_out_again_once_after_done() -> None:
    async def body() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("a")
        key, _ = await queue.get()
        queue.add("a")
        queue.add("a", 7)
        assert len(queue) == 0
        queue.done(key)
        assert await queue.get() == ("a", 7)
        queue.done(key)
        assert len(queue) == 0

    run_virtual(body)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(-3, 3)), max_size=40), st.integers(1, 4))
def test_no_key_is_ever_with_two_workers(adds: list[tuple[str, int]], workers: int) -> None:
    async def body() -> None:
        queue: WorkQueue[str] = WorkQueue()
        held: set[str] = set()
        handled: set[str] = set()

        async def work() -> None:
            while True:
                try:
                    key, _ = await queue.get()
                except ShutDown:
                    return
                assert key not in held
                held.add(key)
                await asyncio.sleep(0.01)
                held.discard(key)
                handled.add(key)
                queue.done(key)

        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work())
            for key, priority in adds:
                queue.add(key, priority)
                await asyncio.sleep(0.003)
            await asyncio.sleep(10)
            queue.shut_down()
        assert handled == {key for key, _ in adds}

    run_virtual(body)


def test_the_more_urgent_key_goes_first_and_equals_in_order_of_arrival() -> None:
    async def body() -> None:
        queue: WorkQueue[str] = WorkQueue()
        for key, priority in (("listed", INITIAL_PRIORITY), ("first", 0), ("second", 0), ("urgent", 5)):
            queue.add(key, priority)
        assert [(await queue.get())[0] for _ in range(4)] == ["urgent", "first", "second", "listed"]

    run_virtual(body)


def test_adding_again_keeps_the_higher_priority() -> None:
    async def body() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("a", 5)
        queue.add("a", INITIAL_PRIORITY)
        queue.add("b", 1)
        queue.add("c", 0)
        queue.add("c", 3)
        assert [await queue.get() for _ in range(3)] == [("a", 5), ("c", 3), ("b", 1)]
        assert queue.depths() == {}
        queue.add("a", 5)
        queue.add("a", 1)
        queue.done("a")
        assert await queue.get() == ("a", 5), "while a worker has it too"
        queue.done("a")
        queue.add_after("a", 1, 5)
        queue.add_after("a", 2, 1)
        assert await queue.get() == ("a", 5), "and while it is delayed"

    run_virtual(body)


def test_a_delayed_add_never_takes_back_a_ready_key_and_the_earlier_delay_wins() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        queue: WorkQueue[str] = WorkQueue()
        queue.add("ready")
        queue.add_after("ready", 1)
        assert (await queue.get())[0] == "ready"
        assert loop.time() == 0
        queue.done("ready")
        await asyncio.sleep(2)
        assert len(queue) == 0, "once is enough"
        queue.add_after("a", 30)
        queue.add_after("a", 10)
        queue.add_after("a", 20)
        started = loop.time()
        await queue.get()
        assert loop.time() - started == pytest.approx(10, abs=0.01)
        queue.done("a")
        queue.add_after("a", 90)
        await queue.get()
        assert loop.time() - started == pytest.approx(100, abs=0.01), "the later delays of 'a' left nothing behind"

    run_virtual(body)


def test_delays_that_came_to_nothing_leave_nothing_behind() -> None:
    """An object that is woken every second and looks again in an hour otherwise has 3,600 timers."""

    async def body() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add_after("rare", 5000)
        for _ in range(3600):
            queue.add("a")
            await queue.get()
            queue.done("a")
            queue.add_after("a", 3600)
            await asyncio.sleep(1)
        assert len(queue._timers) < 100
        last = asyncio.get_running_loop().time() - 1
        assert (await queue.get())[0] == "rare"
        assert asyncio.get_running_loop().time() == pytest.approx(5000, abs=0.01)
        queue.done("rare")
        assert (await queue.get())[0] == "a"
        assert asyncio.get_running_loop().time() - last == pytest.approx(3600, abs=0.01)

    run_virtual(body)


def test_failures_double_the_wait_up_to_the_cap_until_forgotten() -> None:
    limiter = RateLimiter(lambda: 0.0, first=0.005, cap=1.0)
    assert [limiter.when("a") for _ in range(4)] == [0.005, 0.01, 0.02, 0.04]
    assert [limiter.when("a") for _ in range(40)][-1] == 1.0
    limiter.forget("a")
    assert limiter.when("a") == 0.005


def test_all_failures_together_are_held_to_a_rate() -> None:
    now = 0.0
    limiter = RateLimiter(lambda: now, rate=10.0, burst=2)
    assert [limiter.when(key) for key in ("a", "b", "c", "d")] == [0.005, 0.005, 0.1, 0.2]
    now = 0.2
    assert [limiter.when(key) for key in ("e", "f")] == pytest.approx([0.1, 0.2])
    now = 1000.0
    assert [limiter.when(key) for key in ("g", "h", "i")] == pytest.approx([0.005, 0.005, 0.1]), "rest saves up no more"


def test_a_rate_limited_key_comes_back_after_its_wait() -> None:
    async def body() -> float:
        queue: WorkQueue[str] = WorkQueue()
        for _ in range(3):
            queue.add_rate_limited("a")
            await queue.get()
            queue.done("a")
        return asyncio.get_running_loop().time()

    assert run_virtual(body) == pytest.approx(0.035, abs=0.003)


def test_shutting_down_frees_waiting_workers_and_ignores_adds() -> None:
    async def body() -> None:
        queue: WorkQueue[str] = WorkQueue()

        async def wait() -> str:
            try:
                await queue.get()
            except ShutDown:
                return "shut down"
            return "work"

        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(wait()) for _ in range(3)]
            await asyncio.sleep(1)
            queue.shut_down()
        assert [task.result() for task in waiting] == ["shut down"] * 3
        queue.add("late")
        assert len(queue) == 0
        with pytest.raises(ShutDown):
            await queue.get()

    run_virtual(body)


def test_a_cancelled_worker_passes_its_wake_up_on() -> None:
    async def body() -> None:
        queue: WorkQueue[str] = WorkQueue()
        first = asyncio.create_task(queue.get())
        second = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.add("a")
        first.cancel()
        assert (await second)[0] == "a"

    run_virtual(body)


def test_what_a_worker_holds_is_visible_with_its_time() -> None:
    async def body() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("stuck")
        await asyncio.sleep(50)
        await queue.get()
        await asyncio.sleep(100)
        assert queue.processing == {"stuck": pytest.approx(50)}
        queue.done("stuck")
        assert queue.processing == {}

    run_virtual(body)


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_delays_too_short_for_a_timer_are_fine_on_every_loop(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def body() -> set[str]:
        queue: WorkQueue[str] = WorkQueue()
        for number, delay in enumerate((1e-6, 1e-7, 2e-4, 1e-5, 0.01, 1e-6)):
            queue.add_after(f"k{number}", delay)
        return {(await queue.get())[0] for _ in range(6)}

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert len(runner.run(body())) == 6
