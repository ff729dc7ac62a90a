"""One control plane: kept as its TenantControlPlane says, taken down when that is deleted."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp

from dpf.runtime.errors import ApiError, NotFound
from dpf.runtime.log import get_logger
from dpf.sandbox.api import Api, Json
from dpf.sandbox.controlplane.etcd import Etcd
from dpf.sandbox.controlplane.plane import ClusterPlane, ProcessSpec
from dpf.sandbox.controlplane.planes import free_ports
from dpf.sandbox.controlplane.running import finish, supervised
from dpf.sandbox.kamaji import objects
from dpf.sandbox.kamaji.objects import Wanted
from dpf.sandbox.processes import NotReady, Supervised

log = get_logger(__name__)

RETRY = 1.0
"""Seconds until what failed is tried again."""
START_TIMEOUT = 60.0
SERVICE_NET = 98
"""Second byte of the network of Services; 96 and 97 are the host's and the sandbox's DPU cluster's."""


@dataclass(frozen=True)
class Surroundings:
    """What all control planes of a sandbox have in common."""

    api: Api
    """Of the host cluster."""
    etcd: Etcd
    binaries: Path
    folder: Path
    """Where each has a folder of its own."""
    logs: Path
    address: str
    """Where those listen whose own address is not one of this machine's."""
    node_grace: int = 50
    """Seconds without a lease after which a node counts as not ready."""


class Tenant:
    """A control plane and its processes."""

    def __init__(self, around: Surroundings, control_plane: Json) -> None:
        self._around = around
        self._latest = control_plane
        self._changed = asyncio.Event()
        meta = control_plane["metadata"]
        self._name = f"kamaji-{meta['name']}"
        self._folder = around.folder / meta["uid"]
        self._prefix = f"/kamaji/{meta['uid']}/"
        self._gone = False
        self._running: Wanted | None = None
        self._processes: list[tuple[Supervised, asyncio.Task[None]]] = []

    @property
    def processes(self) -> list[Supervised]:
        """Those that run now."""
        return [process for process, _ in self._processes]

    def see(self, control_plane: Json) -> None:
        """The TenantControlPlane has changed."""
        self._latest = control_plane
        self._changed.set()

    def lose(self) -> None:
        """The TenantControlPlane does not exist any more."""
        self._gone = True
        self._changed.set()

    async def run(self) -> None:
        """Keeps the control plane until its object is gone, or until cancelled; its processes have ended then."""
        try:
            while True:
                self._changed.clear()
                try:
                    if self._gone or "deletionTimestamp" in self._latest["metadata"]:
                        await self._remove()
                        return
                    await self._keep()
                except (ApiError, NotReady, aiohttp.ClientError, OSError, TimeoutError) as error:
                    log.info("control_plane_waits", name=self._name, error=str(error))
                    await asyncio.sleep(RETRY)
                else:
                    await self._changed.wait()
        finally:
            await self._end()

    async def _keep(self) -> None:
        """Brings it up as it is wanted, unless it runs so already."""
        obj, api = self._latest, self._around.api
        if objects.FINALIZER not in (obj["metadata"].get("finalizers") or []):
            held = [*(obj["metadata"].get("finalizers") or []), objects.FINALIZER]
            version = obj["metadata"]["resourceVersion"]
            obj = await api.patch(objects.path_of(obj), {"metadata": {"finalizers": held, "resourceVersion": version}})
        if not (obj["spec"].get("networkProfile") or {}).get("address"):
            # Kamaji would wait for one. In a sandbox whoever brings it up has one to give.
            address = {"spec": {"networkProfile": {"address": self._around.address}}}
            obj = await api.patch(objects.path_of(obj), address)
        service = await api.get(objects.path_of(obj, "services"))
        if patch := objects.taken_over(service, obj):
            await api.patch(objects.path_of(obj, "services"), patch)
        wanted = objects.wanted(obj, self._around.address)
        if wanted == self._running:
            return
        plane = self._prepare(wanted)
        secret = objects.secret(obj, plane.admin_kubeconfig.read_bytes())
        await api.apply(objects.path_of(obj, "secrets", objects.secret_name(obj)), secret)
        if patch := objects.begun(obj, wanted):
            await self._tell(obj, patch)
        await self._end()
        await self._start(plane)
        await self._tell(obj, objects.up(obj, wanted))
        self._running = wanted
        log.info("control_plane_up", name=self._name, address=wanted.address, port=wanted.port)

    async def _tell(self, obj: Json, status: Json) -> None:
        await self._around.api.patch(objects.path_of(obj, subresource="status"), status)

    def _prepare(self, wanted: Wanted) -> ClusterPlane:
        """Writes certificates and kubeconfigs."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        plane = ClusterPlane(
            self._name,
            self._folder,
            wanted.port,
            free_ports([0])[0],
            SERVICE_NET,
            address=wanted.address,
            etcd_prefix=self._prefix.rstrip("/"),
        )
        plane.prepare()
        return plane

    async def _start(self, plane: ClusterPlane) -> None:
        """Starts the processes; returns when the cluster can be joined."""
        around = self._around
        server, manager = (around.logs / f"{self._name}-{part}.log" for part in ("apiserver", "kcm"))
        etcd = around.etcd
        await self._run(
            [plane.api_server(around.binaries / "kube-apiserver", etcd.url, etcd.keys, server, audit=False)]
        )
        program = around.binaries / "kube-controller-manager"
        await self._run([plane.controller_manager(program, manager, node_grace=around.node_grace)])
        await finish(plane)

    async def _run(self, specs: Sequence[ProcessSpec]) -> None:
        # Nothing of them is kept beyond etcd, and an API server takes half a minute to leave politely.
        for process in [replace(supervised(spec), grace=0.0) for spec in specs]:
            self._processes.append((process, asyncio.create_task(process.run())))
            await process.wait_ready(START_TIMEOUT)

    async def _end(self) -> None:
        """Ends the processes."""
        self._running = None
        while self._processes:
            _, task = self._processes[-1]
            task.cancel()
            await asyncio.wait([task])
            self._processes.pop()

    async def _remove(self) -> None:
        """Takes everything of the control plane away, and lets its object go."""
        await self._end()
        await self._around.etcd.delete(self._prefix)
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._gone:
            # By force; what has that name now, if anything, is another.
            return
        meta = self._latest["metadata"]
        left = [each for each in meta.get("finalizers") or [] if each != objects.FINALIZER]
        patch = {"metadata": {"finalizers": left, "resourceVersion": meta["resourceVersion"]}}
        try:
            await self._around.api.patch(objects.path_of(self._latest), patch)
        except NotFound:
            return
