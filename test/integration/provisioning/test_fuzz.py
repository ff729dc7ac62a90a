"""10,000 fuzzed manifests against a real API server, with our CRDs, and real managers that answer and reconcile."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dpf.provisioning.admission.register import registration
from dpf.runtime.client import Client, UnreadableObject, decode
from dpf.runtime.errors import ApiError, Unavailable
from dpf.runtime.k8s import MutatingWebhookConfiguration, Node, ValidatingWebhookConfiguration
from dpf.runtime.meta import Object, ObjectMeta
from dpf.runtime.testing import RETRY, eventually, eventually_gone
from dpf_api.bfb import BFB
from dpf_api.dpu import DPU
from dpf_api.dpucluster import TYPE_KAMAJI, DPUCluster
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.dpuset import DPUSet
from dpf_api.kamaji import TenantControlPlane
from dpf_api.names import FEATURE_PREFIX, LABEL_OOB_BRIDGE_CONFIGURED
from test.fuzz.manifests import KINDS, collect, encoded
from test.integration.conftest import Planes
from test.integration.runtime.test_webhook import free_port

pytestmark = pytest.mark.xdist_group("webhook")  # registrations hold for the whole cluster

EACH = 2_000
"""Manifests of each of the five kinds that the server is asked about; nothing of them is kept."""
KEPT = 60
"""Of each kind, how many of those that it takes are created for good, changed and deleted."""
WIDTH = 16
REST = 50.0
"""Reconciles per second that are next to nothing for hundreds of objects; one that loops without a pause makes more by itself."""

Json = dict[str, Any]


@dataclass
class Managers:
    """A provisioning-manager and the cluster managers, of their own namespace."""

    metrics: tuple[str, ...]
    """Where each tells its own."""
    client: Client
    namespace: str
    answers: Counter[str] = field(default_factory=Counter)
    unread: list[str] = field(default_factory=list)
    """What the server took and our model does not read."""

    async def sample(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that bear the labels, of all managers."""
        texts = []
        async with aiohttp.ClientSession() as http:
            for address in self.metrics:
                async with http.get(address) as response:
                    texts.append(await response.text())
        return sum(
            sample.value
            for text in texts
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def _request(self, method: str, path: str, **more: Any) -> bytes:
        """Once more if a webhook was given no time, as on a machine that stalls: a manifest that holds it up does so again."""
        try:
            return await self.client.transport.request(method, path, **more)
        except ApiError as error:
            if not ("failed calling webhook" in error.message and "deadline exceeded" in error.message):
                raise
        return await self.client.transport.request(method, path, **more)

    async def send(self, method: str, kind: type[Object], body: Json, *, name: str = "", **more: Any) -> Json | None:
        """Sends a manifest as it stands; None if it is refused, which must be in words that help."""
        path = kind.RESOURCE.path(self.namespace, name, more.pop("subresource", ""))
        title = f"{method} {path}: {encoded(body)[:2000]!r}"
        try:
            answer = await self._request(method, path, body=encoded(body), **more)
        except ApiError as error:
            if error.status == 0 or error.status >= 500 or not _names_a_field(error):
                raise AssertionError(f"{error.status} {error.message!r} is no answer to {title}") from error
            self.answers[str(error.status)] += 1
            return None
        self.answers["2xx"] += 1
        try:
            decode(kind, answer)
        except UnreadableObject as error:
            self.unread.append(f"{error}: {title}")
        found: Json = json.loads(answer)
        return found


def _names_a_field(error: ApiError) -> bool:
    causes = error.details.get("causes") or []
    if any(cause.get("field") for cause in causes):
        return True
    return any(word in error.message for word in ("spec", "status", "metadata"))


async def each(work: Callable[[Any], Awaitable[Any]], items: Iterable[Any]) -> list[Any]:
    """Does it for all, some at a time."""
    slots = asyncio.Semaphore(WIDTH)

    async def one(item: Any) -> Any:
        async with slots:
            return await work(item)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(item)) for item in items]
    return [task.result() for task in tasks]


@pytest.fixture
async def managers(
    control_planes: Planes, host_client: Client, namespace: str, tmp_path: Path, data_store: None
) -> AsyncIterator[Managers]:
    """The real processes, with their webhooks; their host node has one card."""
    labels = {f"{FEATURE_PREFIX}dpu-0-pci-address": "0000-04-00", LABEL_OOB_BRIDGE_CONFIGURED: "", "fuzz": namespace}
    node = await host_client.create(Node(metadata=ObjectMeta(name=f"fuzz-{namespace}", labels=labels)))
    common = ["--kubeconfig", str(control_planes.host), "--namespace", namespace, "--health-probe-bind-address", "0"]
    commands: dict[str, list[str]] = {
        "provisioning_manager": [
            *(
                "--bfb-dir",
                str(tmp_path),
                "--bfb-pvc",
                "bfb",
                "--dms-image",
                "dms",
                "--hostnetwork-image",
                "hostnetwork",
            ),
            *("--webhook-bind-address", f"127.0.0.1:{free_port()}"),
        ],
        "static_cluster_manager": [],
        "kamaji_cluster_manager": [],
    }
    addresses = {name: f"127.0.0.1:{free_port()}" for name in commands}
    processes: dict[str, asyncio.subprocess.Process] = {}
    try:
        for name, flags in commands.items():
            command = [
                sys.executable,
                "-m",
                f"dpf_cmd.{name}",
                *common,
                "--metrics-bind-address",
                addresses[name],
                *flags,
            ]
            with (tmp_path / f"{name}.log").open("wb") as log:
                processes[name] = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=subprocess.STDOUT)
        found = Managers(tuple(f"http://{address}/metrics" for address in addresses.values()), host_client, namespace)
        await _webhooks_called(found)
        yield found
        for name, process in processes.items():
            assert process.returncode is None, f"{name} has ended:\n{(tmp_path / f'{name}.log').read_text()[-3000:]}"
    finally:
        for process in processes.values():
            if process.returncode is None:
                process.terminate()
            await process.wait()
        own = registration(namespace)
        await host_client.delete(MutatingWebhookConfiguration(metadata=ObjectMeta(name=own.mutating)))
        await host_client.delete(ValidatingWebhookConfiguration(metadata=ObjectMeta(name=own.validating)))
        await host_client.delete(node)


async def _webhooks_called(managers: Managers) -> None:
    """Returns once the API server asks the manager's webhooks; both kinds are registered in one go."""
    body = {"metadata": {"name": "probe", "namespace": managers.namespace}, "spec": {"url": "http://127.0.0.1:1/x.bfb"}}
    async with asyncio.timeout(60):
        while True:
            path = BFB.RESOURCE.path(managers.namespace)
            # One that has just started refuses until it knows all objects.
            with suppress(Unavailable):
                answer = await managers.client.request("POST", path, params={"dryRun": "All"}, body=body | _typed(BFB))
                if json.loads(answer)["spec"].get("fileName"):
                    return
            await asyncio.sleep(RETRY)


def _typed(kind: type[Object]) -> Json:
    return {"apiVersion": kind.RESOURCE.api_version, "kind": kind.RESOURCE.kind}


def _named(kind: type[Object], number: int, body: Json) -> Json:
    return body | {"metadata": {**body.get("metadata", {}), "name": f"{kind.RESOURCE.kind.lower()}-{number}"}}


def _confined(kind: type[Object], namespace: str, number: int, body: Json) -> Json:
    """The manifest, kept to this test's node: other tests have theirs in the same cluster. Chance names no cluster manager."""
    spec = body.get("spec")
    if kind is DPUSet:
        spec = spec if isinstance(spec, dict) else {}
        selector = spec.get("nodeSelector")
        labels = {"matchLabels": {"fuzz": namespace}}
        return body | {"spec": {**spec, "nodeSelector": {**(selector if isinstance(selector, dict) else {}), **labels}}}
    if kind is DPUCluster and isinstance(spec, dict) and number % 2:
        version = {"version": "v1.30.2"} if number % 4 == 1 else {}
        return body | {"spec": {**spec, "type": TYPE_KAMAJI, **version}}
    if kind is DPU and isinstance(spec, dict) and number % 12 == 0:
        return body | {"spec": {**spec, "nodeName": f"fuzz-{namespace}"}}
    return body


@pytest.mark.timeout(600)
async def test_the_server_answers_every_manifest_and_the_managers_live_with_what_it_takes(managers: Managers) -> None:
    taken: dict[type[Object], list[Json]] = {}
    for kind in KINDS:
        bodies = [_named(kind, number, body) for number, body in enumerate(collect(kind, EACH))]
        answers = await each(partial(managers.send, "POST", kind, params={"dryRun": "All"}), bodies)
        taken[kind] = [body for body, answer in zip(bodies, answers, strict=True) if answer is not None]
        assert len(taken[kind]) > EACH // 10, f"too few of kind {kind.RESOURCE.kind} are good"
    assert managers.answers["422"] > EACH

    there = [(kind, number, body) for kind in KINDS for number, body in enumerate(taken[kind][:KEPT])]
    await each(lambda item: _live(managers, *item), there)
    assert managers.unread == []
    await _comes_to_rest(managers)
    found = [obj for kind in KINDS for obj in await managers.client.list(kind, managers.namespace)]
    assert len(found) > KEPT * 3
    assert await managers.client.list(TenantControlPlane, managers.namespace), (
        "the Kamaji manager has had nothing to do"
    )
    assert await managers.sample("dpf_cache_unreadable_objects_total") == 0
    assert await managers.sample("controller_runtime_reconcile_panics_total") == 0
    assert await managers.sample("controller_runtime_webhook_panics_total") == 0

    # What DPUs use is kept until they are gone.
    for kinds in ((DPUSet, DPU, DPUCluster), (BFB, DPUFlavor)):
        leaving = [obj for kind in kinds for obj in await managers.client.list(kind, managers.namespace)]
        for kind in kinds:
            await each(managers.client.delete, [obj for obj in leaving if isinstance(obj, kind)])
        await each(
            lambda obj: eventually_gone(managers.client, type(obj), obj.name, obj.namespace, timeout=60), leaving
        )


async def _live(managers: Managers, kind: type[Object], number: int, body: Json) -> None:
    """A manifest's life: created, its status written as somebody else would, changed into another one."""
    body = _confined(kind, managers.namespace, number, body)
    stored = await managers.send("POST", kind, body)
    if stored is None:
        return
    name, patch = stored["metadata"]["name"], "application/merge-patch+json"
    if "status" in body:
        status = {"status": body["status"]}
        await managers.send("PATCH", kind, status, name=name, subresource="status", content_type=patch)
    annotations = {"annotations": {"dpf.test/touched": str(number)}}
    await managers.send("PATCH", kind, {"metadata": annotations}, name=name, content_type=patch)
    other = _confined(kind, managers.namespace, number, collect(kind, EACH)[-1 - number])
    await managers.send("PATCH", kind, {"spec": other.get("spec")}, name=name, content_type=patch)


async def _comes_to_rest(managers: Managers) -> None:
    """Returns when the provisioning manager has come round to a DPU that was made last, and all work on next to nothing.

    :raises TimeoutError: if it goes on and on.
    """
    spec = {"nodeName": "none", "bfb": "none"}
    dpu = DPU.model_validate({"metadata": {"name": "last", "namespace": managers.namespace}, "spec": spec})
    await managers.client.create(dpu)
    await eventually(
        managers.client, DPU, "last", managers.namespace, until=lambda dpu: bool(dpu.status.reason), timeout=60
    )
    rate, count, at = REST, 0.0, monotonic()
    async with asyncio.timeout(60):
        while rate >= REST:
            await asyncio.sleep(10 * RETRY)
            before, since = count, at
            count, at = await managers.sample("controller_runtime_reconcile_total"), monotonic()
            rate = (count - before) / (at - since)
