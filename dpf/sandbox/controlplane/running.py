"""Runs control planes: starts their processes in order, waits until they are ready, restarts what dies, ends all."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import aiohttp

from dpf.runtime.client import Client
from dpf.runtime.k8s import ServiceAccount
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.sandbox.api import Api
from dpf.sandbox.controlplane import bootstrap
from dpf.sandbox.controlplane.plane import ClusterPlane, ProcessSpec
from dpf.sandbox.controlplane.planes import ControlPlanes
from dpf.sandbox.processes import NotReady, Supervised

START_TIMEOUT = 60.0
"""Seconds for each stage; about three are usual."""
GOGC = "300"
"""How much garbage the Go programs let come together before they collect it, in percent of what lives (their own default is 100).
They live for minutes here and share few cores with all else. While 200 DPUs are provisioned API servers use about an eighth less
CPU so, measured against the manager's in the same run; what it costs is memory."""


def supervised(spec: ProcessSpec) -> Supervised:
    """The process, to be run and watched."""
    context = spec.ssl_context()

    async def ready() -> bool:
        timeout = aiohttp.ClientTimeout(total=5)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as http,
                http.get(spec.ready_url, ssl=context if context is not None else True) as response,
            ):
                return response.status == 200
        except (aiohttp.ClientError, OSError):
            return False

    return Supervised(spec.name, list(spec.command), spec.log_file, ready, env={"GOGC": os.environ.get("GOGC", GOGC)})


async def finish(plane: ClusterPlane) -> None:
    """Installs what joining nodes need, and waits until the controller-manager has begun its work.

    :raises NotReady: if it has not after :data:`START_TIMEOUT`.
    """
    kubeconfig = Kubeconfig.load(plane.admin_kubeconfig)
    async with Client(kubeconfig, field_owner="sandbox") as client:
        await bootstrap.install(client, plane.url, plane.ca)
    async with Api(kubeconfig, user_agent="dpf-sandbox") as api:
        await _works(api, plane.url)


async def _works(api: Api, url: str) -> None:
    """Returns when the controller-manager has made the first of what it makes.

    :raises NotReady: if it has not after :data:`START_TIMEOUT`.
    """
    path = ServiceAccount.RESOURCE.path("default")
    try:
        async with asyncio.timeout(START_TIMEOUT), aclosing(api.follow(path)) as changes:
            async for _, account in changes:
                if account["metadata"]["name"] == "default":
                    return
    except TimeoutError:
        raise NotReady(
            f"the controller-manager of {url} has made no ServiceAccount in {START_TIMEOUT:g} s; look at its log"
        ) from None


@asynccontextmanager
async def running(planes: ControlPlanes) -> AsyncIterator[None]:
    """Both clusters are up inside the block, and gone after it.

    :raises NotReady: if one does not come up; with the end of its log.
    """
    planes.prepare()
    stages: list[list[asyncio.Task[None]]] = []
    try:
        for stage in planes.stages():
            processes = [supervised(spec) for spec in stage]
            stages.append([asyncio.create_task(process.run()) for process in processes])
            await asyncio.gather(*(process.wait_ready(START_TIMEOUT) for process in processes))
        await asyncio.gather(finish(planes.host), finish(planes.dpu))
        yield
    finally:
        # An API server that has lost its etcd takes long to leave: what needs another ends before it.
        for tasks in reversed(stages):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
