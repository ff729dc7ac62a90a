"""The stand-in for Kamaji: a control plane of its own for each TenantControlPlane."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dpf.runtime.client import Client
from dpf.runtime.errors import NotFound
from dpf.runtime.k8s import ConfigMap, Secret, Service, ServicePort, ServiceSpec
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import ObjectMeta
from dpf.runtime.testing import eventually, eventually_gone
from dpf.sandbox.api import Api
from dpf.sandbox.controlplane import binaries
from dpf.sandbox.controlplane.planes import ControlPlanes
from dpf.sandbox.kamaji.tenant import Surroundings
from dpf.sandbox.kamaji.tenants import Tenants
from dpf.sandbox.layout import claim_block, spare_address
from dpf_api.kamaji import TenantControlPlane, TenantControlPlaneSpec
from test.integration.conftest import Planes


@asynccontextmanager
async def stand_in(planes: Planes, folder: Path, namespace: str, address: str) -> AsyncIterator[Tenants]:
    """The stand-in at work in a namespace."""
    programs = binaries.ensure()
    async with Api(Kubeconfig.load(planes.host), user_agent="test") as api:
        etcd = ControlPlanes(planes.folder, programs).etcd
        around = Surroundings(api, etcd, programs, folder / "tenants", folder / "logs", address)
        tenants = Tenants(around, namespace=namespace)
        task = asyncio.create_task(tenants.run())
        try:
            yield tenants
        finally:
            task.cancel()
            await asyncio.wait([task])


async def admin_of(host: Client, namespace: str) -> Kubeconfig:
    """The way into the control plane that has been made."""
    secret = await host.get(Secret, "c-admin-kubeconfig", namespace)
    return Kubeconfig.parse(secret.text("admin.conf"))


def is_ready(version: str, control_plane: TenantControlPlane) -> bool:
    running = control_plane.status.version
    return (running.status, running.version) == ("Ready", version)


@pytest.mark.timeout(400)  # four starts of a control plane, and a garbage collector in between
async def test_a_control_plane_comes_is_upgraded_survives_its_runner_and_goes(
    control_planes: Planes, host_client: Client, namespace: str, tmp_path: Path
) -> None:
    block, claim = claim_block()
    address = spare_address(block)
    entry = ServicePort(name="kube-apiserver", port=6443)
    spec = ServiceSpec(type="NodePort", selector={"kamaji.clastix.io/name": "c"}, ports=[entry])
    meta = ObjectMeta(name="c", namespace=namespace)
    service = await host_client.create(Service(metadata=meta, spec=spec))
    port = service.spec.ports[0].node_port
    wanted = TenantControlPlaneSpec.model_validate(
        {
            "dataStore": "default",
            "controlPlane": {"service": {"serviceType": "NodePort"}},
            "kubernetes": {"version": "v1.30.2", "kubelet": {}},
            "networkProfile": {"port": port},
        }
    )
    note = ConfigMap(metadata=ObjectMeta(name="note", namespace="default"), data={"kept": "yes"})
    with claim:
        async with stand_in(control_planes, tmp_path, namespace, address) as tenants:
            made = await host_client.create(TenantControlPlane(metadata=meta, spec=wanted))
            found = await eventually(
                host_client, TenantControlPlane, "c", namespace, until=lambda t: is_ready("v1.30.2", t)
            )
            assert found.status.control_plane_endpoint == f"{address}:{port}"
            assert found.status.kubeconfig.admin.secret_name == "c-admin-kubeconfig"
            taken = await host_client.get(Service, "c", namespace)
            assert [(p.port, p.node_port) for p in taken.spec.ports] == [(port, port)]
            assert taken.controller is not None
            assert taken.controller.uid == made.uid
            admin = await admin_of(host_client, namespace)
            assert admin.server == f"https://{address}:{port}"
            async with Client(admin, field_owner="test") as inside:
                await inside.create(note)
                await inside.get(ConfigMap, "cluster-info", "kube-public")
            upgrade = {"spec": {"kubernetes": {"version": "v1.31.0"}}}
            await host_client.merge_patch(made, upgrade)
            upgrading = await eventually(
                host_client, TenantControlPlane, "c", namespace, until=lambda t: t.status.version.status == "Upgrading"
            )
            assert upgrading.status.version.version == "v1.30.2"
            await eventually(host_client, TenantControlPlane, "c", namespace, until=lambda t: is_ready("v1.31.0", t))
            async with Client(admin, field_owner="test") as inside:
                assert (await inside.get(ConfigMap, "note", "default")).data == {"kept": "yes"}
            ends = [os.pidfd_open(process.pid) for process in tenants.processes if process.pid is not None]
        assert len(ends) == 2
        for end in ends:
            os.close(end)
        assert tenants.processes == []
        async with stand_in(control_planes, tmp_path, namespace, address):
            async with Client(admin, field_owner="test") as inside:
                assert (await eventually(inside, ConfigMap, "note", "default")).data == {"kept": "yes"}
            await host_client.delete(made)
            await eventually_gone(host_client, TenantControlPlane, "c", namespace)
            assert list((tmp_path / "tenants").iterdir()) == []
        # The Service goes with its owner. Another control plane of the same name begins with nothing.
        await eventually_gone(host_client, Service, "c", namespace, timeout=120.0)
        port = (await host_client.create(Service(metadata=meta, spec=spec))).spec.ports[0].node_port
        profile = wanted.network_profile.model_copy(update={"port": port})
        wanted = wanted.model_copy(update={"network_profile": profile})
        async with stand_in(control_planes, tmp_path, namespace, address):
            await host_client.create(TenantControlPlane(metadata=meta, spec=wanted))
            await eventually(host_client, TenantControlPlane, "c", namespace, until=lambda t: is_ready("v1.30.2", t))
            fresh = await admin_of(host_client, namespace)
            assert fresh.ca != admin.ca
            async with Client(fresh, field_owner="test") as inside:
                with pytest.raises(NotFound):
                    await inside.get(ConfigMap, "note", "default")
            await host_client.delete(TenantControlPlane(metadata=meta))
            await eventually_gone(host_client, TenantControlPlane, "c", namespace)
