"""Leader election when requests are slow, lost or refused, in virtual time; the good days are tested on a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from dpf.runtime.client import Client
from dpf.runtime.errors import AlreadyExists, ApiError, ConfigError, Conflict, Gone, NotFound, Unavailable
from dpf.runtime.k8s import Lease, LeaseSpec
from dpf.runtime.leader import LeaderElector, LeadershipLost
from dpf.runtime.meta import ObjectMeta
from dpf.runtime.metrics import Metrics
from dpf.runtime.options import ManagerOptions
from dpf.runtime.testing import run_virtual


class Leases:
    """One lease, as an API server keeps it. A test says what happens to requests before and after they are stored."""

    def __init__(self, held_by: str = "", renewed: datetime | None = None) -> None:
        self.requests: list[tuple[float, str]] = []
        self.before: Callable[[str], Awaitable[None]] = _nothing
        self.after: Callable[[str], Awaitable[None]] = _nothing
        self.stored_at = 0.0
        self.lease: Lease | None = None
        self._version = 0
        self._changed = asyncio.Condition()
        if held_by:
            spec = LeaseSpec(holder_identity=held_by, lease_duration_seconds=15, renew_time=renewed)
            self._keep(Lease(metadata=ObjectMeta(name="lease", namespace="n"), spec=spec))

    async def get(self, _: type[Lease], __: str, ___: str) -> Lease:
        await self._asked("get")
        if self.lease is None:
            raise NotFound(404, "NotFound", "no lease")
        return self.lease

    async def create(self, lease: Lease) -> Lease:
        await self._asked("create")
        if self.lease is not None:
            raise AlreadyExists(409, "AlreadyExists", "there is one")
        return await self._store(lease, "create")

    async def replace(self, lease: Lease) -> Lease:
        await self._asked("replace")
        if self.lease is None or self.lease.metadata.resource_version != lease.metadata.resource_version:
            raise Conflict(409, "Conflict", "changed")
        return await self._store(lease, "replace")

    async def watch(
        self, _: type[Lease], __: str, *, name: str, resource_version: str
    ) -> AsyncGenerator[tuple[str, Lease], None]:
        await self._asked("watch")
        seen = int(resource_version)
        while True:
            async with self._changed:
                while self._version <= seen:
                    await self._changed.wait()
                seen = self._version
            assert self.lease is not None
            yield "MODIFIED", self.lease

    def asked(self, what: str) -> int:
        return sum(1 for _, each in self.requests if each == what)

    async def _asked(self, what: str) -> None:
        self.requests.append((_now(), what))
        await self.before(what)

    async def _store(self, lease: Lease, what: str) -> Lease:
        kept = self._keep(lease)
        self.stored_at = _now()
        async with self._changed:
            self._changed.notify_all()
        await self.after(what)
        return kept

    def _keep(self, lease: Lease) -> Lease:
        self._version += 1
        meta = lease.metadata.model_copy(update={"resource_version": str(self._version)})
        self.lease = lease.model_copy(update={"metadata": meta})
        return self.lease


async def _nothing(_: str) -> None:
    pass


async def _never(_: str) -> None:
    await asyncio.Event().wait()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _elector(leases: Leases, identity: str = "us", metrics: Metrics | None = None) -> LeaderElector:
    return LeaderElector(cast("Client", leases), "lease", "n", identity=identity, metrics=metrics)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _leading(during: Callable[[Leases, asyncio.Task[None]], Coroutine[Any, Any, None]]) -> None:
    """Runs ``during`` while a candidate leads."""

    async def work() -> None:
        leases = Leases()
        elector = _elector(leases)
        task = asyncio.create_task(elector.run())
        await elector.elected.wait()
        await during(leases, task)
        if not task.done():
            await _ended(task)

    run_virtual(work)


def test_a_leader_that_gets_no_answers_ends_within_the_renew_deadline() -> None:
    async def during(leases: Leases, leading: asyncio.Task[None]) -> None:
        await asyncio.sleep(12)
        leases.before = _never
        with pytest.raises(LeadershipLost, match="10 s"):
            await leading
        assert _now() - leases.stored_at <= 10.0

    _leading(during)


def test_a_renewal_counts_from_when_it_was_sent_not_from_its_answer() -> None:
    async def during(leases: Leases, leading: asyncio.Task[None]) -> None:
        async def late(_: str) -> None:
            await asyncio.sleep(4.9)
            leases.before = _never

        leases.after = late
        with pytest.raises(LeadershipLost):
            await leading
        assert _now() - leases.stored_at <= 10.0

    _leading(during)


def test_a_leader_outlives_failures_shorter_than_the_renew_deadline() -> None:
    async def during(leases: Leases, leading: asyncio.Task[None]) -> None:
        started = _now()

        async def down(_: str) -> None:
            if _now() - started < 9:
                raise Unavailable(0, "", "connection refused")

        leases.before = down
        await asyncio.sleep(60)
        assert not leading.done()

    _leading(during)


def test_a_renewal_whose_answer_was_lost_is_read_back() -> None:
    async def during(leases: Leases, leading: asyncio.Task[None]) -> None:
        lost = 1

        async def cut(_: str) -> None:
            nonlocal lost
            if lost:
                lost -= 1
                raise Unavailable(0, "", "connection reset")

        leases.after = cut
        await asyncio.sleep(30)
        assert not leading.done()
        assert leases.asked("get") == 2, "one on the way in, one after the conflict"

    _leading(during)


def test_that_reading_back_fails_ends_nobody() -> None:
    async def during(leases: Leases, leading: asyncio.Task[None]) -> None:
        failing = 1

        async def cut(_: str) -> None:
            leases.after = _nothing
            raise Unavailable(0, "", "connection reset")

        async def no_reading(what: str) -> None:
            nonlocal failing
            if what == "get" and failing:
                failing -= 1
                raise Unavailable(503, "", "busy")

        leases.before, leases.after = no_reading, cut
        await asyncio.sleep(30)
        assert not leading.done()

    _leading(during)


def test_a_lease_that_somebody_deleted_is_lost() -> None:
    async def during(leases: Leases, leading: asyncio.Task[None]) -> None:
        leases.lease = None
        with pytest.raises(LeadershipLost):
            await leading
        assert _now() <= 10.0

    _leading(during)


def test_losing_the_lease_is_told_at_once_without_trying_to_release_it() -> None:
    async def during(leases: Leases, leading: asyncio.Task[None]) -> None:
        await asyncio.sleep(1)
        leases.before = _never
        with pytest.raises(LeadershipLost):
            await leading
        assert _now() <= leases.stored_at + 10.0

    _leading(during)


def test_the_lease_is_released_though_a_renewal_was_under_way() -> None:
    async def during(leases: Leases, leading: asyncio.Task[None]) -> None:
        async def slow(_: str) -> None:
            await asyncio.sleep(2)

        leases.after = slow
        await asyncio.sleep(6)  # the renewal of second 5 is stored, its answer is on the way
        leases.after = _nothing
        await _ended(leading)
        assert leases.lease is not None
        assert leases.lease.spec.holder_identity == ""
        assert leases.lease.spec.lease_duration_seconds == 1

    _leading(during)


@pytest.mark.parametrize("held_by", ["", "other"])
@pytest.mark.parametrize("lost", [False, True])
def test_a_lease_that_was_just_being_taken_is_released_too(held_by: str, lost: bool) -> None:
    """Else nobody would lead until it has run out."""

    async def work() -> None:
        leases = Leases(held_by=held_by)

        async def slow(_: str) -> None:
            if lost:
                raise Unavailable(0, "NoAnswer", "the answer was lost")
            await asyncio.sleep(2)

        leases.after = slow
        elector = _elector(leases)
        task = asyncio.create_task(elector.run())
        while leases.lease is None or leases.lease.spec.holder_identity != "us":
            await asyncio.sleep(0.1)
        assert not elector.elected.is_set()
        leases.after = _nothing
        await _ended(task)
        assert leases.lease.spec.holder_identity == ""
        assert leases.lease.spec.lease_duration_seconds == 1

    run_virtual(work)


def test_a_leader_at_rest_makes_twelve_requests_a_minute() -> None:
    async def work() -> None:
        leases, options = Leases(), ManagerOptions(leader_elect_namespace="n")
        elector = LeaderElector.from_options(cast("Client", leases), "lease", options, Metrics())
        task = asyncio.create_task(elector.run())
        await elector.elected.wait()
        before = len(leases.requests)
        await asyncio.sleep(601)
        assert len(leases.requests) - before == 120
        await _ended(task)

    run_virtual(work)


@pytest.mark.parametrize("year", [1990, 2090])
def test_clocks_of_others_do_not_matter(year: int) -> None:
    """Whatever a dead leader wrote as its time, its lease holds for as long as it says since we saw it."""

    async def work() -> None:
        leases = Leases(held_by="other", renewed=datetime(year, 1, 1, tzinfo=UTC))
        elector = _elector(leases)
        task = asyncio.create_task(elector.run())
        await elector.elected.wait()
        assert 15.0 <= _now() <= 16.0
        assert leases.lease is not None
        assert leases.lease.spec.lease_transitions == 1
        await _ended(task)

    run_virtual(work)


def test_a_candidate_costs_a_watch_not_a_poll_and_takes_a_released_lease_at_once() -> None:
    async def work() -> None:
        leases = Leases()
        first, second = _elector(leases, "first"), _elector(leases, "second")
        leading = asyncio.create_task(first.run())
        await first.elected.wait()
        waiting = asyncio.create_task(second.run())
        await asyncio.sleep(3601)
        assert not second.elected.is_set()
        assert leases.asked("watch") == 1
        assert leases.asked("get") == 2
        moment = _now()
        await _ended(leading)
        await second.elected.wait()
        assert _now() - moment < 0.1
        await _ended(waiting)

    run_virtual(work)


def test_a_candidate_whose_watch_fails_does_not_hammer_the_server() -> None:
    async def work() -> None:
        leases = Leases()
        leading = asyncio.create_task(_elector(leases, "first").run())
        await asyncio.sleep(1)

        async def no_watch(what: str) -> None:
            if what == "watch":
                raise Unavailable(0, "", "cut by a proxy")

        leases.before = no_watch
        waiting = asyncio.create_task(_elector(leases, "second").run())
        await asyncio.sleep(60)
        assert 5 <= leases.asked("watch") <= 13
        await _ended(waiting)
        await _ended(leading)

    run_virtual(work)


@pytest.mark.parametrize("error", [None, Gone(410, "Expired", "too old"), Unavailable(0, "", "cut by a proxy")])
def test_a_candidate_whose_watch_ends_at_once_does_not_hammer_the_server_and_misses_no_end(
    monkeypatch: pytest.MonkeyPatch, error: ApiError | None
) -> None:
    async def work() -> None:
        leases = Leases(held_by="other")

        async def empty(*_: object, **__: object) -> AsyncGenerator[tuple[str, Lease], None]:
            await leases._asked("watch")
            if error is not None:
                raise error
            for nothing in list[tuple[str, Lease]]():
                yield nothing

        monkeypatch.setattr(leases, "watch", empty)
        elector = _elector(leases)
        task = asyncio.create_task(elector.run())
        await elector.elected.wait()
        assert 15.0 <= _now() <= 16.0
        assert leases.asked("watch") <= 4
        await _ended(task)

    run_virtual(work)


@pytest.mark.parametrize(("duration", "deadline", "period"), [(10, 10, 2), (10, 11, 2), (10, 6, 5)])
def test_times_that_do_not_fit_each_other_are_refused(duration: float, deadline: float, period: float) -> None:
    client = cast("Client", None)
    with pytest.raises(ConfigError, match=r"lease duration > renew deadline > 1\.2 \* retry period"):
        LeaderElector(client, "lease", "n", duration=duration, renew_deadline=deadline, retry_period=period)


@pytest.mark.parametrize("duration", [10.9, 10.0])
def test_a_lease_holds_whole_seconds_and_the_deadline_is_within_them(duration: float) -> None:
    with pytest.raises(ConfigError, match="10 whole s"):
        LeaderElector(cast("Client", None), "lease", "n", duration=duration, renew_deadline=10.5)

    async def work() -> None:
        leases = Leases()
        elector = LeaderElector(cast("Client", leases), "lease", "n", duration=duration, renew_deadline=9.5)
        task = asyncio.create_task(elector.run())
        await elector.elected.wait()
        assert leases.lease is not None
        assert leases.lease.spec.lease_duration_seconds == 10
        await _ended(task)

    run_virtual(work)


def test_a_token_that_cannot_be_read_for_a_moment_ends_nobody() -> None:
    async def during(leases: Leases, leading: asyncio.Task[None]) -> None:
        async def once(_: str) -> None:
            leases.before = _nothing
            raise ConfigError("cannot read the token file")

        leases.before = once
        await asyncio.sleep(30)
        assert not leading.done()

    _leading(during)


def test_the_metric_says_who_leads() -> None:
    async def work() -> None:
        leases, metrics = Leases(), Metrics()
        elector = _elector(leases, metrics=metrics)
        assert metrics.leading == {"lease": False}
        task = asyncio.create_task(elector.run())
        await elector.elected.wait()
        await asyncio.sleep(0)
        assert metrics.leading == {"lease": True}
        await _ended(task)
        assert metrics.leading == {"lease": False}

    run_virtual(work)
