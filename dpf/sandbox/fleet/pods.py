"""Stands in for scheduler and kubelets: pods that must run on a simulated host are bound to it and run.

Which host: the pod's required node affinity names it (matchFields ``metadata.name``), as with pods of a DaemonSet; other
pods are left pending.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dpf.runtime.errors import ApiError, NotFound
from dpf.runtime.log import get_logger
from dpf.sandbox.api import Api, Json, path_of
from dpf.sandbox.fleet.containers import EntryPoint
from dpf.sandbox.fleet.hosts import Host
from dpf.sandbox.fleet.podworker import Backoff, PodWorker
from dpf.sandbox.fleet.volumes import Secrets, Volumes
from dpf.sandbox.layout import Layout

log = get_logger(__name__)

PODS = "/api/v1/pods"
RETRY = 1.0
"""Seconds until what the API server did not take is tried again."""


@dataclass
class _Entry:
    worker: PodWorker
    task: asyncio.Task[None]
    stopping: bool = False


class Pods:
    """All pods of the fleet.

    :param entry_points: what runs for an image, by its name.
    """

    def __init__(
        self,
        api: Api,
        layout: Layout,
        hosts: Mapping[str, Host],
        entry_points: Mapping[str, EntryPoint],
        backoff: Backoff,
    ) -> None:
        self._api = api
        self._layout = layout
        self._hosts = hosts
        self._entry_points = entry_points
        self._backoff = backoff
        self._cards = {card.name: card for host in hosts.values() for card in host.cards}
        self._entries: dict[str, _Entry] = {}
        self._secrets = Secrets()

    async def run(self) -> None:
        """Runs pods until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._secrets.run(self._api))
            async for event, pod in self._api.follow(PODS):
                self._observe(group, event, pod)

    def processes(self) -> list[dict[str, Any]]:
        """The containers as ``dpfctl sandbox ps`` lists them: named after their pods."""
        return [
            {
                "name": entry.worker.pod["metadata"]["name"],
                "pid": slot.run.pid if slot.run is not None else None,
                "ready": slot.report.ready,
                "restarts": slot.report.restarts,
            }
            for entry in self._entries.values()
            for slot in entry.worker.slots
        ]

    def kill(self, name: str) -> bool:
        """Kills the containers of the pod of that name, or of all pods that have a container of that name."""
        found = [
            entry.worker
            for entry in self._entries.values()
            if name == entry.worker.pod["metadata"]["name"]
            or any(name == slot.report.name for slot in entry.worker.slots)
        ]
        for worker in found:
            worker.kill()
        return bool(found)

    def _observe(self, group: asyncio.TaskGroup, event: str, pod: Json) -> None:
        uid = pod["metadata"]["uid"]
        entry = self._entries.get(uid)
        if event == "DELETED":
            if entry is not None and not entry.stopping:
                entry.stopping = True
                group.create_task(self._stop(uid, entry, delete=False))
        elif pod["metadata"].get("deletionTimestamp"):
            if entry is None and target(pod) in self._hosts and pod["spec"].get("nodeName"):
                group.create_task(self._remove(pod))
            elif entry is not None and not entry.stopping:
                entry.stopping = True
                group.create_task(self._stop(uid, entry, delete=True))
        elif entry is not None:
            entry.worker.observe(pod)
        elif (host := self._hosts.get(target(pod))) is not None:
            self._start(group, uid, pod, host)

    def _start(self, group: asyncio.TaskGroup, uid: str, pod: Json, host: Host) -> None:
        if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            return
        volumes = Volumes(
            pod,
            self._secrets,
            pod_folder=self._layout.fleet_dir / "pods" / uid,
            host_folder=host.root,
            claims=self._layout.bfb_dir,
        )
        worker = PodWorker(
            api=self._api,
            pod=pod,
            host=host,
            card=self._cards.get(card_name(pod)),
            volumes=volumes,
            card_socket=self._layout.fleet_socket,
            logs=self._layout.logs / "pods",
            entry_points=self._entry_points,
            backoff=self._backoff,
        )
        self._entries[uid] = _Entry(worker, group.create_task(_guarded(worker)))

    async def _stop(self, uid: str, entry: _Entry, *, delete: bool) -> None:
        entry.task.cancel()
        await asyncio.wait([entry.task])
        entry.worker.volumes.remove()
        del self._entries[uid]
        if delete:
            await self._remove(entry.worker.pod)

    async def _remove(self, pod: Json) -> None:
        """Removes a pod that has ended from the API, however long its server is away."""
        while True:
            try:
                await self._api.delete(path_of(pod, "pods"), uid=pod["metadata"]["uid"])
                return
            except ApiError as error:
                log.warning("pod_not_removed", pod=pod["metadata"]["name"], error=str(error))
            await asyncio.sleep(RETRY)


async def _guarded(worker: PodWorker) -> None:
    """Runs a pod such that its failure is its own, and passes: the other pods go on, and it is tried again."""
    while True:
        try:
            await worker.run()
        except NotFound:
            return
        except (ApiError, OSError, ExceptionGroup) as error:
            log.error("pod_worker_failed", pod=worker.pod["metadata"]["name"], error=repr(error))
        await asyncio.sleep(RETRY)


def target(pod: Json) -> str:
    """The node that a pod is bound to, or must be bound to by its affinity; empty if neither."""
    spec = pod["spec"]
    if spec.get("nodeName"):
        return str(spec["nodeName"])
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    for term in required.get("nodeSelectorTerms") or []:
        for field in term.get("matchFields") or []:
            if field["key"] == "metadata.name" and field["operator"] == "In" and len(field["values"]) == 1:
                return str(field["values"][0])
    return ""


def card_name(pod: Json) -> str:
    """The DPU that a pod belongs to: its controller's name."""
    for owner in pod["metadata"].get("ownerReferences") or []:
        if owner.get("controller") and owner["kind"] == "DPU":
            return str(owner["name"])
    return ""
