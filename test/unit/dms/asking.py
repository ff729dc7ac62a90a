"""What clients of DMS do in tests, and what they send."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpf.dms.images import Images
from dpf.gnxi.gen import gnoi_os_pb2 as os_pb2
from dpf.host import files
from dpf.provisioning.dpu.dms import DmsClient
from dpf.provisioning.dpu.install import Report

IMAGE = b"bfb" * 100_000


CONFIG = b"# bf.cfg\n"


async def settled(client: DmsClient) -> Report:
    async with asyncio.timeout(20):
        while (report := await client.report()).active:
            await asyncio.sleep(0.01)
    return report


async def installed(client: DmsClient, image: bytes = IMAGE, bf_cfg: bytes = CONFIG) -> None:
    await client.install("x.bfb", image)
    await client.install("d.cfg", bf_cfg)


async def begun(client: DmsClient, size: int = 0) -> Any:
    """An Install of x.bfb; its first answer is read."""
    stream = client._os.Install()
    request = os_pb2.TransferRequest(version="x.bfb", package_size=size)
    await stream.write(os_pb2.InstallRequest(transfer_request=request))
    await stream.read()
    return stream


class Hang:
    """A piece of work on the volume, which falls silent the first time that it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.begun, self.free, self.ended = threading.Event(), threading.Event(), threading.Event()
        work = getattr(Images, name)

        def hang(images: Images, *arguments: Any) -> Any:
            if not self.begun.is_set():
                self.begun.set()
                assert self.free.wait(20)
            try:
                return work(images, *arguments)
            finally:
                self.ended.set()

        monkeypatch.setattr(Images, name, hang)


def failing(code: int, *, only: str = "") -> Callable[..., None]:
    """A disk that does not take files, or those of one name."""
    put = files.put

    def fails(path: Path, content: str | bytes, **options: Any) -> None:
        if only in path.name:
            raise OSError(code, os.strerror(code))
        put(path, content, **options)

    return fails
