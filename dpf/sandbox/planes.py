"""The control planes as the supervisor's processes."""

from __future__ import annotations

from pathlib import Path

import aiohttp

from dpf.runtime.client import Client
from dpf.runtime.errors import ConfigError
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.sandbox.control import answers
from dpf.sandbox.controlplane import binaries, bootstrap
from dpf.sandbox.controlplane.planes import ControlPlanes, ProcessSpec
from dpf.sandbox.fleet.kubelet import LeaseTimes
from dpf.sandbox.layout import Layout
from dpf.sandbox.processes import Supervised


def prepare(layout: Layout, dpus: int) -> ControlPlanes:
    """Certificates and settings of two control planes, and the user's kubeconfigs.

    :raises ConfigError: if their programs have not been built.
    """
    programs = binaries.find()
    if programs is None:
        raise ConfigError("the control planes' programs are not built yet: run `make setup`")
    # A node must miss a renewal or two before it counts as lost.
    grace = LeaseTimes.for_fleet(dpus).duration + 10
    planes = ControlPlanes(layout.control_planes, programs, logs=layout.logs, audit=True, node_grace=grace)
    planes.prepare()
    layout.kubeconfigs.mkdir(parents=True, exist_ok=True, mode=0o700)
    for plane, link in ((planes.host, layout.host_kubeconfig), (planes.dpu, layout.dpu_kubeconfig)):
        link.unlink(missing_ok=True)
        link.symlink_to(plane.admin_kubeconfig)
    return planes


def supervised(spec: ProcessSpec) -> Supervised:
    """A process of a control plane with its readiness probe."""
    tls = spec.ssl_context()

    async def get() -> None:
        timeout = aiohttp.ClientTimeout(total=2.0)
        connector = aiohttp.TCPConnector(ssl=tls if tls is not None else True)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, raise_for_status=True) as http:
            await http.get(spec.ready_url)

    return Supervised(spec.name, spec.command, spec.log_file, lambda: answers(get))


async def let_nodes_join(planes: ControlPlanes) -> None:
    """Makes the DPU cluster one that nodes can join by a bootstrap token."""
    admin = Kubeconfig.load(planes.dpu.admin_kubeconfig)
    async with Client(admin, field_owner="dpf-sandbox") as client:
        await bootstrap.install(client, planes.dpu.url, planes.dpu.ca)


def audit_logs(layout: Layout) -> dict[str, Path]:
    """The audit log of each cluster, by the cluster's name."""
    return {name: layout.control_planes / name / "audit.log" for name in ("host", "dpu")}
