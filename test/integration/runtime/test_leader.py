"""Leader election on a real API server."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta

import pytest

from dpf.runtime.client import Client
from dpf.runtime.k8s import Lease
from dpf.runtime.leader import LeaderElector, LeadershipLost
from dpf.runtime.meta import now
from dpf.runtime.testing import eventually

LEASE = 20.0
"""Seconds; whoever leads must get a renewal through within half of it."""


def candidate(client: Client, namespace: str, identity: str, *, duration: float = LEASE) -> LeaderElector:
    return LeaderElector(
        client, "lease", namespace, identity=identity, duration=duration, renew_deadline=duration / 2, retry_period=0.3
    )


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_of_two_candidates_one_leads_and_the_other_takes_a_released_lease_at_once(
    host_client: Client, namespace: str
) -> None:
    first = candidate(host_client, namespace, "first", duration=60)
    second = candidate(host_client, namespace, "second", duration=60)
    leading = asyncio.create_task(first.run())
    await asyncio.wait_for(first.elected.wait(), 30)
    waiting = asyncio.create_task(second.run())
    later = now() + timedelta(seconds=1)
    held = await eventually(
        host_client, Lease, "lease", namespace, until=lambda seen: (seen.spec.renew_time or later) > later
    )
    assert held.spec.holder_identity == "first", "who is there second waits"
    assert not second.elected.is_set()
    await ended(leading)
    await asyncio.wait_for(second.elected.wait(), 30)
    lease = await host_client.get(Lease, "lease", namespace)
    assert lease.spec.holder_identity == "second"
    assert lease.spec.lease_transitions >= 1
    await ended(waiting)
    assert (await host_client.get(Lease, "lease", namespace)).spec.holder_identity == ""


async def test_a_leader_that_was_killed_is_followed(
    host_client: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (candidate(host_client, namespace, name) for name in ("first", "second"))

    async def nothing() -> None:
        """A killed process releases nothing."""

    monkeypatch.setattr(first, "_release", nothing)
    leading = asyncio.create_task(first.run())
    await asyncio.wait_for(first.elected.wait(), 30)
    waiting = asyncio.create_task(second.run())
    assert not second.elected.is_set()
    await ended(leading)
    assert (await host_client.get(Lease, "lease", namespace)).spec.holder_identity == "first"
    await asyncio.wait_for(second.elected.wait(), LEASE + 40)
    await ended(waiting)


async def test_a_leader_whose_lease_was_taken_ends(host_client: Client, namespace: str) -> None:
    leader = candidate(host_client, namespace, "first", duration=20)
    leading = asyncio.create_task(leader.run())
    await asyncio.wait_for(leader.elected.wait(), 30)
    lease = await host_client.get(Lease, "lease", namespace)
    await host_client.merge_patch(lease, {"spec": {"holderIdentity": "usurper"}})
    with pytest.raises(LeadershipLost, match="held by usurper"):
        await asyncio.wait_for(leading, 30)
    assert (await host_client.get(Lease, "lease", namespace)).spec.holder_identity == "usurper"
