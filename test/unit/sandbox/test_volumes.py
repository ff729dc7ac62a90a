"""Secrets become files as the kubelet makes them."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest

from dpf.sandbox.fleet.volumes import Secrets, Volumes, localised, write_secret


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.startswith("..")}


def test_secret_is_a_file_per_key_that_only_its_owner_reads(tmp_path: Path) -> None:
    write_secret(tmp_path, {"tls.crt": b"certificate", "tls.key": b"key"})
    assert content(tmp_path) == {"tls.crt": b"certificate", "tls.key": b"key"}
    assert (tmp_path / "tls.key").stat().st_mode & 0o777 == 0o600


def test_changed_secret_replaces_all_its_files(tmp_path: Path) -> None:
    write_secret(tmp_path, {"tls.crt": b"old", "gone": b"x"})
    write_secret(tmp_path, {"tls.crt": b"new", "tls.key": b"key"})
    assert content(tmp_path) == {"tls.crt": b"new", "tls.key": b"key"}
    assert len([entry for entry in tmp_path.iterdir() if entry.name.startswith("..")]) == 2


class OneSecret:
    """Follows like an API server that has one Secret, told by the test."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()

    def tell(self, value: bytes) -> None:
        data = {"tls.crt": base64.b64encode(value).decode()}
        self.events.put_nowait(("MODIFIED", {"metadata": {"namespace": "ns", "name": "cert"}, "data": data}))

    async def follow(self, _: str) -> Any:
        while True:
            yield await self.events.get()


async def test_mounting_waits_for_the_secret_and_follows_its_changes(tmp_path: Path) -> None:
    server, secrets = OneSecret(), Secrets()
    pod = {"metadata": {"namespace": "ns"}, "spec": {"volumes": [{"name": "server", "secret": {"secretName": "cert"}}]}}
    volumes = Volumes(pod, secrets, pod_folder=tmp_path / "pod", host_folder=tmp_path, claims=tmp_path)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(secrets.run(server))  # type: ignore[arg-type]
        mounting = group.create_task(volumes.mount())
        server.tell(b"first")
        await mounting
        assert content(tmp_path / "pod" / "server") == {"tls.crt": b"first"}
        refreshing = group.create_task(volumes.refresh())
        await asyncio.sleep(0)
        changed = group.create_task(secrets.change("ns/cert"))
        await asyncio.sleep(0)
        server.tell(b"second")
        await changed
        await asyncio.sleep(0)
        watching.cancel()
        refreshing.cancel()
    assert content(tmp_path / "pod" / "server") == {"tls.crt": b"second"}


def test_claims_and_host_paths_are_shared_folders(tmp_path: Path) -> None:
    volumes = [
        {"name": "bfb", "persistentVolumeClaim": {"claimName": "bfb-pvc"}},
        {"name": "state", "hostPath": {"path": "/var/lib/dms"}},
    ]
    pod = {"metadata": {"namespace": "ns"}, "spec": {"volumes": volumes}}
    made = Volumes(pod, Secrets(), pod_folder=tmp_path / "pod", host_folder=tmp_path / "host", claims=tmp_path / "bfb")
    assert made.paths == {"bfb": tmp_path / "bfb", "state": tmp_path / "host" / "var/lib/dms"}


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("/bfb", "/data"),
        ("/bfb/x.bfb", "/data/x.bfb"),
        ("--image-folder=/bfb", "--image-folder=/data"),
        ("/bfb-other", "/bfb-other"),
        ("/mnt/bfb", "/mnt/bfb"),
        ("plain", "plain"),
    ],
)
def test_mount_paths_in_arguments_become_local_paths(argument: str, expected: str) -> None:
    assert localised(argument, {"/bfb": Path("/data")}) == expected
