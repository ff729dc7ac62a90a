"""A fleet of the test's own on the run's control planes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dpf.runtime.kubeconfig import Kubeconfig
from dpf.sandbox import control
from dpf.sandbox.api import Api, Json
from dpf.sandbox.fleet.cardstate import Durations
from dpf.sandbox.fleet.containers import ENTRY_POINTS, Container, EntryPoint, Run
from dpf.sandbox.fleet.fleet import FleetOptions, run_fleet
from dpf.sandbox.layout import CardAddress, Inventory, Layout, claim_block
from test.integration.conftest import Planes
from test.unit.sandbox.samples import bf_cfg, ca_pin

DPU = {"apiVersion": "provisioning.dpu.nvidia.com/v1alpha1", "kind": "DPU"}
TOKEN_GROUP = "system:bootstrappers:kubeadm:default-node-token"


async def idle(_: Container, run: Run) -> int:
    """An image that is ready at once and runs for ever."""
    run.ready()
    await asyncio.Event().wait()
    return 0


@dataclass
class Fleet:
    """A running fleet and the clusters it lives in."""

    layout: Layout
    inventory: Inventory
    host: Api
    dpu: Api
    dpu_kubeconfig: Kubeconfig
    namespace: str
    entry_points: dict[str, EntryPoint] = field(default_factory=lambda: {**ENTRY_POINTS, "idle": idle})

    @property
    def cards(self) -> list[CardAddress]:
        return list(self.inventory.cards())

    async def run(self) -> None:
        """Runs the fleet's code until cancelled; may be run again, like a process that was killed."""
        await run_fleet(FleetOptions(self.layout, self.inventory, Durations(), self.entry_points))

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """A request to the fleet's socket."""
        return await control.ask(self.layout.fleet_socket, method, path, body)

    async def summary(self, card: CardAddress) -> Json:
        """A card as `dpfctl sandbox cards` shows it."""
        found: list[Json] = await self.ask("GET", "/cards")
        return next(each for each in found if each["dpu"] == card.dpu)

    async def flash(self, card: CardAddress, *, pin: str = "", token: str = "") -> None:
        """Has the card boot an image with a bf.cfg that joins the DPU cluster."""
        image = self.layout.data_dir / "x.bfb"
        image.write_bytes(b"image")
        config = bf_cfg(
            name=card.dpu,
            endpoint=self.dpu_kubeconfig.server.removeprefix("https://"),
            pin=pin or ca_pin(self.dpu_kubeconfig.ca),
            token=token or await self.new_token(),
        )
        body = {"image": str(image), "version": "x.bfb", "config": config, "id": secrets.token_hex(8)}
        await self.ask("POST", f"/cards/{card.dpu}/boot", body)
        await self.settled(card)

    async def settled(self, card: CardAddress, timeout: float = 30) -> Json:
        """The card once it is up, or has failed.

        :param timeout: seconds.
        :raises TimeoutError: if it is neither by then.
        """
        state = "empty"
        async with asyncio.timeout(timeout):
            while state not in ("up", "failed"):
                view: Json = await self.ask("GET", f"/cards/{card.dpu}?wait={timeout}&not={state}")
                state = view["state"]
        return view

    async def reboot(self, card: CardAddress) -> None:
        """Reboots the card's host."""
        body = {"kind": "slr", "power": "reset", "id": secrets.token_hex(8)}
        await self.ask("POST", f"/cards/{card.dpu}/host-reboot", body)

    async def new_token(self) -> str:
        """A bootstrap token of the DPU cluster."""
        token_id, secret = secrets.token_hex(3), secrets.token_hex(8)
        data = {
            "token-id": token_id,
            "token-secret": secret,
            "usage-bootstrap-signing": "true",
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": TOKEN_GROUP,
            "expiration": (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        body = {"metadata": {"name": f"bootstrap-token-{token_id}"}, "stringData": data}
        await self.dpu.create(
            "/api/v1/namespaces/kube-system/secrets", {**body, "type": "bootstrap.kubernetes.io/token"}
        )
        return f"{token_id}.{secret}"

    async def run_pod(self, card: CardAddress, image: str, **spec: Any) -> str:
        """Creates a pod for a card, pinned to its host as provisioning pins it; returns its name."""
        name = f"{card.dpu}-{image}"
        match = {"key": "metadata.name", "operator": "In", "values": [card.host]}
        terms = {"nodeSelectorTerms": [{"matchFields": [match]}]}
        owner = await self._dpu(card)
        body = {
            "metadata": {
                "name": name,
                "ownerReferences": [owner],
            },
            "spec": {
                "hostNetwork": True,
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}},
                "containers": [{"name": image, "image": image, **spec.pop("container", {})}],
                **spec,
            },
        }
        await self.host.create(f"/api/v1/namespaces/{self.namespace}/pods", body)
        return name

    async def _dpu(self, card: CardAddress) -> Json:
        """A reference to the card's DPU, which is real: the garbage collector takes pods whose owner it cannot find."""
        path = f"/apis/{DPU['apiVersion']}/namespaces/{self.namespace}/dpus"
        spec = {"nodeName": card.host, "bfb": "bfb", "dpuFlavor": "flavor", "pciAddress": card.pci}
        stored = await self.host.apply(f"{path}/{card.dpu}", {**DPU, "metadata": {"name": card.dpu}, "spec": spec})
        return {**DPU, "name": card.dpu, "uid": stored["metadata"]["uid"], "controller": True}

    async def pod(self, name: str, condition: Callable[[Json], bool]) -> Json:
        """The pod, as soon as it is as it should be."""
        async for event, obj in self.host.follow(f"/api/v1/namespaces/{self.namespace}/pods"):
            if obj["metadata"]["name"] == name and (event == "DELETED" or condition(obj)):
                return obj
        raise AssertionError("a follow does not end")

    async def node(self, api: Api, name: str, condition: Callable[[Json], bool]) -> Json:
        """The Node, as soon as it is as it should be."""
        async for event, obj in api.follow("/api/v1/nodes"):
            if event != "DELETED" and obj["metadata"]["name"] == name and condition(obj):
                return obj
        raise AssertionError("a follow does not end")


def is_ready(obj: Json) -> bool:
    """Whether a Pod or Node says that it is Ready."""
    conditions = (obj.get("status") or {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def boot_id(node: Json) -> str:
    """The boot id of a Node."""
    found: str = node["status"]["nodeInfo"]["bootID"]
    return found


@pytest.fixture
async def stopped_fleet(control_planes: Planes, namespace: str, tmp_path: Path) -> AsyncIterator[Fleet]:
    """Two hosts with a card each, their names this test's own; nothing runs yet."""
    layout = Layout(tmp_path)
    layout.kubeconfigs.mkdir()
    layout.host_kubeconfig.symlink_to(control_planes.host)
    dpu = Kubeconfig.load(control_planes.dpu)
    block, claim = claim_block()
    with claim:
        inventory = Inventory(2, 1, block, prefix=f"{namespace}-w")
        async with (
            Api(Kubeconfig.load(control_planes.host), user_agent="test") as host,
            Api(dpu, user_agent="test") as dpu_api,
        ):
            yield Fleet(layout, inventory, host, dpu_api, dpu, namespace)
            for api, names in ((host, inventory.hosts), (dpu_api, [card.dpu for card in inventory.cards()])):
                for obj in await api.items("/api/v1/nodes"):
                    if obj["metadata"]["name"] in names:
                        await api.delete(f"/api/v1/nodes/{obj['metadata']['name']}", uid=obj["metadata"]["uid"])


@pytest.fixture
async def fleet(stopped_fleet: Fleet) -> AsyncIterator[Fleet]:
    """The fleet, running and ready."""
    async with asyncio.TaskGroup() as group:
        running = group.create_task(stopped_fleet.run())
        for host in stopped_fleet.inventory.hosts:
            await stopped_fleet.node(stopped_fleet.host, host, is_ready)
        yield stopped_fleet
        running.cancel()
