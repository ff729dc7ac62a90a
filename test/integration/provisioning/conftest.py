"""The provisioning controllers at work on real API servers; hosts, pods and cards are played by the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from dpf.clustermanager.static import static_cluster_controller
from dpf.provisioning.assembly import add_controllers
from dpf.provisioning.bfb import controller as module
from dpf.provisioning.bfb.files import Files
from dpf.provisioning.bfb.storage import Stamp
from dpf.provisioning.dpu.card import Dial
from dpf.provisioning.dpu.install import Dms, Report
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.rebootpolicy import Policy
from dpf.provisioning.settings import Settings
from dpf.provisioning.volume import VolumeFile
from dpf.runtime.certs import KeyPair
from dpf.runtime.client import Client
from dpf.runtime.cluster import Cluster
from dpf.runtime.k8s import Node, Pod, Secret, encoded
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.manager import Manager
from dpf.runtime.meta import Object, ObjectMeta
from dpf.runtime.metrics import Metrics
from dpf.runtime.options import ManagerOptions
from dpf.runtime.remote import RemoteClusters
from dpf.runtime.testing import eventually
from dpf_api.bfb import BFB
from dpf_api.dpu import DPU, Firmware
from dpf_api.dpu import Phase as DPUPhase
from dpf_api.dpucluster import DPUCluster, Phase
from dpf_api.dpuset import DPUSet
from dpf_api.names import FEATURE_PREFIX
from test.integration.conftest import Planes
from test.integration.provisioning.bfbs import BODY, Bfbs
from test.unit.provisioning.imageserver import ImageServer

PCI = "0000-04-00"


@dataclass
class FakeDms:
    """The DMS of all cards of a test: does at once what it is asked, and counts."""

    calls: list[tuple[str, ...]] = field(default_factory=list)
    error: Exception | None = None
    reboot_error: Exception | None = None

    async def set_mode(self, mode: str) -> None:
        self.calls.append(("set_mode", mode))
        if self.error is not None:
            raise self.error

    async def install(self, version: str, content: VolumeFile | bytes) -> bool:
        self.calls.append(("install", version))
        return True

    async def activate(self, version: str) -> None:
        self.calls.append(("activate", version))

    async def report(self) -> Report:
        return Report(active=False, outcome="success", text="done", percent=100)

    async def firmware(self) -> Firmware | None:
        return Firmware(nic="32.43.1014")

    async def reboot(self, policy: Policy, request: str) -> None:
        self.calls.append(("reboot", policy.method, request))
        if self.reboot_error is not None:
            raise self.reboot_error

    async def reboot_failure(self) -> str:
        return ""

    def count(self, name: str) -> int:
        return sum(call[0] == name for call in self.calls)


async def _configure(seen: Seen, attempt: int) -> bytes:
    return f"configuration {attempt} of {seen.dpu.name}".encode()


@dataclass
class World:
    """A namespace with the controllers at work in it."""

    host: Client
    dpu: Client
    planes: Planes
    namespace: str
    dms: FakeDms
    requests: list[str] = field(default_factory=list)
    """Methods of the requests that managers made to the host cluster."""
    managers: list[Manager] = field(default_factory=list)
    """Those at work."""
    account: Path | None = None
    """Kubeconfig that managers use, if it is not the administrator's."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of managers that are not the usual ones."""
    dial: Dial | None = None
    """How managers reach DMS, if not the one that the test plays."""
    refused: int = 0
    """Requests that the server would not let managers make."""
    everywhere: bool = False
    """Whether DPUClusters of all namespaces count, as with --all-dpuclusters; those with the label ``test`` of this test."""
    remotes: RemoteClusters | None = None
    """The DPU clusters of the manager that was started last."""
    _tasks: dict[Cluster, asyncio.Task[None]] = field(default_factory=dict)

    @property
    def host_node(self) -> str:
        """The name of this test's host."""
        return f"host-{self.namespace}"

    async def node(self, name: str = "", *, oob: bool = True, **labels: str) -> Node:
        """A host with one card."""
        found = {FEATURE_PREFIX + "dpu-0-pci-address": PCI, "test": self.namespace}
        found |= {FEATURE_PREFIX + "dpu-oob-bridge-configured": ""} if oob else {}
        found |= {FEATURE_PREFIX + key.replace("_", "-"): value for key, value in labels.items()}
        node = await self.host.create(Node(metadata=ObjectMeta(name=name or self.host_node, labels=found)))
        return await self.boot(node, "boot-1")

    async def boot(self, node: Node, boot_id: str, address: str = "10.0.0.1") -> Node:
        """The host comes up with a boot id and an address."""
        addresses = [{"type": "InternalIP", "address": address}]
        status = {"nodeInfo": _node_info(boot_id), "addresses": addresses}
        return await self.host.merge_patch(node, {"status": status}, subresource="status")

    @property
    def volume(self) -> Path:
        """The folder that images lie in."""
        return self.planes.folder / f"bfb-{self.namespace}"

    async def bfb(self, name: str = "image") -> BFB:
        """An image that is on the volume already."""
        self.volume.mkdir(exist_ok=True)
        (self.volume / f"{name}.bfb").write_bytes(b"image")
        spec = {"url": "http://127.0.0.1:1/bf-1.0.bfb", "fileName": f"{name}.bfb"}
        body = {"metadata": {"name": name, "namespace": self.namespace}, "spec": spec}
        return await self.host.create(BFB.model_validate(body))

    async def cluster(self, name: str = "c1", *, max_nodes: int = 1000, ready: bool = True) -> DPUCluster:
        """A static DPU cluster; the real one behind it is shared by all tests."""
        meta = ObjectMeta(name=f"{name}-kubeconfig", namespace=self.namespace)
        data = encoded({"admin.conf": self.planes.dpu.read_text()})
        await self.host.create(Secret(metadata=meta, data=data))
        spec: dict[str, Any] = {"type": "static", "version": "", "maxNodes": max_nodes}
        spec |= {"kubeconfig": meta.name} if ready else {}
        body = {"metadata": {"name": name, "namespace": self.namespace}, "spec": spec}
        await self.host.create(DPUCluster.model_validate(body))
        wanted = Phase.READY if ready else Phase.CREATING
        cluster: DPUCluster = await self.eventually(DPUCluster, name, until=lambda c: c.status.phase is wanted)
        return cluster

    async def create_dpu(self, name: str = "d1", *, pci: str = PCI, **spec: Any) -> DPU:
        """A DPU as a user would make it."""
        base = {"nodeName": self.host_node, "bfb": "image", "nodeEffect": {"noEffect": True}, "pciAddress": pci}
        labels = {"provisioning.dpu.nvidia.com/dpu-pciAddress": pci}
        meta = {"name": f"{name}-{self.namespace}", "namespace": self.namespace, "labels": labels}
        return await self.host.create(DPU.model_validate({"metadata": meta, "spec": base | spec}))

    async def dpuset(self, name: str = "set", **spec: Any) -> DPUSet:
        """A DPUSet of this test's hosts."""
        template = {"spec": {"bfb": {"name": "image"}, "nodeEffect": {"noEffect": True}}}
        base = {"nodeSelector": {"matchLabels": {"test": self.namespace}}, "dpuTemplate": template}
        meta = {"name": name, "namespace": self.namespace}
        return await self.host.create(DPUSet.model_validate({"metadata": meta, "spec": base | spec}))

    async def eventually(self, kind: Any, name: str, **more: Any) -> Any:
        """The object once it is as expected."""
        return await eventually(self.host, kind, name, self.namespace, **more)

    async def clock_past(self, obj: Object) -> None:
        """Returns when what is made from now on is younger than the object; the server's clock ticks in seconds."""
        path = f"/api/v1/namespaces/{self.namespace}/configmaps"
        body = {"metadata": {"name": "clock"}}
        while True:
            made = orjson.loads(await self.host.request("POST", path, params={"dryRun": "All"}, body=body))
            if ObjectMeta.model_validate(made["metadata"]).creation_timestamp != obj.metadata.creation_timestamp:
                return

    async def pod_ready(self, name: str) -> Pod:
        """Plays the kubelet of a pod that is there, or comes."""
        pod = await eventually(self.host, Pod, name, self.namespace)
        conditions = [{"type": "Ready", "status": "True"}]
        status = {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "conditions": conditions}
        return await self.host.merge_patch(pod, {"status": status}, subresource="status")

    async def join(self, name: str) -> Node:
        """Plays the card that joins its cluster."""
        node = await self.dpu.create(Node(metadata=ObjectMeta(name=name)))
        conditions = [{"type": "Ready", "status": "True"}]
        return await self.dpu.merge_patch(node, {"status": {"conditions": conditions}}, subresource="status")

    async def goes_the_way(self, name: str, node: Node) -> DPU:
        """Plays host and card for a DPU that is there, or comes, until it is Ready."""
        await self.pod_ready(f"{name}-dms")
        await self.eventually(DPU, name, until=lambda dpu: dpu.status.reboot is not None)
        await self.boot(node, "boot-2")
        await self.pod_ready(f"{name}-hostnetwork")
        await self.join(name)
        dpu: DPU = await self.eventually(DPU, name, until=lambda dpu: dpu.status.phase is DPUPhase.READY)
        return dpu

    async def ready_dpu(self, name: str = "d1", *, pci: str = PCI, **spec: Any) -> DPU:
        """A DPU that has gone all the way; its host, image and cluster are there already, and need no reboot."""
        name = (await self.create_dpu(name, pci=pci, **spec)).name
        await self.pod_ready(f"{name}-dms")
        await self.pod_ready(f"{name}-hostnetwork")
        await self.join(name)
        dpu: DPU = await self.eventually(DPU, name, until=lambda dpu: dpu.status.phase is DPUPhase.READY)
        return dpu

    @asynccontextmanager
    async def manager(
        self, *, prepare: Callable[[Manager], None] = lambda _: None, **options: Any
    ) -> AsyncIterator[Manager]:
        """A manager with all controllers, ended with the block if it was not killed.

        :param prepare: called before it runs.
        :param options: of the manager, besides those of tests.
        """
        chosen = ManagerOptions(
            namespace=self.namespace,
            metrics_bind_address="0",
            health_probe_bind_address="0",
            **({"workers": 4} | options),
        )
        settings = Settings(
            bfb_dir=self.volume, bfb_pvc="bfb", dms_image="dms", hostnetwork_image="hostnetwork", **self.settings
        )

        @asynccontextmanager
        async def dial(_: str, __: KeyPair) -> AsyncIterator[Dms]:
            yield self.dms

        def observe(method: str, status: int, _: float) -> None:
            self.requests.append(method)
            self.refused += status == 403

        kubeconfig = Kubeconfig.load(self.account or self.planes.host)
        async with Client(kubeconfig, field_owner="provisioning-manager", observer=observe) as client:
            manager = Manager("test", Cluster("host", client, namespace=self.namespace), chosen, Metrics())
            if self.everywhere:
                manager.cluster.cache.configure(DPUCluster, namespace="", labels=f"test={self.namespace}")
            self.remotes = add_controllers(manager, settings, lambda _: _configure, self.dial or dial)
            manager.add(static_cluster_controller(manager.cluster))
            prepare(manager)
            task = self._tasks[manager.cluster] = asyncio.create_task(manager.run())
            self.managers.append(manager)
            try:
                yield manager
            finally:
                self.managers.remove(manager)
                manager.stop()
                await asyncio.wait([task])
                if not task.cancelled():
                    task.result()

    async def kill(self, manager: Manager) -> None:
        """Ends a manager in the middle of whatever it does."""
        task = self._tasks[manager.cluster]
        task.cancel()
        await asyncio.wait([task])


def _node_info(boot_id: str) -> dict[str, str]:
    words = "machineID systemUUID kernelVersion osImage containerRuntimeVersion kubeletVersion kubeProxyVersion"
    return {"bootID": boot_id} | dict.fromkeys((*words.split(), "operatingSystem", "architecture"), "")


@pytest.fixture
async def world(idle_world: World) -> AsyncIterator[World]:
    """The controllers at work in this test's namespace."""
    async with idle_world.manager():
        yield idle_world


@pytest.fixture
async def idle_world(
    control_planes: Planes, host_client: Client, dpu_client: Client, namespace: str
) -> AsyncIterator[World]:
    """This test's namespace, without a manager; its nodes are removed at the end."""
    yield World(host_client, dpu_client, control_planes, namespace, FakeDms())
    for client in (host_client, dpu_client):
        for node in await client.list(Node):
            if namespace in node.name:
                await client.delete(node)


@pytest.fixture
async def idle(
    host_client: Client, namespace: str, control_planes: Planes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Bfbs:
    """Nobody at work yet; times are short."""
    monkeypatch.setattr(module, "LOOK", 0.1)
    monkeypatch.setattr(module, "PROGRESS_EVERY", 0.1)
    monkeypatch.setattr(module, "RETRY", (0.3, 1.0))
    looked, same = asyncio.Event(), Files.same

    def noting(files: Files, bfb: BFB, found: Stamp) -> bool:
        looked.set()
        return same(files, bfb, found)

    monkeypatch.setattr(Files, "same", noting)
    return Bfbs(host_client, namespace, tmp_path, control_planes, looked)


@pytest.fixture
async def bfbs(idle: Bfbs) -> AsyncIterator[Bfbs]:
    async with idle.running():
        yield idle


@pytest.fixture
async def server() -> AsyncIterator[ImageServer]:
    async with ImageServer(BODY).listening() as server:
        yield server
