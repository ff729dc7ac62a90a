"""The manager's client against servers that do not do as they should, over real gRPC with mutual TLS."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from dpf.gnxi.dms import CHUNK
from dpf.gnxi.gen import gnoi_os_pb2 as os_pb2
from dpf.gnxi.gen import gnoi_os_pb2_grpc as os_grpc
from dpf.provisioning.dpu import dms
from dpf.provisioning.dpu.dms import DmsClient, dial
from dpf.provisioning.dpu.install import NoRoom, Refused, Unreachable
from dpf.provisioning.volume import Volume, VolumeFile
from test.unit.dms.fakes import CA, CLIENT

READY = os_pb2.InstallResponse(transfer_ready=os_pb2.TransferReady())
PROGRESS = os_pb2.InstallResponse(transfer_progress=os_pb2.TransferProgress(bytes_received=1))
FULL = os_pb2.InstallResponse(
    install_error=os_pb2.InstallError(type=os_pb2.InstallError.TOO_LARGE, detail="the disk is full")
)
BIG = b"x" * (16 << 20)

Install = Callable[[AsyncIterator[Any]], AsyncIterator[Any]]


class Os(os_grpc.OSServicer):
    """Answers an Install as the test says, and an Activate with ``code``."""

    def __init__(self, install: Install | None, code: grpc.StatusCode | None) -> None:
        self._install = install
        self._code = code

    async def Install(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802
        assert self._install is not None
        async for answer in self._install(requests):
            yield answer

    async def Activate(self, request: Any, context: Any) -> Any:  # noqa: N802
        if self._code is not None:
            await context.abort(self._code, "no")
        error = os_pb2.ActivateError(type=os_pb2.ActivateError.NON_EXISTENT_VERSION, detail="x.bfb is not there")
        return os_pb2.ActivateResponse(activate_error=error)


@asynccontextmanager
async def against(install: Install | None = None, code: grpc.StatusCode | None = None) -> AsyncIterator[DmsClient]:
    server = grpc.aio.server()
    pair = CA.issue("server", purposes=["server"], names=["127.0.0.1"])
    credentials = grpc.ssl_server_credentials([(pair.key, pair.cert)], pair.ca, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    os_grpc.add_OSServicer_to_server(Os(install, code), server)  # type: ignore[no-untyped-call]
    await server.start()
    try:
        async with dial(f"127.0.0.1:{port}", CLIENT) as client:
            yield client
    finally:
        await server.stop(None)


def validated(version: str) -> Any:
    return os_pb2.InstallResponse(validated=os_pb2.Validated(version=version))


async def test_the_proxy_that_images_come_through_is_none_to_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_grpc_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async def install(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        yield validated("x.bfb")

    async with against(install) as client:
        await client.install("x.bfb", b"x")


async def test_another_version_than_was_sent_fails(tmp_path: Path) -> None:
    async def install(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        yield validated("y.bfb")

    async with against(install) as client:
        with pytest.raises(Refused, match=r"validated 'y\.bfb' where 'x\.bfb' was sent"):
            await client.install("x.bfb", b"x")


async def test_what_is_there_is_not_sent() -> None:
    sent: list[str] = []

    async def install(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            sent.append(request.WhichOneof("request"))
            yield validated("x.bfb")

    async with against(install) as client:
        await client.install("x.bfb", BIG)
    assert sent == ["transfer_request"]


async def test_a_refusal_in_the_middle_of_a_transfer_is_told_as_it_was_said() -> None:
    async def install(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        yield READY
        async for request in requests:
            if request.WhichOneof("request") == "transfer_content":
                yield FULL
                return

    async with against(install) as client:
        with pytest.raises(Refused, match="TOO_LARGE: the disk is full"):
            await client.install("x.bfb", BIG)


async def test_a_stream_that_ends_without_a_word_may_be_tried_again() -> None:
    async def install(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        yield READY

    async with against(install) as client:
        with pytest.raises(Unreachable):
            await client.install("x.bfb", b"x")


@pytest.mark.parametrize("reads", [False, True], ids=["takes nothing", "answers nothing"])
async def test_a_transfer_in_which_nothing_moves_is_given_up(monkeypatch: pytest.MonkeyPatch, reads: bool) -> None:
    monkeypatch.setattr(dms, "SILENCE", 0.3)

    async def install(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        yield READY
        if reads:
            async for _ in requests:
                pass
        await asyncio.Event().wait()

    async with against(install) as client:
        with pytest.raises(Unreachable, match=r"said nothing for 0\.3 s"):
            await client.install("x.bfb", BIG)


async def test_whatever_moves_either_way_puts_the_end_off() -> None:
    async def install(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        yield READY
        async for request in requests:
            yield validated("x.bfb") if request.WhichOneof("request") == "transfer_end" else PROGRESS

    moved: list[None] = []
    async with against(install) as client:
        stream = client._os.Install()
        await client._answer(stream, "x.bfb")
        await client._transfer(stream, "x.bfb", b"x" * (3 * CHUNK), lambda: moved.append(None))
    assert len(moved) == 6, "three chunks sent, three reports of progress"


async def test_an_image_that_cannot_be_read_is_no_fault_of_the_server(tmp_path: Path) -> None:
    async def install(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        yield READY
        async for _ in requests:
            pass

    async with against(install) as client:
        with pytest.raises(FileNotFoundError):
            await client.install("x.bfb", VolumeFile(Volume(tmp_path), tmp_path / "x.bfb"))
        with pytest.raises(IsADirectoryError):
            await client.install("x.bfb", VolumeFile(Volume(tmp_path), tmp_path))


async def test_an_activation_that_is_refused_in_the_answer_fails() -> None:
    async with against() as client:
        with pytest.raises(Refused, match=r"NON_EXISTENT_VERSION: x\.bfb is not there"):
            await client.activate("x.bfb;d.cfg")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, Unreachable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Unreachable),
        (grpc.StatusCode.UNKNOWN, Unreachable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, NoRoom),
        (grpc.StatusCode.FAILED_PRECONDITION, Refused),
        (grpc.StatusCode.UNIMPLEMENTED, Refused),
        (grpc.StatusCode.PERMISSION_DENIED, Refused),
    ],
)
async def test_codes_tell_whether_another_try_may_do_better(code: grpc.StatusCode, kind: type[Exception]) -> None:
    async with against(code=code) as client:
        with pytest.raises(kind, match=code.name):
            await client.activate("x.bfb;d.cfg")


def test_an_idle_manager_does_not_carry_grpc() -> None:
    check = "import sys, dpf.provisioning.dpu.dms; sys.exit('grpc' in sys.modules or 'google.protobuf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
