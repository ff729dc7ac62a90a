"""A manager as a process on a real API server: how it ends, and who goes on."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from dpf.runtime.client import Client
from dpf.runtime.k8s import Lease
from dpf.runtime.meta import ObjectMeta
from dpf.runtime.testing import eventually
from test.integration.conftest import Planes
from test.integration.processes import QUICK, Process, managers
from test.integration.runtime.widget_manager import NAME
from test.unit.runtime.widgets import Widget

Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start(control_planes: Planes, namespace: str) -> AsyncIterator[Start]:
    """Starts managers; none outlives the test."""
    async with managers("test.integration.runtime.widget_manager", namespace) as started:

        async def start(*flags: str, kubeconfig: Path = control_planes.host) -> Process:
            return await started(f"--kubeconfig={kubeconfig}", *flags)

        yield start


@pytest.fixture
def widget(host_client: Client, namespace: str) -> Callable[[str], Awaitable[Widget]]:
    """Makes a widget."""

    async def make(name: str) -> Widget:
        return await host_client.create(Widget(metadata=ObjectMeta(name=name, namespace=namespace)))

    return make


Make = Callable[[str], Awaitable[Widget]]


async def begun(client: Client, obj: Widget, by: str = "us") -> None:
    await eventually(client, Widget, obj.name, obj.namespace, until=lambda w: w.annotations.get("begun") == by)


async def test_sigterm_lets_a_reconcile_finish_takes_no_more_and_releases_the_lease(
    host_client: Client, namespace: str, start: Start, widget: Make
) -> None:
    process = await start("--graceful-shutdown-timeout=60s", "--workers=1")
    a = await widget("a")
    await begun(host_client, a)
    process.send(signal.SIGTERM)
    await process.says("stopping")
    b = await widget("b")
    await host_client.merge_patch(a, {"metadata": {"annotations": {"go": "on"}}})
    assert await process.ended() == 0
    assert (await host_client.get(Widget, "a", namespace)).annotations["done"] == "us"
    assert (await host_client.get(Widget, b.name, namespace)).annotations == {}
    assert (await host_client.get(Lease, NAME, namespace)).spec.holder_identity == ""


async def test_a_reconcile_that_outlasts_the_grace_period_is_cut_and_the_lease_released(
    host_client: Client, namespace: str, start: Start, widget: Make
) -> None:
    process = await start("--graceful-shutdown-timeout=200ms")
    a = await widget("a")
    await begun(host_client, a)
    process.send(signal.SIGTERM)
    assert await process.ended() == 0
    assert "done" not in (await host_client.get(Widget, "a", namespace)).annotations
    assert (await host_client.get(Lease, NAME, namespace)).spec.holder_identity == ""


@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGINT)],
)
async def test_a_second_signal_ends_it_at_once(
    host_client: Client,
    start: Start,
    widget: Make,
    first: signal.Signals,
    second: signal.Signals,
) -> None:
    process = await start("--graceful-shutdown-timeout=300s")
    a = await widget("a")
    await begun(host_client, a)
    process.send(first)
    await process.says("stopping")
    process.send(second)
    assert await process.ended() == -second


async def test_sigterm_ends_it_while_it_waits_for_the_api_server(start: Start, tmp_path: Path) -> None:
    nowhere = tmp_path / "kubeconfig"
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    nowhere.write_text(json.dumps(config))
    process = await start(kubeconfig=nowhere)
    said = await process.says("api_server_unreachable")
    assert "--kubeconfig" in said["hint"]
    process.send(signal.SIGTERM)
    assert await process.ended() == 0


async def test_lost_leadership_ends_it_with_an_error_and_without_further_writes(
    host_client: Client, namespace: str, start: Start, widget: Make
) -> None:
    process = await start("--graceful-shutdown-timeout=300s", *QUICK)
    a = await widget("a")
    await begun(host_client, a)
    lease = await host_client.get(Lease, NAME, namespace)
    await host_client.merge_patch(lease, {"spec": {"holderIdentity": "usurper", "leaseDurationSeconds": 3600}})
    assert await process.ended() == 1
    assert "held by usurper" in process.lines[-1]["error"]
    await host_client.merge_patch(a, {"metadata": {"annotations": {"go": "on"}}})
    assert "done" not in (await host_client.get(Widget, "a", namespace)).annotations
    assert (await host_client.get(Lease, NAME, namespace)).spec.holder_identity == "usurper"


@pytest.mark.timeout(300)
async def test_of_two_managers_one_acts_and_when_it_is_killed_the_other_goes_on(
    host_client: Client, namespace: str, start: Start, widget: Make
) -> None:
    first = await start("--identity=first", *QUICK)
    await first.says("leading")
    second = await start("--identity=second", *QUICK)
    await second.says("caches_filled")
    held = (await host_client.get(Lease, NAME, namespace)).spec
    assert held.renew_time is not None
    later = held.renew_time + timedelta(seconds=1)
    lease = await eventually(
        host_client, Lease, NAME, namespace, until=lambda seen: (seen.spec.renew_time or later) > later
    )
    assert lease.spec.holder_identity == held.holder_identity, "who is there second waits"
    a = await widget("a")
    await begun(host_client, a, by="first")
    first.send(signal.SIGKILL)
    await second.says("leading")
    assert "started" not in [line["event"] for line in second.lines], "it acts when it leads, not before"
    await begun(host_client, a, by="second")
    await host_client.merge_patch(a, {"metadata": {"annotations": {"go": "on"}}})
    await eventually(host_client, Widget, "a", namespace, until=lambda w: w.annotations.get("done") == "second")
