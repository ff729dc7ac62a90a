"""A sandbox of its own for each worker: real API servers, the real processes, a simulated fleet with delays one can act in."""

from __future__ import annotations

import asyncio
import copy
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dpf.ctl.samples import samples
from dpf.runtime.client import Client
from dpf.runtime.errors import Invalid
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import Condition, ObjectMeta
from dpf.runtime.testing import eventually
from dpf.sandbox import control
from dpf.sandbox.api import Api
from dpf.sandbox.control import ControlError
from dpf.sandbox.layout import NAMESPACE, Layout
from dpf.sandbox.manifests import Applier
from dpf.sandbox.settings import Settings
from dpf_api.dpu import DPU, Phase
from dpf_api.dpuset import DPUSet

HOSTS = 48
"""Of a sandbox; no more than have a ``dms`` of their own each. Whoever finds fewer than a test takes gets another sandbox."""
MOST_OF_A_TEST = 2
"""Hosts that one test takes at most."""
READY_WITHIN = 90.0
LOOK = 0.2
"""Seconds between looks at what nobody tells of."""
PHASES = tuple(Phase)
STAYS = "dpf.test/phases"
"""Annotation of a DPU: the phases that its status may name, with commas between; all if empty. The server refuses any other, so
that a manager does what it does and can't note it down."""
STAY_POLICY: list[dict[str, Any]] = [
    {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "stay.dpf.test"},
        "spec": {
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": [DPU.RESOURCE.group],
                        "apiVersions": [DPU.RESOURCE.version],
                        "operations": ["UPDATE"],
                        "resources": [f"{DPU.RESOURCE.plural}/status"],
                    }
                ]
            },
            "matchConditions": [
                {"name": "stays", "expression": f"object.metadata.?annotations[?'{STAYS}'].orValue('') != ''"}
            ],
            "validations": [
                {"expression": f"object.?status.phase.orValue('') in object.metadata.annotations['{STAYS}'].split(',')"}
            ],
        },
    },
    {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "stay.dpf.test"},
        "spec": {"policyName": "stay.dpf.test", "validationActions": ["Deny"]},
    },
]


def dpfctl(*words: str) -> None:
    """Runs a sandbox command; what it says goes to the test's output."""
    subprocess.run([sys.executable, "-m", "dpf_cmd.dpfctl", "sandbox", *words], check=True, timeout=240)


@dataclass
class Box:
    """A sandbox that is up. Every test takes hosts of its own from it."""

    layout: Layout
    settings: Settings
    client: Client
    dpu_client: Client
    hosts: list[str]

    async def provision(self, host: str, *, until: Phase = Phase.READY, **template: Any) -> str:
        """Applies a DPUSet for one host and returns the name of its DPU.

        :param until: the last phase that its status can name until :meth:`goes_on`.
        :param template: overrides the DPUs' spec.
        """
        *others, dpuset = copy.deepcopy(samples(self.settings))
        dpuset["metadata"]["name"] = f"set-{host}"
        dpuset["spec"]["nodeSelector"] = {"matchLabels": {"kubernetes.io/hostname": host}}
        dpuset["spec"]["dpuTemplate"]["spec"] |= template
        if until is not Phase.READY:
            phases = ",".join(PHASES[: PHASES.index(until) + 1])
            dpuset["spec"]["dpuTemplate"]["annotations"] = {STAYS: phases}
        async with Api(Kubeconfig.load(self.layout.host_kubeconfig), user_agent="test") as api:
            await Applier(api).apply([*others, dpuset])
        return f"{host}-0000-04-00"

    async def held(self, dpu: str) -> None:
        """Returns once the manager could not note down that the DPU is past the last phase it may be in."""
        log = self.layout.logs / "provisioning-manager.log"
        async with asyncio.timeout(READY_WITHIN):
            while not any(STAY_POLICY[0]["metadata"]["name"] in line for line in _lines_of(log, dpu)):
                await asyncio.sleep(LOOK)

    async def goes_on(self, host: str) -> None:
        """Lets the DPU's status name every phase."""
        dpuset = DPUSet(metadata=ObjectMeta(name=f"set-{host}", namespace=NAMESPACE))
        await self.client.merge_patch(dpuset, {"spec": {"dpuTemplate": {"annotations": {STAYS: ""}}}})

    async def in_phase(self, dpu: str, phase: Phase) -> DPU:
        """The DPU once it is in the phase, or past it where it does not stay."""

        def reached(obj: DPU) -> bool:
            return PHASES.index(obj.status.phase) >= PHASES.index(phase)

        return await eventually(self.client, DPU, dpu, NAMESPACE, until=reached, timeout=READY_WITHIN)

    async def waits(self, dpu: str, reason: str) -> str:
        """The message of the DPU's condition once it says that reason."""

        def condition(obj: DPU) -> Condition | None:
            return next((c for c in obj.status.conditions if (c.status, c.reason) == ("False", reason)), None)

        obj = await eventually(
            self.client, DPU, dpu, NAMESPACE, until=lambda obj: condition(obj) is not None, timeout=READY_WITHIN
        )
        found = condition(obj)
        assert found is not None
        return found.message

    async def ready(self, dpu: str) -> DPU:
        """The DPU once it is Ready."""
        return await eventually(
            self.client, DPU, dpu, NAMESPACE, until=lambda obj: obj.status.phase is Phase.READY, timeout=READY_WITHIN
        )

    async def kill(self, process: str) -> None:
        """SIGKILL; it comes back as under a kubelet. What another test has killed comes back first."""
        async with asyncio.timeout(READY_WITHIN):
            while True:
                try:
                    await control.ask(self.layout.control_socket, "POST", f"/processes/{process}/kill")
                    return
                except ControlError:
                    await asyncio.sleep(LOOK)

    async def pid(self, process: str) -> int | None:
        """A process's id, once it runs; None of one that is none of its own."""
        async with asyncio.timeout(READY_WITHIN):
            while True:
                rows = await control.ask(self.layout.control_socket, "GET", "/processes")
                found: dict[str, Any] | None = next((row for row in rows if row["name"] == process), None)
                if found is not None and (found["pid"] is not None or found["ready"]):
                    pid: int | None = found["pid"]
                    return pid
                await asyncio.sleep(LOOK)

    async def metrics(self, manager: str) -> str:
        """All that a manager counts."""
        flags = Path(f"/proc/{await self.pid(manager)}/cmdline").read_text().split("\0")
        address = flags[flags.index("--metrics-bind-address") + 1]
        async with (
            aiohttp.ClientSession(raise_for_status=True) as http,
            http.get(f"http://{address}/metrics") as response,
        ):
            return await response.text()

    async def card(self, dpu: str) -> dict[str, Any]:
        """What was done to the card."""
        cards = await control.ask(self.layout.fleet_socket, "GET", "/cards")
        found: dict[str, Any] = next(card for card in cards if card["dpu"] == dpu)
        return found

    async def fault(self, dpu: str, kind: str) -> None:
        """Sets a fault of the card; an empty one clears it."""
        await control.ask(self.layout.fleet_socket, "PUT", f"/cards/{dpu}/fault", {"fault": kind})


def _lines_of(log: Path, word: str) -> list[str]:
    return [line for line in log.read_text().splitlines() if word in line]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of a worker waits for its sandbox too, and whoever is killed takes its time to come back."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(400))


class Sandboxes:
    """The sandbox of a worker, and the next one when its hosts are used up: who has most of the tests, or tests that are run once
    more, takes more than one has."""

    def __init__(self) -> None:
        # A unix socket's path must be short.
        self.layout = Layout(Path(f"/tmp/dpf-e2e-{os.getpid()}"))
        self.free: list[str] = []
        """Hosts that no test has used."""
        self._up = False

    def with_free_hosts(self) -> None:
        """Returns when there is a sandbox that has as many as a test takes."""
        if self._up and len(self.free) >= MOST_OF_A_TEST:
            return
        self.down()
        # All that the managers ever log, so that the test of secrets has seen it.
        dpfctl("up", "--data-dir", str(self.layout.data_dir), "--dpus", str(HOSTS), "--log-level", "debug")
        self._up = True
        asyncio.run(_restrained(self.layout))
        self.free = [f"worker{number}" for number in range(1, HOSTS + 1)]

    def down(self) -> None:
        """Takes it away, if there is one."""
        if self._up:
            self.free, self._up = [], False
            dpfctl("down", "--data-dir", str(self.layout.data_dir))


@pytest.fixture(scope="session")
def sandboxes() -> Iterator[Sandboxes]:
    found = Sandboxes()
    try:
        yield found
    finally:
        found.down()


@pytest.fixture
def sandbox(sandboxes: Sandboxes) -> Sandboxes:
    """One that is up and has hosts for a test."""
    sandboxes.with_free_hosts()
    return sandboxes


async def _restrained(layout: Layout) -> None:
    """Has the API server heed :data:`STAYS`; it hears of a policy some moments after it was made."""
    kubeconfig = Kubeconfig.load(layout.host_kubeconfig)
    async with Api(kubeconfig, user_agent="test") as api, Client(kubeconfig, field_owner="test") as client:
        await Applier(api).apply(STAY_POLICY)
        meta = ObjectMeta(name="stays", namespace=NAMESPACE, annotations={STAYS: Phase.ERROR})
        dpu = await client.create(DPU(metadata=meta))
        async with asyncio.timeout(READY_WITHIN):
            with suppress(Invalid):
                while True:
                    await client.merge_patch(dpu, {"status": {"phase": Phase.READY}}, subresource="status")
                    await asyncio.sleep(LOOK)
        await client.merge_patch(dpu, {"metadata": {"annotations": None}})
        await client.delete(dpu)


@pytest.fixture
async def box(sandbox: Sandboxes) -> AsyncIterator[Box]:
    layout = sandbox.layout
    async with (
        Client(Kubeconfig.load(layout.host_kubeconfig), field_owner="test") as client,
        Client(Kubeconfig.load(layout.dpu_kubeconfig), field_owner="test") as dpu_client,
    ):
        yield Box(layout, Settings.read(layout), client, dpu_client, sandbox.free)


@pytest.fixture
def host(sandbox: Sandboxes) -> str:
    """A host that no other test uses."""
    return sandbox.free.pop(0)


async def gather(*work: Any) -> list[Any]:
    """All results, or the first error."""
    return list(await asyncio.gather(*work))
