"""``dpfctl plan`` of an edit that provisions 1,000 DPUs anew: a process from start to end, against a real API server."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from dpf.runtime.client import Client
from dpf.runtime.k8s import Namespace, Node
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import ObjectMeta, now, owner_reference, to_wire
from dpf.sandbox import manifests
from dpf.sandbox.api import Api
from dpf.sandbox.controlplane import binaries
from dpf.sandbox.controlplane.planes import ControlPlanes
from dpf.sandbox.controlplane.running import running
from dpf_api.bfb import BFB
from dpf_api.dpu import DPU
from dpf_api.dpuset import DPUSet
from dpf_api.names import FEATURE_PREFIX, GROUP
from test.bench.result import Result, median, say, spread

DPUS = 1000
RUNS = 5
NAMESPACE = "bench"
PCI = "0000-04-00"
WIDTH = 16
_REQUESTS = re.compile(r"^apiserver_request_total\{([^}]*)\} ([0-9.e+]+)$", re.MULTILINE)
_WRITE = re.compile(r'verb="(?:POST|PUT|PATCH|APPLY|DELETE|DELETECOLLECTION)"')


@asynccontextmanager
async def fleet() -> AsyncIterator[tuple[Client, Path, DPUSet]]:
    """A server with 1,000 hosts and their Ready DPUs, made by one set; no controller is at work."""
    with tempfile.TemporaryDirectory(prefix="dpf-bench-", dir="/tmp") as folder:
        planes = ControlPlanes(Path(folder), binaries.ensure())
        async with running(planes):
            kubeconfig = planes.host.admin_kubeconfig
            async with Api(Kubeconfig.load(kubeconfig), user_agent="bench") as api:
                await manifests.Applier(api).install_crds(list(manifests.documents(manifests.CONFIG / "crd")))
            async with Client(Kubeconfig.load(kubeconfig), field_owner="bench") as client:
                yield client, kubeconfig, await _fill(client)


async def _fill(client: Client) -> DPUSet:
    await client.create(Namespace(metadata=ObjectMeta(name=NAMESPACE)))
    for name in ("old", "new"):
        meta = {"name": name, "namespace": NAMESPACE}
        await client.create(BFB.model_validate({"metadata": meta, "spec": {"url": f"http://x/{name}.bfb"}}))
    dpuset = await client.create(DPUSet.model_validate(_set("old")))
    slots = asyncio.Semaphore(WIDTH)
    labels = {f"{FEATURE_PREFIX}dpu-0-pci-address": PCI}
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "Bench",
        "message": "",
        "lastTransitionTime": now().isoformat(),
    }

    async def one(number: int) -> None:
        host = f"worker{number}"
        spec = {"nodeName": host, "bfb": "old", "pciAddress": PCI, "nodeEffect": {"noEffect": True}}
        meta = ObjectMeta(name=f"{host}-{PCI}", namespace=NAMESPACE, owner_references=[owner_reference(dpuset)])
        async with slots:
            await client.create(Node(metadata=ObjectMeta(name=host, labels=labels)))
            dpu = await client.create(DPU.model_validate({"metadata": meta, "spec": spec}))
            status = {"phase": "Ready", "conditions": [ready]}
            await client.merge_patch(dpu, {"status": status}, subresource="status")

    async with asyncio.TaskGroup() as group:
        for number in range(DPUS):
            group.create_task(one(number))
    return dpuset


def _set(bfb: str) -> dict[str, Any]:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}
    spec = {"strategy": strategy, "dpuTemplate": {"spec": {"bfb": {"name": bfb}}}}
    return {"metadata": {"name": "set", "namespace": NAMESPACE}, "spec": spec}


async def _writes(client: Client) -> float:
    """Writes to DPF's kinds that the server has seen."""
    text = (await client.request("GET", "/metrics")).decode()
    return sum(
        float(number)
        for labels, number in _REQUESTS.findall(text)
        if f'group="{GROUP}"' in labels and _WRITE.search(labels)
    )


async def plan() -> list[Result]:
    """The median of five runs, one DPU at a time being the most batches that there can be; and what the server saw of writes."""
    async with fleet() as (client, kubeconfig, _):
        say(f"{DPUS} DPUs are there")
        manifest = yaml.safe_dump(to_wire(DPUSet.model_validate(_set("new"))))
        command = [sys.executable, "-m", "dpf_cmd.dpfctl", "plan", "-f", "-", "--kubeconfig", str(kubeconfig)]
        before, walls, out = await _writes(client), [], ""
        if before < 2 * DPUS:
            raise RuntimeError(f"the server has counted {before:g} writes only: its metrics have changed")
        for _ in range(RUNS):
            started = time.monotonic()
            done = await asyncio.to_thread(
                subprocess.run, command, input=manifest, check=True, capture_output=True, text=True
            )
            walls.append(time.monotonic() - started)
            out = done.stdout
        if f"{DPUS} to provision anew, in {DPUS} batches" not in out:
            raise RuntimeError(f"the plan is another one:\n{out}")
        written = await _writes(client) - before
    return [
        Result("plan", median(walls), "s", 3.0, detail=spread(walls)),
        Result("plan.writes", written, "writes", 0.0),
    ]
