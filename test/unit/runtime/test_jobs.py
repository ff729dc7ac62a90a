"""Long work beside the workers, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from dpf.runtime.controller import Controller
from dpf.runtime.informer import ORIGIN
from dpf.runtime.jobs import Job, Jobs
from dpf.runtime.meta import Key
from dpf.runtime.places import PLACES, Places, elsewhere
from dpf.runtime.testing import run_virtual

A, B = Key("n", "a"), Key("n", "b")


class Woken:
    """Stands for the controller: records which keys were woken, and when."""

    def __init__(self) -> None:
        self.keys: list[tuple[Key, float]] = []

    def enqueue(self, key: Key) -> None:
        self.keys.append((key, round(asyncio.get_running_loop().time(), 3)))


def running(body: Callable[[Jobs[str], Woken], Coroutine[Any, Any, None]], *, limit: int = 8) -> None:
    """Runs ``body`` while a manager runs the jobs."""

    async def work() -> None:
        jobs, woken = Jobs[str](limit=limit), Woken()
        jobs.bind(cast("Controller[Any]", woken))
        task = asyncio.create_task(jobs.run())
        await asyncio.sleep(0)
        await body(jobs, woken)
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])

    run_virtual(work)


async def _ten_seconds(_: Job[str]) -> str:
    await asyncio.sleep(10)
    return "done"


async def _for_ever(_: Job[str]) -> str:
    await asyncio.Event().wait()
    return "never"


def test_a_job_is_not_started_twice() -> None:
    async def body(jobs: Jobs[str], _: Woken) -> None:
        started = 0

        async def work(_: Job[str]) -> str:
            nonlocal started
            started += 1
            return await _ten_seconds(_)

        first = jobs.start(A, "uid", work)
        await asyncio.sleep(5)
        assert jobs.start(A, "uid", work) is first
        await asyncio.sleep(10)
        assert jobs.start(A, "uid", work) is first, "its result has not been taken yet"
        assert started == 1

    running(body)


def test_a_result_is_kept_until_it_is_taken() -> None:
    async def body(jobs: Jobs[str], _: Woken) -> None:
        job = jobs.start(A, "uid", _ten_seconds)
        assert jobs.take(A, "uid") is job, "a running job is seen, not taken"
        with pytest.raises(asyncio.InvalidStateError):
            job.result()
        await asyncio.sleep(3600)
        assert jobs.get(A, "uid") is job
        taken = jobs.take(A, "uid")
        assert taken is job
        assert taken.result() == "done"
        assert jobs.take(A, "uid") is None

    running(body)


def test_what_the_work_raised_is_raised_to_whoever_takes_it_and_others_go_on() -> None:
    async def body(jobs: Jobs[str], _: Woken) -> None:
        async def fail(_: Job[str]) -> str:
            raise OSError("disk full")

        jobs.start(A, "uid", fail)
        jobs.start(B, "uid", _ten_seconds)
        await asyncio.sleep(20)
        taken = jobs.take(A, "uid")
        assert taken is not None
        with pytest.raises(OSError, match="disk full"):
            taken.result()
        other = jobs.take(B, "uid")
        assert other is not None
        assert other.result() == "done"

    running(body)


def test_work_that_was_cancelled_from_within_is_an_error_not_a_job_that_never_ends() -> None:
    """gRPC does that: a call whose channel is closed raises CancelledError in whoever awaits it."""

    async def body(jobs: Jobs[str], woken: Woken) -> None:
        async def cut(_: Job[str]) -> str:
            call: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            call.cancel()
            return await call

        jobs.start(A, "uid", cut)
        await asyncio.sleep(1)
        taken = jobs.take(A, "uid")
        assert taken is not None
        assert taken.done
        with pytest.raises(RuntimeError, match="cancelled"):
            taken.result()
        assert [key for key, _ in woken.keys] == [A]

    running(body)


def test_the_object_is_woken_when_its_job_ends() -> None:
    async def body(jobs: Jobs[str], woken: Woken) -> None:
        async def fail(_: Job[str]) -> str:
            await asyncio.sleep(12)
            raise OSError("disk full")

        jobs.start(A, "uid", _ten_seconds)
        jobs.start(B, "uid", fail)
        await asyncio.sleep(9)
        assert woken.keys == []
        await asyncio.sleep(9)
        assert woken.keys == [(A, 10.0), (B, 12.0)], "however it ends"

    running(body)


def test_a_job_has_no_workers_place() -> None:
    async def body(jobs: Jobs[str], woken: Woken) -> None:
        lent: list[float] = []
        PLACES.set(Places(lambda: lent.append(1.0)))

        async def work(_: Job[str]) -> str:
            async with elsewhere():
                await asyncio.sleep(10)
            return "done"

        jobs.start(A, "uid", work)
        await asyncio.sleep(20)
        assert woken.keys == [(A, 10.0)]
        assert lent == []

    running(body)


def test_a_cancelled_job_stops_is_forgotten_and_wakes_nobody() -> None:
    async def body(jobs: Jobs[str], woken: Woken) -> None:
        stopped = asyncio.Event()

        async def work(_: Job[str]) -> str:
            try:
                return await _for_ever(_)
            finally:
                stopped.set()

        jobs.start(A, "uid", work)
        await asyncio.sleep(1)
        jobs.cancel(A)
        await asyncio.sleep(1)
        assert stopped.is_set()
        assert jobs.get(A, "uid") is None
        assert woken.keys == []
        jobs.cancel(A)

    running(body)


def test_a_job_of_an_earlier_namesake_is_not_found_and_gives_way() -> None:
    async def body(jobs: Jobs[str], _: Woken) -> None:
        stopped = asyncio.Event()

        async def old(_: Job[str]) -> str:
            try:
                return await _for_ever(_)
            finally:
                stopped.set()

        jobs.start(A, "first", old)
        await asyncio.sleep(1)
        assert jobs.get(A, "second") is None
        jobs.start(A, "second", _ten_seconds)
        await asyncio.sleep(11)
        assert stopped.is_set()
        taken = jobs.take(A, "second")
        assert taken is not None
        assert taken.result() == "done"

    running(body)


def test_no_more_run_at_once_than_the_limit_and_each_gets_its_turn() -> None:
    async def body(jobs: Jobs[str], woken: Woken) -> None:
        inside = 0

        async def work(job: Job[str]) -> str:
            nonlocal inside
            inside += 1
            assert inside <= 2
            await asyncio.sleep(10)
            inside -= 1
            if job.uid in {"0", "3"}:
                raise OSError("disk full")
            return job.uid

        for number in range(6):
            jobs.start(Key("n", str(number)), str(number), work)
        await asyncio.sleep(31)
        assert sorted(moment for _, moment in woken.keys) == [10, 10, 20, 20, 30, 30]

    running(body, limit=2)


def test_a_job_says_whether_it_waits_for_its_turn() -> None:
    async def body(jobs: Jobs[str], _: Woken) -> None:
        assert not jobs.full
        first = jobs.start(A, "uid", _ten_seconds)
        await asyncio.sleep(1)
        assert (first.queued, jobs.full, jobs.queued) == (False, True, 0)
        second = jobs.start(B, "uid", _ten_seconds)
        assert (second.queued, jobs.queued) == (True, 1), "known at once"
        await asyncio.sleep(5)
        assert second.queued
        await asyncio.sleep(5)
        assert (second.queued, second.done, jobs.queued) == (False, False, 0)

    running(body, limit=1)


def test_progress_is_there_to_read_while_it_runs() -> None:
    async def body(jobs: Jobs[str], _: Woken) -> None:
        async def work(job: Job[str]) -> str:
            for percent in range(0, 101, 10):
                job.progress = percent
                await asyncio.sleep(1)
            return "done"

        job = jobs.start(A, "uid", work)
        await asyncio.sleep(4.5)
        assert (job.progress, job.done) == (40, False)

    running(body)


def test_ending_the_jobs_cancels_them_all() -> None:
    async def work() -> None:
        jobs, stopped = Jobs[str](limit=1), 0

        async def hang(_: Job[str]) -> str:
            nonlocal stopped
            try:
                return await _for_ever(_)
            finally:
                stopped += 1

        task = asyncio.create_task(jobs.run())
        await asyncio.sleep(0)
        jobs.start(A, "uid", hang)
        jobs.start(B, "uid", hang)
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        assert stopped == 1, "the other had not begun"
        with pytest.raises(RuntimeError, match="before their manager ran them"):
            jobs.start(Key("n", "late"), "uid", hang)

    run_virtual(work)


def test_a_job_begins_when_the_cancelled_one_before_has_ended() -> None:
    """Two hands at one card is one too many, even if the first is only letting go."""

    async def body(jobs: Jobs[str], _: Woken) -> None:
        story: list[str] = []

        async def lets_go_slowly(_: Job[str]) -> str:
            try:
                return await _for_ever(_)
            finally:
                await asyncio.sleep(5)
                story.append("let go")

        async def second(_: Job[str]) -> str:
            story.append("begun")
            return "done"

        jobs.start(A, "uid", lets_go_slowly)
        await asyncio.sleep(1)
        jobs.cancel(A)
        jobs.start(A, "uid", _ten_seconds)
        jobs.cancel(A)
        jobs.start(A, "uid", second)
        await asyncio.sleep(10)
        assert story == ["let go", "begun"]
        assert jobs._tasks == {}

    running(body)


def test_what_a_job_writes_wakes_its_object() -> None:
    """A reconcile is not woken by its own write; a job that it started is not that reconcile."""

    async def body(jobs: Jobs[str], _: Woken) -> None:
        async def writer(_: Job[str]) -> str:
            return str(ORIGIN.get())

        token = ORIGIN.set(("controller", A))
        jobs.start(A, "uid", writer)
        ORIGIN.reset(token)
        await asyncio.sleep(1)
        taken = jobs.take(A, "uid")
        assert taken is not None
        assert taken.result() == "None"

    running(body)
