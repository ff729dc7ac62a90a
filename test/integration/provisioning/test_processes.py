"""provisioning-manager as a process on a real API server: who goes on when it is killed, and how it ends in the middle of work."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from dpf.runtime.client import Client
from dpf.runtime.k8s import Lease
from dpf.runtime.meta import ObjectMeta
from dpf.runtime.testing import eventually
from dpf_api.bfb import BFB, BFBSpec, Phase
from test.integration.conftest import Planes
from test.integration.processes import QUICK, Process, managers
from test.unit.provisioning.imageserver import ImageServer

NAME = "provisioning-manager"
GRACE = 60.0
"""Seconds; a good part of it must be left, however slow the machine is."""


Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start(control_planes: Planes, namespace: str, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts managers of one namespace and one volume; none outlives the test."""
    own = [f"--kubeconfig={control_planes.host}", f"--bfb-dir={tmp_path}", "--bfb-pvc=bfb", "--dms-image=dms"]
    own += ["--hostnetwork-image=hostnetwork", "--webhook-bind-address=0"]
    async with managers("dpf_cmd.provisioning_manager", namespace) as started:
        yield partial(started, *own)


@pytest.fixture
def bfb(host_client: Client, namespace: str) -> Callable[[str, str], Awaitable[BFB]]:
    """Makes a BFB, of a name and a URL."""

    async def make(name: str, url: str) -> BFB:
        return await host_client.create(BFB(metadata=ObjectMeta(name=name, namespace=namespace), spec=BFBSpec(url=url)))

    return make


Make = Callable[[str, str], Awaitable[BFB]]


@pytest.mark.timeout(300)
async def test_of_two_managers_one_acts_and_when_it_is_killed_the_other_goes_on(
    host_client: Client, namespace: str, start: Start, bfb: Make, tmp_path: Path
) -> None:
    """The download that was cut goes on behind the bytes that are there."""

    async def until(name: str, phase: Phase) -> BFB:
        return await eventually(host_client, BFB, name, namespace, until=lambda seen: seen.status.phase is phase)

    first = await start(*QUICK)
    leader = (await first.says("leading"))["identity"]
    second = await start(*QUICK)
    await second.says("caches_filled")
    body = os.urandom(2 << 20)
    async with (
        ImageServer(b"an image").listening() as quick,
        ImageServer(body, silent_after=1 << 20).listening() as hangs,
    ):
        await bfb("one", quick.url)
        await until("one", Phase.READY)
        assert [request.method for request in quick.asked] == ["GET"], "one of them acts"
        await bfb("cut", hangs.url)
        await eventually(host_client, BFB, "cut", namespace, until=lambda seen: seen.status.downloaded_bytes > 0)
        assert (await host_client.get(Lease, NAME, namespace)).spec.holder_identity == leader
        first.send(signal.SIGKILL)
        assert (await second.says("leading"))["identity"] != leader
        hangs.silent_after = None
        await bfb("two", quick.url)
        await until("two", Phase.READY)
        await until("cut", Phase.READY)
        assert len(quick.asked) == 2, "what was there is not downloaded again"
        assert len(hangs.asked) == 2
        assert hangs.ranges()[1].startswith("bytes=")
        assert any(path.read_bytes() == body for path in tmp_path.iterdir()), "and it is whole"
    second.send(signal.SIGTERM)
    assert await second.ended() == 0
    assert (await host_client.get(Lease, NAME, namespace)).spec.holder_identity == ""


async def test_sigterm_in_the_middle_of_a_download_that_hangs_ends_it_within_the_grace_period_and_releases_the_lease(
    host_client: Client, namespace: str, start: Start, bfb: Make
) -> None:
    process = await start(f"--graceful-shutdown-timeout={GRACE:g}s")
    async with ImageServer(os.urandom(2 << 20), silent_after=1 << 20).listening() as server:
        await bfb("hangs", server.url)
        await eventually(host_client, BFB, "hangs", namespace, until=lambda seen: seen.status.downloaded_bytes > 0)
        process.send(signal.SIGTERM)
        told = asyncio.get_running_loop().time()
        assert await process.ended() == 0
        assert asyncio.get_running_loop().time() - told < GRACE / 3
    assert (await host_client.get(Lease, NAME, namespace)).spec.holder_identity == ""
    found = await host_client.get(BFB, "hangs", namespace)
    assert found.status.phase is Phase.DOWNLOADING, "whoever comes next goes on; nothing has failed"
