"""Work for a cluster that is away, in virtual time: it is parked, and neither lost nor kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from dpf.runtime.controller import WatchRemote, WatchRemoteHealth
from dpf.runtime.errors import ClusterUnavailable
from dpf.runtime.k8s import Node
from dpf.runtime.meta import Key
from dpf.runtime.metrics import Metrics
from dpf.runtime.remote import RemoteClusters
from dpf.runtime.testing import run_virtual
from test.unit.runtime.controllers import Recording, running
from test.unit.runtime.widgets import Widget, raw


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


def test_what_has_a_deadline_of_its_own_is_looked_at_then_though_its_cluster_is_away() -> None:
    async def body() -> None:
        async def act(_: Widget) -> None:
            if len(recording.calls) == 1:
                raise ClusterUnavailable("n/c", "away", retry_after=7)

        recording = Recording(act)
        async with running(recording) as r:
            r.widgets.apply("ADDED", raw("a", 2))
            await asyncio.sleep(10)
        assert recording.calls[1][1] - recording.calls[0][1] == pytest.approx(7, abs=0.01)

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
            assert r.controller._parking._parked == {"n/c": {Key("n", "a"), Key("n", "b")}}
            r.widgets.apply("DELETED", raw("a", 3))
            r.widgets.apply("MODIFIED", raw("b", 4))
            await asyncio.sleep(1)
            assert r.controller._parking._parked == {}

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
            assert r.controller._parking._closed_at == {}

    run_virtual(body)
