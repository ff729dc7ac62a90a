"""A fleet whose managers, API servers, hosts and pods are killed at random becomes what was asked for, and leaves nothing behind.

What is killed, and after which pause, follows from a fixed seed; where that hits the work under way is up to the machine.
"""

from __future__ import annotations

import asyncio
import copy
import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dpf.ctl.samples import samples
from dpf.provisioning.dpu import nodeeffect
from dpf.runtime.client import Client
from dpf.runtime.k8s import Lease, Node, Pod, Secret
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import Object, ObjectMeta
from dpf.runtime.testing import eventually_gone
from dpf.sandbox import control
from dpf.sandbox.api import Api
from dpf.sandbox.control import ControlError
from dpf.sandbox.fleet.disk import read_json
from dpf.sandbox.layout import NAMESPACE, Layout
from dpf.sandbox.manifests import Applier
from dpf.sandbox.processes import tail
from dpf.sandbox.settings import Settings
from dpf_api.bfb import BFB
from dpf_api.dpu import DPU
from dpf_api.dpuset import DPUSet
from dpf_api.names import CA_SECRET, CLIENT_SECRET
from dpf_api.nodemaintenance import NodeMaintenance
from test.e2e.conftest import dpfctl

DPUS, DPUS_PER_HOST = 50, 2
KILLS = 24
"""In each of the three parts of the run."""
PAUSE = 0.2, 2.0
"""Seconds between two kills: the shortest and the longest."""
SETTLED_WITHIN = 300.0
"""Seconds after the last kill; a process that crashed often is restarted after half a minute only, as under a kubelet."""
COLLECTED_WITHIN = 120.0
"""Seconds that a garbage collector may take whose API server was killed."""
DPUS_PATH = f"/apis/provisioning.dpu.nvidia.com/v1alpha1/namespaces/{NAMESPACE}/dpus"
TAINT = {"key": "dpf.test/busy", "effect": "NoSchedule"}
COLLECTORS = ("host-controller-manager", "dpu-controller-manager")
PROCESSES = ("provisioning-manager", "static-cluster-manager", "host-apiserver", "dpu-apiserver", "fleet")

Names = set[tuple[str, str]]
"""Kind or place, and name."""


@dataclass
class Chaos:
    """A sandbox of its own, for much of it is dead at any time."""

    layout: Layout
    settings: Settings
    api: Api
    client: Client
    dpu_client: Client

    async def apply(self, bfb: str) -> None:
        """Two DPUSets, one of which drains its hosts and one taints them, and the image they are to have."""
        image, flavor, dpuset = samples(self.settings)
        image["metadata"]["name"], image["spec"]["fileName"] = bfb, f"{bfb}.bfb"
        hosts = list(self.settings.inventory.hosts)
        sets = []
        for name, of, effect in (("drains", hosts[::2], {"drain": {}}), ("taints", hosts[1::2], {"taint": TAINT})):
            one = copy.deepcopy(dpuset)
            one["metadata"]["name"] = name
            one["spec"]["nodeSelector"] = {
                "matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": of}]
            }
            one["spec"]["strategy"] = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "40%"}}
            one["spec"]["dpuTemplate"]["spec"] |= {"bfb": {"name": bfb}, "nodeEffect": effect}
            sets.append(one)
        await Applier(self.api).apply([image, flavor, *sets])

    async def kill_at_random(self, seed: int, *, hosts: bool = True) -> None:
        """Kills one thing after another, each kind of thing as often as the others.

        :param hosts: whether hosts are killed too, in the first half of the time.
        """
        dice = random.Random(seed)
        for number in range(KILLS):
            await asyncio.sleep(dice.uniform(*PAUSE))
            kinds = (*PROCESSES, "pod", "host") if hosts and number < KILLS / 2 else (*PROCESSES, "pod")
            what, which = dice.choice(kinds), dice.random()
            if what == "host":
                names = list(self.settings.inventory.hosts)
                what = names[int(which * len(names))]
            elif what == "pod":
                pods = sorted(
                    row["name"] for row in await self.processes() if row["name"].endswith(("-dms", "-hostnetwork"))
                )
                what = pods[int(which * len(pods))] if pods else "provisioning-manager"
            # What is dead already, or gone by now, can't be killed.
            with suppress(ControlError):
                await control.ask(self.layout.control_socket, "POST", f"/processes/{what}/kill")

    async def processes(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = await control.ask(self.layout.control_socket, "GET", "/processes")
        return rows

    async def ready(self, bfb: str) -> None:
        """Returns when every card has a DPU that is Ready with the image."""
        missing = {card.dpu: "there is none" for card in self.settings.inventory.cards()}
        try:
            async with asyncio.timeout(SETTLED_WITHIN):
                async for event, dpu in self.api.follow(DPUS_PATH):
                    name, status = dpu["metadata"]["name"], dpu.get("status") or {}
                    conditions = {c["type"]: c["status"] for c in status.get("conditions") or ()}
                    if event != "DELETED" and dpu["spec"]["bfb"] == bfb and conditions.get("Ready") == "True":
                        missing.pop(name, None)
                    else:
                        missing[name] = f"{event} {status.get('phase')}: {status.get('message')}"
                    if not missing:
                        return
        except TimeoutError:
            said = [await self._said(dpu) for dpu in missing]
            raise AssertionError("\n".join([f"not Ready with {bfb}: {missing}", *said])) from None

    async def _said(self, dpu: str) -> str:
        """What is known of a DPU: its pods, what they and the fleet wrote, what the manager logged last."""
        pods = [
            pod
            for pod in await self.api.items(f"/api/v1/namespaces/{NAMESPACE}/pods")
            if pod["metadata"]["name"].startswith(dpu)
        ]
        runs = [row for row in await self.processes() if row["name"].startswith(dpu)]
        logs = [f"{log.name}:\n{tail(log)}" for log in (self.layout.logs / "pods").glob(f"{dpu}*")]
        manager = (self.layout.logs / "provisioning-manager.log").read_text().splitlines()
        return "\n".join(
            [
                *(repr(pod["status"]) for pod in pods),
                repr(runs),
                *logs,
                *[line for line in manager if dpu in line][-10:],
            ]
        )

    async def booted(self) -> None:
        """Returns when every card runs and its kubelet has registered its Node since it booted last.

        A DPU stays Ready while its card boots once more: whoever deletes it then gets its Node again, as with real cards.
        """
        late = ["all"]
        try:
            async with asyncio.timeout(SETTLED_WITHIN):
                while late:
                    await asyncio.sleep(0.5)
                    with suppress(ControlError):
                        cards = await control.ask(self.layout.fleet_socket, "GET", "/cards")
                        late = [card["dpu"] for card in cards if not self._registered(card)]
        except TimeoutError:
            raise AssertionError(f"not up, or not registered since: {late}") from None

    def _registered(self, card: dict[str, Any]) -> bool:
        identity = read_json(self.layout.fleet_dir / "cards" / card["dpu"] / "kubelet.json") or {}
        return bool(card["state"] == "up" and card["boots"] == identity.get("registered_boot"))

    async def gone(self) -> None:
        """Returns when there is no DPU any more."""
        for card in self.settings.inventory.cards():
            await eventually_gone(self.client, DPU, card.dpu, NAMESPACE, timeout=SETTLED_WITHIN)

    async def counts(self) -> set[tuple[int, int]]:
        """How often cards were asked to install, and did."""
        cards = await control.ask(self.layout.fleet_socket, "GET", "/cards")
        return {(card["activates"], card["installs"]) for card in cards}

    def places(self) -> Iterator[tuple[Client, str, type[Object]]]:
        """Where provisioning makes objects."""
        host, dpu = self.client, self.dpu_client
        yield from ((host, NAMESPACE, Pod), (host, NAMESPACE, Secret), (host, NAMESPACE, NodeMaintenance))
        yield from ((dpu, "kube-system", Secret), (dpu, "kube-node-lease", Lease), (dpu, "", Node))

    async def there(self) -> Names:
        """All that provisioning might leave somewhere."""
        found: Names = set()
        for client, namespace, kind in self.places():
            found |= {(kind.__name__, obj.name) for obj in await client.list(kind, namespace)}
        for node in await self.client.list(Node):
            found |= {(node.name, f"taint {taint.key}") for taint in node.spec.taints}
            found |= {(node.name, f"label {label}") for label in node.labels}
            found |= {(node.name, "annotation")} if nodeeffect.ANNOTATION in node.annotations else set()
        return found | {("file", path.name) for path in self.layout.bfb_dir.iterdir()}

    async def left(self, before: Names) -> Names:
        """What is there and was not, once the garbage collectors have had their time.

        They begin anew: one whose API server dies every other second can miss that an owner is gone, and then never sees it
        (seen with Kubernetes 1.37: Leases of Nodes that had been deleted stayed, for as long as was looked).
        """
        for process in COLLECTORS:
            await control.ask(self.layout.control_socket, "POST", f"/processes/{process}/kill")
        for client, namespace, kind in self.places():
            for obj in await client.list(kind, namespace):
                if (kind.__name__, obj.name) not in before:
                    await eventually_gone(client, kind, obj.name, namespace, timeout=COLLECTED_WITHIN)
        return await self.there() - before


@pytest.fixture
def fleet() -> Iterator[Layout]:
    """Of one try of the test: what is counted begins at nothing."""
    folder = Path(f"/tmp/dpf-chaos-{os.getpid()}")
    dpfctl("up", "--data-dir", str(folder), "--dpus", str(DPUS), "--dpus-per-host", str(DPUS_PER_HOST))
    yield Layout(folder)
    dpfctl("down", "--data-dir", str(folder))


@pytest.fixture
async def chaos(fleet: Layout) -> AsyncIterator[Chaos]:
    host = Kubeconfig.load(fleet.host_kubeconfig)
    async with (
        Api(host, user_agent="test") as api,
        Client(host, field_owner="test") as client,
        Client(Kubeconfig.load(fleet.dpu_kubeconfig), field_owner="test") as dpu_client,
    ):
        yield Chaos(fleet, Settings.read(fleet), api, client, dpu_client)


@pytest.mark.timeout(900)
async def test_a_fleet_that_is_killed_at_random_is_provisioned_updated_and_deleted_and_leaves_nothing(
    chaos: Chaos,
) -> None:
    before = await chaos.there()
    await chaos.apply("first")
    await chaos.kill_at_random(seed=1)
    await chaos.ready("first")
    assert await chaos.counts() == {(1, 1)}, "each card is flashed once for one request"

    await chaos.apply("second")
    await chaos.kill_at_random(seed=2)
    await chaos.ready("second")
    assert await chaos.counts() == {(2, 2)}

    await chaos.booted()
    for name in ("drains", "taints"):
        await chaos.client.delete(DPUSet(metadata=ObjectMeta(name=name, namespace=NAMESPACE)))
    # No host: its cards would boot once more.
    await chaos.kill_at_random(seed=3, hosts=False)
    await chaos.gone()
    assert await chaos.counts() == {(2, 2)}
    for name in ("first", "second"):
        await chaos.client.delete(BFB(metadata=ObjectMeta(name=name, namespace=NAMESPACE)))
        await eventually_gone(chaos.client, BFB, name, NAMESPACE)
    # The authority of the manager and what it shows to every DMS are its own, and outlive all DPUs.
    own = {("Secret", CA_SECRET), ("Secret", CLIENT_SECRET)}
    assert await chaos.left(before | own) == set()
