"""The volumes of a pod as folders: Secrets are written and refreshed as the kubelet does it, the rest are plain folders.

A Secret's files lie in a folder of their own that a symlink ``..data`` points to; a change is a new folder and one rename,
so a reader never sees a certificate of one version and a key of another.
"""

from __future__ import annotations

import asyncio
import base64
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from dpf.sandbox.api import Api, Json

SECRETS = "/api/v1/secrets"


class Secrets:
    """The Secrets of the host cluster, watched; one watch for all pods of the fleet."""

    def __init__(self) -> None:
        self._data: dict[str, dict[str, str]] = {}
        self._changed: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def run(self, api: Api) -> None:
        """Follows them until cancelled."""
        async for event, obj in api.follow(SECRETS):
            metadata = obj["metadata"]
            key = f"{metadata['namespace']}/{metadata['name']}"
            data = obj.get("data") or {}
            if event == "DELETED":
                self._data.pop(key, None)
            elif self._data.get(key) != data:
                self._data[key] = data
                if waited := self._changed.pop(key, None):
                    waited.set()

    async def read(self, key: str) -> dict[str, bytes]:
        """The content of a Secret (``namespace/name``); waits for it to exist."""
        while key not in self._data:
            await self._changed[key].wait()
        return {name: base64.b64decode(value) for name, value in self._data[key].items()}

    async def change(self, key: str) -> None:
        """Returns when the Secret's content has changed."""
        await self._changed[key].wait()


class Volumes:
    """The volumes of one pod.

    :param pod_folder: folder of what lives as long as the pod.
    :param host_folder: the disk of the host, for hostPath volumes.
    :param claims: the folder that any PersistentVolumeClaim stands for.
    """

    def __init__(self, pod: Json, secrets: Secrets, *, pod_folder: Path, host_folder: Path, claims: Path) -> None:
        self._secrets = secrets
        self._namespace = pod["metadata"]["namespace"]
        self._folder = pod_folder
        self._mounted: dict[str, str] = {}
        self._written: dict[str, dict[str, bytes]] = {}
        self.paths: dict[str, Path] = {}
        """The folder of each volume, by the volume's name."""
        for volume in pod["spec"].get("volumes") or []:
            self.paths[volume["name"]] = self._place(volume, host_folder, claims)

    def _place(self, volume: Json, host_folder: Path, claims: Path) -> Path:
        if "persistentVolumeClaim" in volume:
            return claims
        if "hostPath" in volume:
            return host_folder / str(volume["hostPath"]["path"]).lstrip("/")
        if "secret" in volume:
            self._mounted[volume["name"]] = f"{self._namespace}/{volume['secret']['secretName']}"
        return self._folder / str(volume["name"])

    async def mount(self) -> None:
        """Makes all folders; waits for Secrets that do not exist yet."""
        for path in self.paths.values():
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, key in self._mounted.items():
            await self._write(name, key)

    async def refresh(self) -> None:
        """Rewrites Secrets as they change, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for name, key in self._mounted.items():
                group.create_task(self._refresh(name, key))

    async def _refresh(self, name: str, key: str) -> None:
        while True:
            await self._write(name, key)
            await self._secrets.change(key)

    async def _write(self, name: str, key: str) -> None:
        content = await self._secrets.read(key)
        if content != self._written.get(name):
            write_secret(self.paths[name], content)
            self._written[name] = content

    def remove(self) -> None:
        """Removes what lives only as long as the pod."""
        shutil.rmtree(self._folder, ignore_errors=True)


def write_secret(folder: Path, content: Mapping[str, bytes]) -> None:
    """Makes the folder show exactly these files (mode 0600), all at once."""
    fresh = folder / f"..{uuid4().hex}"
    fresh.mkdir(mode=0o700)
    for name, data in content.items():
        file = fresh / name
        file.touch(mode=0o600)
        file.write_bytes(data)
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(Path("..data") / name)
    pointer, old = folder / "..data", (folder / "..data").resolve()
    temporary = folder / "..data_new"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(fresh.name)
    temporary.replace(pointer)
    for link in folder.iterdir():
        if link.is_symlink() and link.name != "..data" and link.name not in content:
            link.unlink()
    if old != fresh and old.name.startswith("..") and old.parent == folder.resolve():
        shutil.rmtree(old, ignore_errors=True)


def localised(argument: str, mounts: Mapping[str, Path]) -> str:
    """An argument of a container with the mount paths in it replaced by the folders that stand for them."""
    for mount in sorted(mounts, key=len, reverse=True):
        head, found, tail = argument.partition(mount)
        if found and (not head or head[-1] in "=:,") and (not tail or tail[0] in "/,:"):
            return f"{head}{mounts[mount]}{tail}"
    return argument
