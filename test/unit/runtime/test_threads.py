"""Threads for what may hang: none follows one that is left behind."""

from __future__ import annotations

import asyncio
import threading

import pytest

from dpf.runtime import threads


async def test_what_hangs_is_called_once_and_others_go_on() -> None:
    free, calls = threading.Event(), list[int]()

    def hang() -> None:
        calls.append(1)
        free.wait(20)

    for _ in range(20):
        with pytest.raises(TimeoutError):
            await threads.within(0.01, "a", hang)
    # A timer may go off a little early.
    assert len(calls) <= 2
    assert await threads.within(5.0, "b", lambda: "answer") == "answer"
    free.set()
    async with asyncio.timeout(20):
        while True:
            try:
                assert await threads.within(5.0, "a", lambda: "answer") == "answer"
                break
            except TimeoutError:
                await asyncio.sleep(0)


async def test_who_is_cancelled_leaves_a_call_behind_that_ends_by_itself() -> None:
    begun, free = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(begun.set)
        free.wait(20)
        loop.call_soon_threadsafe(ended.set)

    ended = asyncio.Event()
    task = asyncio.create_task(threads.outcome(work))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    free.set()
    async with asyncio.timeout(20):
        await ended.wait()


async def test_a_line_does_one_thing_after_the_other_whoever_waits() -> None:
    free, done = threading.Event(), list[int]()
    line = threads.Line()
    first = asyncio.create_task(line.outcome(free.wait, 20))
    await asyncio.sleep(0)
    first.cancel()
    line.add(done.append, 1)
    await line.close(0.01)
    assert not line.ended.done()
    free.set()
    async with asyncio.timeout(20):
        await asyncio.wrap_future(line.ended)
    assert done == [1]


async def test_an_error_is_whose_it_is() -> None:
    with pytest.raises(FileNotFoundError):
        await threads.within(5.0, "c", open, "/nowhere/at/all")
