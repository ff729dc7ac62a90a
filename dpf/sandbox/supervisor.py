"""``python -m dpf.sandbox.supervisor``: the one process that owns a sandbox.

It brings everything up in order (control planes, objects, managers, fleet), restarts what dies, and takes everything down in
the opposite order. Its children are killed by the kernel should it be killed itself, so nothing of a sandbox outlives it.
From ``dpfctl`` it inherits the lock of its folder (:mod:`dpf.sandbox.lock`), which so is held as long as it lives.
``dpfctl sandbox`` speaks to it over a unix socket.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import aiohttp

from dpf.runtime import log as logging
from dpf.runtime.errors import DpfError, NotFound
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.log import Level, get_logger
from dpf.sandbox import accounts, control, manifests, objects, planes, signals
from dpf.sandbox.api import Api
from dpf.sandbox.control import ControlError
from dpf.sandbox.controlplane.running import finish, supervised
from dpf.sandbox.fleet.cardapi import clear_socket
from dpf.sandbox.fleet.cardstate import Durations
from dpf.sandbox.imageserver import ImageServer, make_image
from dpf.sandbox.kamaji import objects as kamaji
from dpf.sandbox.kamaji.tenants import Tenants
from dpf.sandbox.layout import NAMESPACE, Layout, claim_block
from dpf.sandbox.managers import MANAGERS, managers
from dpf.sandbox.processes import NotReady, Supervised
from dpf.sandbox.settings import LARGEST_WITH_PROCESSES, VISIBLE_DELAYS, Settings

log = get_logger(__name__)

FAILURE_SHOWN_FOR = 10.0
"""Seconds that a supervisor that failed to bring its sandbox up waits to be asked why."""


class Supervisor:
    """Brings a sandbox up, keeps it up, takes it down."""

    def __init__(self, layout: Layout, settings: Settings) -> None:
        self._layout = layout
        self._settings = settings
        self._steps: list[str] = []
        self._stepped = asyncio.Event()
        self._ready = False
        self._failure = ""
        self._down = asyncio.Event()
        self._installed = asyncio.Event()
        self._tenants: Tenants | None = None
        self._stages: list[dict[str, tuple[Supervised, asyncio.Task[None]]]] = []

    async def run(self) -> None:
        """Runs the sandbox until it is told to end; everything it started has ended when it returns."""
        async with self._control(), self._images(), asyncio.TaskGroup() as group:
            up = group.create_task(self._bring_up(group))
            tenants = group.create_task(self._keep_tenants())
            try:
                await self._down.wait()
            finally:
                for task in (up, tenants):
                    task.cancel()
                await asyncio.wait([up, tenants])
                await self._end_stages()

    async def progress(self, after: int) -> dict[str, Any]:
        """See :class:`control.Controlled`."""
        while len(self._steps) <= after and not self._ready and not self._failure:
            await self._stepped.wait()
        return {"steps": self._steps[after:], "ready": self._ready, "failure": self._failure}

    async def processes(self) -> list[dict[str, Any]]:
        """See :class:`control.Controlled`."""
        own = [process for stage in self._stages for process, _ in stage.values()]
        own += self._tenants.processes if self._tenants is not None else []
        ready = await asyncio.gather(*(process.ready() for process in own))
        found = [
            {"name": process.name, "pid": process.pid, "ready": is_ready, "restarts": process.restarts}
            for process, is_ready in zip(own, ready, strict=True)
        ]
        with suppress(ControlError):
            found += await control.ask(self._layout.fleet_socket, "GET", "/pods", timeout=5.0)
        return found

    async def kill(self, name: str) -> None:
        """See :class:`control.Controlled`. What is no process of the supervisor's is looked for among the fleet's pods."""
        for stage in self._stages:
            if name in stage and stage[name][0].kill():
                return
        for process in self._tenants.processes if self._tenants is not None else ():
            if process.name == name and process.kill():
                return
        try:
            await control.ask(self._layout.fleet_socket, "POST", f"/pods/{name}/kill")
        except ControlError as error:
            raise KeyError(name) from error

    def shut_down(self) -> None:
        """See :class:`control.Controlled`."""
        self._down.set()

    async def _bring_up(self, group: asyncio.TaskGroup) -> None:
        try:
            await self._bring_up_stages(group)
        except (NotReady, DpfError, OSError, TimeoutError, ValueError) as error:
            self._failure = str(error) or repr(error)
            log.error("sandbox_failed", error=self._failure)
            self._step("failed")
            await asyncio.sleep(FAILURE_SHOWN_FOR)
            self._down.set()
        else:
            self._ready = True
            self._step("everything is ready")

    async def _bring_up_stages(self, group: asyncio.TaskGroup) -> None:
        layout = self._layout
        control_planes = planes.prepare(layout, self._settings.dpus)
        for stage in control_planes.stages():
            # Nothing of them is kept, and an API server takes half a minute to leave politely.
            processes = [replace(supervised(spec), grace=0.0) for spec in stage]
            await self._start_stage(group, processes, timeout=60.0)
        await asyncio.gather(finish(control_planes.host), finish(control_planes.dpu))
        self._step("two clusters run: host and DPU")
        admin = Kubeconfig.load(layout.host_kubeconfig)
        async with Api(admin, user_agent="dpf-sandbox") as api:
            await self._install(api)
            await self._start_fleet(group)
            for account in MANAGERS:
                try:
                    await accounts.write_kubeconfig(api, admin, account, layout.kubeconfigs / f"{account}.conf")
                except NotFound:
                    if account not in self._settings.without:
                        raise
        started = managers(layout, self._settings)
        await self._start_stage(group, started, timeout=60.0)
        if started:
            self._step(f"ready: {', '.join(process.name for process in started)}")
        async with Api(admin, user_agent="dpf-sandbox") as api:
            version = (await api.get("/version"))["gitVersion"]
            await manifests.Applier(api).apply(objects.dpu_cluster(read(layout.dpu_kubeconfig), version))
            if len(started) == len(MANAGERS):
                await _cluster_ready(api)
                self._step(f"DPUCluster {objects.DPU_CLUSTER} is ready")

    async def _keep_tenants(self) -> None:
        """Stands in for Kamaji once the host cluster has its kinds."""
        await self._installed.wait()
        layout, settings = self._layout, self._settings
        async with Api(Kubeconfig.load(layout.host_kubeconfig), user_agent="kamaji-stand-in") as api:
            around = planes.surroundings(layout, api, settings)
            self._tenants = Tenants(around)
            await self._tenants.run()

    async def _install(self, api: Api) -> None:
        applier, config = manifests.Applier(api), manifests.CONFIG
        crds = [*manifests.documents(config / "crd"), *manifests.documents(config / "crd" / "external")]
        await applier.install_crds(crds)
        await applier.apply([objects.namespace()])
        for rights in ("rbac", "all-namespaces"):
            await applier.apply(manifests.documents(config / rights))
        await applier.apply([objects.operator_config(), kamaji.data_store()])
        self._installed.set()
        self._step(f"{len(crds)} CRDs, accounts and settings are in place")

    async def _start_fleet(self, group: asyncio.TaskGroup) -> None:
        async def probe() -> bool:
            return await control.answers(lambda: control.ask(self._layout.fleet_socket, "GET", "/readyz", timeout=5.0))

        self._settings.write(self._layout)
        command = [sys.executable, "-m", "dpf.sandbox.fleet", "--data-dir", str(self._layout.data_dir)]
        fleet = Supervised("fleet", command, self._layout.logs / "fleet.log", probe)
        await self._start_stage(group, [fleet], timeout=120.0)
        hosts = len(self._settings.inventory.hosts)
        self._step(f"{self._settings.dpus} simulated DPUs in {hosts} host nodes are there")

    async def _start_stage(self, group: asyncio.TaskGroup, processes: list[Supervised], *, timeout: float) -> None:
        """Starts processes together and returns when all are ready."""
        self._stages.append({process.name: (process, group.create_task(process.run())) for process in processes})
        await asyncio.gather(*(process.wait_ready(timeout) for process in processes))

    async def _end_stages(self) -> None:
        for stage in reversed(self._stages):
            tasks = [task for _, task in stage.values()]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _step(self, text: str) -> None:
        log.info("step", text=text)
        self._steps.append(text)
        stepped, self._stepped = self._stepped, asyncio.Event()
        stepped.set()

    @asynccontextmanager
    async def _control(self) -> AsyncIterator[None]:
        clear_socket(self._layout.control_socket)
        runner = aiohttp.web.AppRunner(
            control.application(self), access_log=None, handle_signals=False, shutdown_timeout=1.0
        )
        await runner.setup()
        await aiohttp.web.UnixSite(runner, str(self._layout.control_socket)).start()
        try:
            yield
        finally:
            await runner.cleanup()
            self._layout.control_socket.unlink(missing_ok=True)

    @asynccontextmanager
    async def _images(self) -> AsyncIterator[None]:
        self._layout.bfb_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        server = ImageServer(make_image(self._layout.images))
        await server.start("127.0.0.1")
        self._settings = replace(self._settings, bfb_url=server.url)
        try:
            yield
        finally:
            await server.stop()


async def _cluster_ready(api: Api) -> None:
    """Returns when the DPUCluster is Ready.

    :raises NotReady: after 90 seconds, with what its conditions say.
    """
    path = f"/apis/provisioning.dpu.nvidia.com/v1alpha1/namespaces/{NAMESPACE}/dpuclusters"
    phase = "unknown"
    try:
        async with asyncio.timeout(90.0):
            async for _, cluster in api.follow(path):
                phase = (cluster.get("status") or {}).get("phase", "")
                if phase == "Ready":
                    return
    except TimeoutError:
        raise NotReady(f"DPUCluster {objects.DPU_CLUSTER} stays in phase {phase!r}") from None


def read(path: Path) -> bytes:
    """The content of a small file."""
    return path.read_bytes()


def settings_from(arguments: argparse.Namespace, block: str) -> Settings:
    """The settings that the command line asks for."""
    return Settings(
        dpus=arguments.dpus,
        dpus_per_host=arguments.dpus_per_host,
        block=block,
        durations=Durations() if arguments.no_delays else VISIBLE_DELAYS,
        without=tuple(arguments.without),
        log_level=arguments.log_level,
        in_process=arguments.dpus > LARGEST_WITH_PROCESSES,
    )


def main() -> None:
    """Runs the sandbox in a data folder until it is told to end."""
    parser = argparse.ArgumentParser(prog="python -m dpf.sandbox.supervisor", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the sandbox")
    parser.add_argument("--dpus", type=int, default=4, help="number of simulated DPUs")
    parser.add_argument("--dpus-per-host", type=int, default=1, help="cards in one host")
    parser.add_argument("--no-delays", action="store_true", help="cards and hosts do everything at once")
    parser.add_argument("--without", action="append", default=[], choices=MANAGERS, help="a manager to leave out")
    parser.add_argument("--log-level", default="info", choices=get_args(Level), help="what the managers log at least")
    parser.add_argument("--lock", type=int, help="descriptor of the folder's lock, which it inherits")
    arguments = parser.parse_args()
    if arguments.lock is not None:
        # A child that outlives it by a moment shall not keep the folder from the next sandbox.
        os.set_inheritable(arguments.lock, False)
    logging.configure("info", "json")
    # Inherited by all: a thousand cards are thousands of sockets.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    block, claim = claim_block()
    with claim:
        signals.run(Supervisor(Layout(arguments.data_dir), settings_from(arguments, block)).run())


if __name__ == "__main__":
    main()
