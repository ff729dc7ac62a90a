"""What the webhooks add to a write: 50 requests a second on each, against the same requests while none is registered.

All are dry runs, so that nothing is to be cleaned up and no controller is at work; the API server asks webhooks in a dry run too.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

from dpf.runtime.k8s import MutatingWebhookConfiguration, ValidatingWebhookConfiguration
from dpf.runtime.meta import ObjectMeta
from dpf.runtime.testing import eventually
from dpf.sandbox import control
from dpf.sandbox.layout import NAMESPACE
from dpf_api.names import ANNOTATION_HOST_POWER_CYCLE_REQUIRED, GROUP, VERSION
from test.bench.result import Result, median, say, size, spread
from test.bench.system import Process, Sandbox, prepared, sandbox

RATE = 50.0
"""Requests per second."""
SECONDS = size("DPF_BENCH_ADMISSION", 10)
"""For so long on each webhook."""
ROUNDS = 3
MANAGER = "provisioning-manager"
CONFIGURATIONS = (
    (MutatingWebhookConfiguration, "dpf-provisioning-mutating-webhook-configuration"),
    (ValidatingWebhookConfiguration, "dpf-provisioning-validating-webhook-configuration"),
)
ANNOTATED = {"annotations": {ANNOTATION_HOST_POWER_CYCLE_REQUIRED: "true"}}


@dataclass(frozen=True)
class Write:
    """A request of which the API server asks a webhook."""

    method: str
    plural: str
    name: str = ""
    body: Mapping[str, Any] | None = None

    async def send(self, box: Sandbox) -> float:
        """Milliseconds until it is answered."""
        path = f"/apis/{GROUP}/{VERSION}/namespaces/{NAMESPACE}/{self.plural}"
        path, kind = (f"{path}/{self.name}", "merge-patch+json") if self.name else (path, "json")
        started = monotonic()
        await box.client.request(
            self.method, path, params={"dryRun": "All"}, body=self.body, content_type=f"application/{kind}"
        )
        return 1000 * (monotonic() - started)


async def admission() -> list[Result]:
    """The 99th percentile with a webhook over that without, in milliseconds; the median of three rounds."""
    async with sandbox(1) as box:
        writes = await _writes(box)
        rounds = []
        for number in range(ROUNDS):
            say(f"round {number + 1} of {ROUNDS}")
            asked = {name: await _p99(box, write) for name, write in writes.items()}
            async with _unregistered(box):
                alone = {name: await _p99(box, write) for name, write in writes.items()}
            say(", ".join(f"{name} {alone[name]:.1f} -> {asked[name]:.1f} ms" for name in writes))
            rounds.append({name: asked[name] - alone[name] for name in writes})
    unit = f"ms added at p99, {RATE:g} requests/s"
    return [
        Result(f"admission.{name}", median(added), unit, 10.0, detail=spread(added))
        for name in writes
        for added in [[each[name] for each in rounds]]
    ]


async def _writes(box: Sandbox) -> dict[str, Write]:
    """A write for each webhook. Of a DPUSet that bears the annotation two are asked, one after the other."""
    dpuset = await prepared(box)
    dpuset |= {"metadata": {"name": "bench", "namespace": NAMESPACE}}
    template = dpuset["spec"]["dpuTemplate"]
    annotated = {**dpuset, "spec": {**dpuset["spec"], "dpuTemplate": {**template, **ANNOTATED}}}
    bfb, flavor = template["spec"]["bfb"]["name"], template["spec"]["dpuFlavor"]
    spec = {"nodeName": "bench", "bfb": bfb, "dpuFlavor": flavor}
    dpu = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "DPU", "metadata": {"name": "bench", **ANNOTATED}, "spec": spec}
    return {
        "mbfb": Write("PATCH", "bfbs", bfb, {"metadata": {"labels": {"bench": "yes"}}}),
        "vbfb": Write("DELETE", "bfbs", bfb),
        "vdpu": Write("POST", "dpus", body=dpu),
        "vdpuflavor": Write("DELETE", "dpuflavors", flavor),
        "mdpuset": Write("POST", "dpusets", body=dpuset),
        "vdpuset": Write("POST", "dpusets", body=annotated),
    }


async def _p99(box: Sandbox, write: Write) -> float:
    """Milliseconds. Requests are sent when they are due, whatever has become of those before."""
    took: list[float] = []

    async def one(due: float) -> None:
        await asyncio.sleep(due - monotonic())
        took.append(await write.send(box))

    await write.send(box)  # opens what connections there are to be opened
    started = monotonic() + 0.1
    async with asyncio.TaskGroup() as group:
        for number in range(int(RATE * SECONDS)):
            group.create_task(one(started + number / RATE))
    return statistics.quantiles(took, n=100)[-1]


@asynccontextmanager
async def _unregistered(box: Sandbox) -> AsyncIterator[None]:
    """No webhook is asked within the block. The manager is stopped, or it would register them again."""
    pid = box.processes[MANAGER].pid
    os.kill(pid, signal.SIGSTOP)
    for kind, name in CONFIGURATIONS:
        await box.client.delete(kind(metadata=ObjectMeta(name=name)))
    yield
    os.kill(pid, signal.SIGKILL)
    for kind, name in CONFIGURATIONS:
        await eventually(box.client, kind, name, timeout=60.0)
    rows = await control.ask(box.layout.control_socket, "GET", "/processes")
    box.processes[MANAGER] = Process(MANAGER, next(row["pid"] for row in rows if row["name"] == MANAGER))
