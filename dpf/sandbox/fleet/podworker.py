"""One pod on its host: volumes, containers, restarts with back-off, and its status in the API.

In the happy case a pod costs one status write: what settles within :data:`SETTLE` seconds is reported when it has. A host
that goes down takes the containers with it; they start again when it is back, counted as a restart.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dpf.runtime.errors import ApiError, Conflict, NotFound
from dpf.runtime.log import get_logger
from dpf.sandbox.api import Api, Json, path_of
from dpf.sandbox.fleet.cards import Card
from dpf.sandbox.fleet.containers import Container, EntryPoint, Run, run_silent
from dpf.sandbox.fleet.faults import Fault
from dpf.sandbox.fleet.hosts import Host
from dpf.sandbox.fleet.nodes import timestamp
from dpf.sandbox.fleet.podstatus import ContainerReport, Exit, is_ready, pod_status
from dpf.sandbox.fleet.volumes import Volumes

log = get_logger(__name__)

SETTLE = 1.0
KILLED = 128 + signal.SIGKILL
STEADY = 60.0
"""Seconds of running after which a crash counts as a first one again."""


@dataclass(frozen=True)
class Backoff:
    """Seconds before a container that ended is started again: doubled each time."""

    first: float = 0.5
    longest: float = 10.0

    def after(self, crashes: int) -> float:
        return min(self.longest, self.first * 2.0 ** min(crashes, 20))


@dataclass
class _Slot:
    """A container of the pod and what it does now."""

    container: Container
    report: ContainerReport
    run: Run | None = None
    task: asyncio.Task[int] | None = None
    crashes: int = 0


@dataclass
class PodWorker:
    """Runs one pod until cancelled."""

    api: Api
    pod: Json
    host: Host
    card: Card | None
    volumes: Volumes
    card_socket: Path
    logs: Path
    entry_points: Mapping[str, EntryPoint]
    backoff: Backoff = field(default_factory=Backoff)

    def __post_init__(self) -> None:
        self._since = timestamp()
        self._dirty = asyncio.Event()
        self._settled = asyncio.Event()
        self._written: list[ContainerReport] = []
        self._written_version = 0
        self._seen_version, self._seen_ready = 0, False
        before = {c["name"]: c for c in (self.pod.get("status") or {}).get("containerStatuses") or []}
        # A pod that ran before this process began has been restarted by it.
        self.slots = [
            self._slot(spec, before[spec["name"]]["restartCount"] + 1 if spec["name"] in before else 0)
            for spec in self.pod["spec"]["containers"]
        ]

    def _slot(self, spec: dict[str, Any], restarts: int) -> _Slot:
        name = self.pod["metadata"]["name"]
        mounts = {
            mount["mountPath"]: self.volumes.paths[mount["name"]]
            for mount in spec.get("volumeMounts") or []
            if mount["name"] in self.volumes.paths
        }
        container = Container(
            pod=self.pod,
            spec=spec,
            host=self.host,
            card=self.card,
            card_socket=self.card_socket,
            mounts=mounts,
            log=self.logs / f"{name}.log",
        )
        return _Slot(container, ContainerReport(spec["name"], spec.get("image", ""), restarts=restarts))

    async def run(self) -> None:
        """Binds the pod to its host if need be, and keeps it running until cancelled."""
        await self._bind()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._report())
            self._dirty.set()
            await self.volumes.mount()
            group.create_task(self.volumes.refresh())
            for slot in self.slots:
                group.create_task(self._keep(slot))

    def kill(self) -> None:
        """Kills the pod's containers, as the out-of-memory killer would."""
        for slot in self.slots:
            if slot.run is not None and slot.run.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(slot.run.pid, signal.SIGKILL)
            elif slot.task is not None:
                slot.task.cancel()

    def observe(self, pod: Json) -> None:
        """Takes note of the pod as the API has it: what others make of its status is written over, as a kubelet does. The node
        lifecycle controller says of pods that they are not ready when it has not heard of their node, and never that they are."""
        self._seen_version, self._seen_ready = int(pod["metadata"]["resourceVersion"]), is_ready(pod)
        if self._overwritten():
            self._dirty.set()

    def _overwritten(self) -> bool:
        newer = self._seen_version > self._written_version > 0
        return newer and self._seen_ready != all(report.ready for report in self._written)

    async def _bind(self) -> None:
        """Returns when the pod is bound to its host.

        :raises ApiError: if that is not taken. That it is bound already, by a try whose answer was lost, is as good.
        """
        if self.pod["spec"].get("nodeName"):
            return
        metadata = self.pod["metadata"]
        target = {"apiVersion": "v1", "kind": "Node", "name": self.host.name}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": metadata["name"]}, "target": target}
        with suppress(Conflict):
            await self.api.create(path_of(self.pod, "pods", subresource="binding"), body)
        self.pod["spec"]["nodeName"] = self.host.name

    async def _keep(self, slot: _Slot) -> None:
        """Runs a container again and again."""
        while True:
            await self.host.up.wait()
            started, clock = timestamp(), asyncio.get_running_loop().time()
            self._tell(slot, started=started, ready=False, waiting="", message="")
            code = await self._run_once(slot)
            last = Exit(code, started, timestamp())
            if not self.host.up.is_set():
                slot.crashes = 0
                self._tell(slot, started="", ready=False, last=last, restarts=slot.report.restarts + 1)
                continue
            if asyncio.get_running_loop().time() - clock > STEADY:
                slot.crashes = 0
            pause = self.backoff.after(slot.crashes)
            slot.crashes += 1
            message = f"back-off {pause:g}s restarting failed container={slot.report.name}"
            self._tell(slot, started="", ready=False, waiting="CrashLoopBackOff", message=message, last=last)
            await asyncio.sleep(pause)
            slot.report = replace(slot.report, restarts=slot.report.restarts + 1)

    async def _run_once(self, slot: _Slot) -> int:
        """The exit code of one run, which ends by itself, with the host, or by a fault."""
        entry = self.entry_points.get(slot.container.image)
        if entry is None:
            self._tell(slot, started="", waiting="ErrImagePull", message=f"no image {slot.container.image!r} here")
            await asyncio.Event().wait()
            return 1
        fault = self._fault(slot)
        if fault is Fault.POD_CRASH_LOOPS:
            return 1
        entry = run_silent if fault is Fault.DMS_SILENT else entry
        slot.run = Run(lambda: self._tell(slot, ready=True), lambda: self._tell(slot, ready=False))
        slot.task = asyncio.ensure_future(entry(slot.container, slot.run))
        enders: list[asyncio.Future[Any]] = [asyncio.ensure_future(self.host.down.wait())]
        if self.card is not None:
            enders.append(asyncio.ensure_future(self.card.wait_while(lambda _: self._fault(slot) is fault)))
        try:
            await asyncio.wait([slot.task, *enders], return_when=asyncio.FIRST_COMPLETED)
            return await _ended(slot.task)
        finally:
            for task in (slot.task, *enders):
                task.cancel()
            await asyncio.wait([slot.task])
            slot.run = slot.task = None

    def _fault(self, slot: _Slot) -> Fault | None:
        """The card's fault, if it is one of that container."""
        fault = None if self.card is None else self.card.fault
        silent = fault is Fault.DMS_SILENT and slot.container.port is not None
        return fault if silent or fault is Fault.POD_CRASH_LOOPS else None

    def _tell(self, slot: _Slot, **changes: Any) -> None:
        slot.report = replace(slot.report, **changes)
        self._dirty.set()
        if all(slot.report.ready for slot in self.slots):
            self._settled.set()
        else:
            self._settled.clear()

    async def _report(self) -> None:
        """Writes the status when it has changed, until cancelled or the pod is gone."""
        path = path_of(self.pod, "pods", subresource="status")
        while True:
            await self._dirty.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(SETTLE):
                    await self._settled.wait()
            self._dirty.clear()
            reports = [slot.report for slot in self.slots]
            if reports == self._written and not self._overwritten():
                continue
            status = pod_status(self.pod, self.host.address, reports, self._since)
            try:
                # By its uid: another pod of this name is not this one.
                body = {"metadata": {"uid": self.pod["metadata"]["uid"]}, "status": status}
                stored = await self.api.patch(path, body)
                self._written, self._written_version = reports, int(stored["metadata"]["resourceVersion"])
                if self._overwritten():
                    self._dirty.set()
            except NotFound:
                return
            except ApiError as error:
                log.warning("pod_status_not_written", pod=self.pod["metadata"]["name"], error=str(error))
                self._dirty.set()
                await asyncio.sleep(SETTLE)


async def _ended(task: asyncio.Task[int]) -> int:
    """The exit code of an entry point's task, ended if it runs; one that was killed or raised has one too."""
    if not task.done():
        task.cancel()
    await asyncio.wait([task])
    if task.cancelled():
        return KILLED
    if error := task.exception():
        log.error("container_failed", error=repr(error))
        return 1
    return task.result()
