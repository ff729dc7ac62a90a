"""What a controller does after a reconcile, in virtual time: what is tried again, and when."""

from __future__ import annotations

import asyncio

import pytest

from dpf.runtime.controller import Result
from dpf.runtime.errors import ApiError, Conflict, DpfError, Terminal, Waiting
from dpf.runtime.testing import run_virtual
from test.unit.runtime.controllers import Recording, running
from test.unit.runtime.widgets import Widget, raw


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


def test_an_error_of_a_reconcilers_own_kind_is_a_retry_and_no_panic() -> None:
    class NoAnswer(DpfError):
        pass

    async def body() -> None:
        errors: list[Exception] = [NoAnswer("the device is silent"), RuntimeError("a mistake")]

        async def fail(_: Widget) -> None:
            if errors:
                raise errors.pop(0)

        async with running(Recording(fail)) as r:
            r.widgets.apply("ADDED", raw("a", 2))
            await asyncio.sleep(1)
            assert (r.metrics.errors, r.metrics.panics, r.metrics.results["success"]) == (2, 1, 1)

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
