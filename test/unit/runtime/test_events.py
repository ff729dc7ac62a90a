"""Events when there are many, and when the API server does not take them, in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, cast

import pytest

from dpf.runtime.client import Client
from dpf.runtime.errors import AlreadyExists, ApiError, Forbidden, TooManyRequests, Unavailable
from dpf.runtime.events import BURST, EventRecorder
from dpf.runtime.k8s import ConfigMap, Event
from dpf.runtime.meta import ObjectMeta
from dpf.runtime.metrics import Metrics
from dpf.runtime.testing import run_virtual

OBJ = ConfigMap(metadata=ObjectMeta(name="a", namespace="n", uid="u"))


class Server:
    """Takes events, or refuses them with :attr:`error`."""

    def __init__(self) -> None:
        self.created: list[Event] = []
        self.patches: list[tuple[str, int]] = []
        self.tries = 0
        self.error: ApiError | None = None
        self.slow = 0.0
        """Seconds between an event's being stored and the answer."""

    async def create(self, event: Event) -> Event:
        self._ask()
        if any(each.name == event.name for each in self.created):
            raise AlreadyExists(409, "AlreadyExists", event.name)
        self.created.append(event)
        await asyncio.sleep(self.slow)
        return event

    async def merge_patch(self, event: Event, patch: dict[str, Any]) -> Event:
        self._ask()
        self.patches.append((event.name, patch["series"]["count"]))
        return event

    def _ask(self) -> None:
        self.tries += 1
        if self.error is not None:
            raise self.error


@pytest.fixture
def recording() -> Callable[[Callable[..., Coroutine[Any, Any, None]]], Server]:
    """Runs a coroutine beside a recorder, in virtual time, and gives what the server got."""

    def run(during: Callable[[EventRecorder, Server], Coroutine[Any, Any, None]]) -> Server:
        server = Server()

        async def work() -> None:
            recorder = EventRecorder(cast("Client", server), "tester")
            task = asyncio.create_task(recorder.run())
            await during(recorder, server)
            await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        run_virtual(work)
        return server

    return run


Recording = Callable[[Callable[..., Coroutine[Any, Any, None]]], Server]


def test_what_was_being_written_at_the_end_is_one_event_with_its_repeats(recording: Recording) -> None:
    async def during(recorder: EventRecorder, server: Server) -> None:
        server.slow = 10.0
        for _ in range(5):
            recorder.warning(OBJ, "Failed", "no route")
        await asyncio.sleep(1)

    server = recording(during)
    [event] = server.created
    assert server.patches == [(event.name, 5)]


def test_the_first_is_written_at_once_and_repeats_at_most_every_thirty_seconds(recording: Recording) -> None:
    async def during(recorder: EventRecorder, server: Server) -> None:
        recorder.warning(OBJ, "Failed", "no route")
        await asyncio.sleep(0.1)
        assert len(server.created) == 1
        for _ in range(300):
            recorder.warning(OBJ, "Failed", "no route")
            await asyncio.sleep(1)
        assert len(server.patches) <= 10

    server = recording(during)
    assert len(server.created) == 1
    assert server.patches[-1] == (server.created[0].name, 301), "the last repeats go out at the end"


def test_after_six_minutes_a_repeat_is_a_new_event_and_no_count_is_lost(recording: Recording) -> None:
    async def during(recorder: EventRecorder, _: Server) -> None:
        await asyncio.sleep(10)  # so that no regular write of counts falls between the second and the third
        recorder.normal(OBJ, "Said", "first")
        await asyncio.sleep(355)
        recorder.normal(OBJ, "Said", "second")
        await asyncio.sleep(6)
        recorder.normal(OBJ, "Said", "third")

    server = recording(during)
    assert [event.note for event in server.created] == ["first", "third"]
    assert server.patches == [(server.created[0].name, 2)]


def test_type_reason_action_and_object_tell_events_apart(recording: Recording) -> None:
    async def during(recorder: EventRecorder, _: Server) -> None:
        recorder.normal(OBJ, "Said", "one")
        recorder.warning(OBJ, "Said", "two")
        recorder.normal(OBJ, "Other", "three")
        recorder.normal(OBJ, "Said", "four", action="Delete")
        again = OBJ.model_copy(update={"metadata": ObjectMeta(name="a", namespace="n", uid="another")})
        recorder.normal(again, "Said", "five")

    server = recording(during)
    assert [event.note for event in server.created] == ["one", "two", "three", "four", "five"]
    assert len({event.name for event in server.created}) == 5


@pytest.mark.parametrize("error", [Unavailable(0, "", "refused"), TooManyRequests(429, "TooManyRequests", "busy")])
def test_an_event_is_tried_twelve_times_then_given_up(recording: Recording, error: ApiError) -> None:
    async def during(recorder: EventRecorder, server: Server) -> None:
        server.error = error
        recorder.normal(OBJ, "Said", "x")
        await asyncio.sleep(600)
        assert server.tries == 12
        server.error = None
        recorder.normal(OBJ, "Other", "y")

    assert [event.reason for event in recording(during).created] == ["Other"]


def test_a_refused_event_is_not_tried_again(recording: Recording) -> None:
    async def during(recorder: EventRecorder, server: Server) -> None:
        server.error = Forbidden(403, "Forbidden", "no")
        recorder.normal(OBJ, "Said", "x")
        await asyncio.sleep(600)
        assert server.tries == 1

    recording(during)


def test_repeats_whose_write_is_cut_by_the_end_of_the_process_are_written_again(recording: Recording) -> None:
    async def during(recorder: EventRecorder, server: Server) -> None:
        recorder.normal(OBJ, "Said", "x")
        recorder.normal(OBJ, "Said", "x")
        await asyncio.sleep(1)
        server.error = Unavailable(0, "", "refused")
        await asyncio.sleep(31)
        assert server.tries > 1
        server.error = None

    server = recording(during)
    assert server.patches == [(server.created[0].name, 2)]


def test_the_end_waits_two_seconds_for_a_server_that_does_not_answer() -> None:
    class Silent(Server):
        async def create(self, event: Event) -> Event:
            await asyncio.Event().wait()
            return event

    async def work() -> float:
        recorder = EventRecorder(cast("Client", Silent()), "tester")
        task = asyncio.create_task(recorder.run())
        for number in range(5):
            recorder.normal(OBJ, f"Said{number}", "x")
        await asyncio.sleep(1)
        before = asyncio.get_running_loop().time()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return asyncio.get_running_loop().time() - before

    assert run_virtual(work) <= 2.0


def test_normal_events_have_a_limit_and_warnings_have_none(recording: Recording) -> None:
    metrics: list[Metrics] = []

    async def during(recorder: EventRecorder, server: Server) -> None:
        metrics.append(recorder._metrics)
        for number in range(BURST + 50):
            recorder.normal(OBJ, f"Said{number}", "much")
            recorder.warning(OBJ, f"Cried{number}", "more")
        await asyncio.sleep(1)
        assert sum(event.type == "Normal" for event in server.created) == BURST
        await asyncio.sleep(10)
        recorder.normal(OBJ, "Later", "there is room again")

    server = recording(during)
    assert sum(event.type == "Warning" for event in server.created) == BURST + 50
    assert server.created[-1].reason == "Later"
    assert metrics[0].events == {"Normal": BURST + 1, "Warning": BURST + 50}
    assert metrics[0].events_withheld == 50


def test_where_not_all_can_be_told_what_weighs_more_is(recording: Recording) -> None:
    async def during(recorder: EventRecorder, server: Server) -> None:
        for number in range(2 * BURST):
            recorder.normal(OBJ, f"Step{number}", "on the way", weight="step")
        for number in range(2 * BURST):
            recorder.normal(OBJ, f"Milestone{number}", "on the way", weight="milestone")
        for number in range(2 * BURST):
            recorder.normal(OBJ, f"Outcome{number}", "there")
        await asyncio.sleep(1)

    said = Counter(event.reason.rstrip("0123456789") for event in recording(during).created)
    assert said == {"Step": 12, "Milestone": 4, "Outcome": 9}


def test_events_are_in_order_of_name_as_kubectl_describe_shows_them(recording: Recording) -> None:
    async def during(recorder: EventRecorder, _: Server) -> None:
        for number in range(BURST):
            recorder.normal(OBJ, f"Said{number}", "x")
        await asyncio.sleep(1)

    names = [event.name for event in recording(during).created]
    assert len(names) == BURST
    assert names == sorted(names)


def test_an_event_names_what_else_it_is_about(recording: Recording) -> None:
    other = ConfigMap(metadata=ObjectMeta(name="b", namespace="n", uid="v"))

    async def during(recorder: EventRecorder, _: Server) -> None:
        recorder.normal(OBJ, "Said", "of both", related=other)
        recorder.normal(OBJ, "Said", "of one")

    first, second = recording(during).created
    assert first.related is not None
    assert (first.related.kind, first.related.name, first.related.uid) == ("ConfigMap", "b", "v")
    assert second.related is None
