"""How the stand-in for Kamaji lets a control plane go."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from dpf.runtime.errors import Conflict
from dpf.runtime.testing import run_virtual
from dpf.sandbox.api import Api, Json
from dpf.sandbox.controlplane.etcd import Etcd
from dpf.sandbox.kamaji import objects
from dpf.sandbox.kamaji.tenant import Surroundings, Tenant

DELETED: Json = {
    "metadata": {
        "name": "c",
        "namespace": "ns",
        "uid": "u1",
        "resourceVersion": "7",
        "finalizers": [objects.FINALIZER, "somebody.example/else"],
        "deletionTimestamp": "2026-01-01T00:00:00Z",
    }
}


class Replaced:
    """A host cluster where another object of that name is by now, and an etcd that takes its time."""

    def __init__(self) -> None:
        self.patches: list[Any] = []
        self.deleting = asyncio.Event()
        self.go_on = asyncio.Event()

    async def patch(self, path: str, patch: Any) -> None:
        self.patches.append(patch)
        raise Conflict(409, "Conflict", "the object has been modified")

    async def delete(self, prefix: str) -> None:
        self.deleting.set()
        await self.go_on.wait()


def tenant(folder: Path, world: Replaced) -> Tenant:
    api, etcd = cast("Api", world), cast("Etcd", world)
    return Tenant(Surroundings(api, etcd, folder, folder / "tenants", folder / "logs", "127.16.0.1"), DELETED)


def test_a_control_plane_whose_object_was_removed_by_force_is_over_and_leaves_its_namesake_alone(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        world = Replaced()
        going = tenant(tmp_path, world)
        async with asyncio.timeout(60.0), asyncio.TaskGroup() as group:
            group.create_task(going.run())
            await world.deleting.wait()
            going.lose()
            world.go_on.set()
        assert world.patches == []

    run_virtual(story)


def test_a_removal_by_force_that_is_heard_of_late_costs_one_refused_request(tmp_path: Path) -> None:
    async def story() -> None:
        world = Replaced()
        world.go_on.set()
        going = tenant(tmp_path, world)
        async with asyncio.timeout(60.0), asyncio.TaskGroup() as group:
            group.create_task(going.run())
            await world.deleting.wait()
            await asyncio.sleep(0.5)
            going.lose()
        wanted = {"metadata": {"finalizers": ["somebody.example/else"], "resourceVersion": "7"}}
        assert world.patches == [wanted]

    run_virtual(story)
