"""The Kamaji cluster manager at work on a real API server; Kamaji and the provisioning manager are played by the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dpf.clustermanager.kamaji import Settings, kamaji_cluster_controller
from dpf.runtime.client import Client
from dpf.runtime.cluster import Cluster
from dpf.runtime.conditions import find
from dpf.runtime.errors import Conflict
from dpf.runtime.k8s import Service
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.manager import Manager
from dpf.runtime.meta import Condition
from dpf.runtime.metrics import Metrics
from dpf.runtime.options import ManagerOptions
from dpf.runtime.testing import eventually
from dpf.sandbox.kamaji import objects
from dpf_api.dpucluster import DPUCluster
from dpf_api.kamaji import TenantControlPlane
from test.integration.conftest import Planes

VERSION = "v1.30.2"


@dataclass
class World:
    """A namespace of the host cluster in which managers work."""

    host: Client
    kubeconfig: Path
    namespace: str
    refused: int = 0
    """Requests that the server would not let managers make."""
    dead: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a manager that was to die has died."""

    @asynccontextmanager
    async def manager(self, settings: Settings | None = None, *, dies_after: int = 0) -> AsyncIterator[None]:
        """A manager, ended with the block.

        :param dies_after: writes after which it does nothing more, as if it had been killed there; :attr:`dead` tells.
        """
        options = ManagerOptions(namespace=self.namespace, metrics_bind_address="0", health_probe_bind_address="0")

        writes = 0

        def observe(method: str, status: int, _: float) -> None:
            nonlocal writes
            self.refused += status == 403
            writes += method != "GET"
            if writes == dies_after and method != "GET":
                self.dead.set()
                task.cancel()

        kubeconfig = Kubeconfig.load(self.kubeconfig)
        async with Client(kubeconfig, field_owner="kamaji-cluster-manager", observer=observe) as client:
            manager = Manager("test", Cluster("host", client, namespace=self.namespace), options, Metrics())
            manager.add(kamaji_cluster_controller(manager.cluster, manager.events, settings or Settings()))
            task = asyncio.create_task(manager.run())
            try:
                yield
            finally:
                manager.stop()
                with suppress(asyncio.CancelledError):
                    await task

    async def create(self, name: str = "c", *, annotations: dict[str, str] | None = None, **spec: Any) -> DPUCluster:
        """A DPUCluster as its user makes it and the provisioning manager hands it on."""
        meta = {"name": name, "namespace": self.namespace, "annotations": annotations or {}}
        body = {"metadata": meta, "spec": {"type": "kamaji", "version": VERSION, **spec}}
        made = await self.host.create(DPUCluster.model_validate(body))
        return await self.host.merge_patch(made, {"status": {"phase": "Creating"}}, subresource="status")

    async def says(self, kind: str, reason: str, name: str = "c") -> Condition:
        """The cluster's condition of that type, once it has the reason."""

        def told(cluster: DPUCluster) -> bool:
            found = find(cluster.status.conditions, kind)
            return found is not None and found.reason == reason

        cluster = await self.eventually(DPUCluster, name, until=told)
        found = find(cluster.status.conditions, kind)
        assert found is not None
        return found

    async def eventually(self, kind: Any, name: str = "c", **more: Any) -> Any:
        """The object once it is as expected."""
        return await eventually(self.host, kind, name, self.namespace, **more)

    async def serve(self, name: str = "c", **status: Any) -> TenantControlPlane:
        """Plays Kamaji: takes the Service over and says that the control plane is up, or what ``status`` says of its version."""
        control_plane = await self.eventually(TenantControlPlane, name)
        raw = control_plane.model_dump(mode="json", by_alias=True)
        while True:
            service = await self.eventually(Service, name)
            try:
                patch = objects.taken_over(service.model_dump(mode="json", by_alias=True), raw)
                await self.host.merge_patch(service, patch)
            except Conflict:
                continue
            break
        said = objects.up(raw, objects.wanted(raw, "127.0.0.1"))
        said["status"]["kubernetesResources"]["version"] |= status
        return await self.host.merge_patch(control_plane, said, subresource="status")


@pytest.fixture
async def world(control_planes: Planes, host_client: Client, namespace: str, data_store: None) -> World:
    return World(host_client, control_planes.host, namespace)
