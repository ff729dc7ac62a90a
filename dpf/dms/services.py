"""The gNOI services over one card: OS for images, System for reboots.

What is not served answers UNIMPLEMENTED, as gRPC does by itself. Errors of a call are gRPC's codes; errors of an installation or
activation are the messages that gNOI has for them.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, BinaryIO

import grpc

from dpf.dms.activation import Activator, Busy, NoSuchVersion
from dpf.dms.card import CardError
from dpf.dms.gnmi import code_of
from dpf.dms.hostreboot import HostReboots
from dpf.dms.images import SILENT, BadName, Images
from dpf.gnxi import dms
from dpf.gnxi.gen import (
    gnoi_os_pb2,
    gnoi_os_pb2_grpc,
    gnoi_system_pb2,
    gnoi_system_pb2_grpc,
)
from dpf.runtime import threads
from dpf.runtime.log import get_logger
from dpf.runtime.threads import Line

log = get_logger(__name__)

PROGRESS_EVERY = 4 << 20
"""Bytes of an image between two reports of progress: real targets answer every few MB."""
SILENCE = 60.0
"""Seconds without a message that end a transfer: its sender may be gone without a word, and others wait for it."""
LET_GO = 1.0
"""Seconds that the end of a transfer waits for what the volume still does of it."""

Context = grpc.aio.ServicerContext[Any, Any]
Error = gnoi_os_pb2.InstallError
Status = gnoi_system_pb2.RebootStatus


class InstallFailure(Exception):
    """An installation ends with gNOI's InstallError."""

    def __init__(self, kind: Any, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


class Os(gnoi_os_pb2_grpc.OSServicer):
    """Install, Activate, Verify."""

    def __init__(self, images: Images, activator: Activator) -> None:
        self._images = images
        self._activator = activator
        self._installing: set[str] = set()

    async def Install(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        """Takes an image or a bf.cfg; one that is there complete is validated without a transfer."""
        try:
            async with aclosing(self._install(requests)) as responses:
                async for response in responses:
                    yield response
        except InstallFailure as failure:
            log.warning("install_refused", kind=Error.Type.Name(failure.kind), detail=failure.detail)
            yield _failed(failure.kind, failure.detail)
        except OSError as error:
            log.warning("install_failed", error=str(error))
            await context.abort(code_of(error), _disk(error, "the image folder"))

    async def _install(self, requests: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("request") != "transfer_request":
            raise InstallFailure(Error.PARSE_FAIL, "the first message must be a transfer_request")
        version, size = first.transfer_request.version, first.transfer_request.package_size
        self._check(version, size)
        is_config = version.endswith(dms.CONFIG_SUFFIX)
        if not is_config and await self._complete(version, size):
            yield _validated(version)
            return
        if version in self._installing:
            raise InstallFailure(Error.INSTALL_IN_PROGRESS, f"{version} is being transferred already")
        # Who sends may be gone while the volume keeps a write: the next transfer of that version must not write beside it.
        volume = Line()
        self._installing.add(version)
        volume.ended.add_done_callback(lambda _: self._installing.discard(version))
        try:
            yield gnoi_os_pb2.InstallResponse(transfer_ready=gnoi_os_pb2.TransferReady())
            take = self._take_config if is_config else self._take_image
            async with aclosing(take(volume, version, size, requests)) as responses:
                async for response in responses:
                    yield response
        finally:
            await volume.close(LET_GO)
        log.info("installed", version=version)
        yield _validated(version)

    def _check(self, version: str, size: int) -> None:
        try:
            self._images.path(version)
        except BadName as error:
            raise InstallFailure(Error.INCOMPATIBLE, str(error)) from error
        if version.endswith(dms.CONFIG_SUFFIX) and size > dms.CONFIG_LIMIT:
            raise InstallFailure(Error.TOO_LARGE, f"a bf.cfg may have {dms.CONFIG_LIMIT} bytes, not {size}")

    async def _complete(self, version: str, size: int) -> bool:
        path = str(self._images.path(version))
        return await threads.within(SILENT, path, self._images.complete, version, size)

    def _check_room(self, version: str, size: int) -> None:
        if (room := self._images.room()) < size:
            raise OSError(errno.ENOSPC, f"{version} has {size} bytes, there is room for {room}")

    async def _take_config(
        self, volume: Line, version: str, size: int, requests: AsyncIterator[Any]
    ) -> AsyncGenerator[Any, None]:
        data = bytearray()
        async for content in _content(requests):
            data += content
            if len(data) > dms.CONFIG_LIMIT:
                raise InstallFailure(Error.TOO_LARGE, f"a bf.cfg may have {dms.CONFIG_LIMIT} bytes")
        _check_size(version, len(data), size)
        await self._activator.forgotten()
        await volume.outcome(self._images.write_config, version, bytes(data))
        yield _progress(len(data))

    async def _take_image(
        self, volume: Line, version: str, size: int, requests: AsyncIterator[Any]
    ) -> AsyncGenerator[Any, None]:
        opening = volume.add(self._images.begin, version)
        try:
            file, part = await asyncio.wrap_future(opening)
            await volume.outcome(self._check_room, version, size)
            async for received in _written(volume, file, requests, version, size):
                yield _progress(received)
            _check_size(version, file.tell(), size)
            await volume.outcome(self._images.finish, version, file, part)
        finally:
            # It may be opened when nobody waits for it any more.
            volume.add(lambda: self._images.drop(*opening.result()))

    async def Activate(self, request: Any, context: Context) -> Any:
        """Begins an activation, or finds it begun."""
        try:
            await self._activator.activate(request.version)
        except NoSuchVersion as error:
            return _not_activated(gnoi_os_pb2.ActivateError.NON_EXISTENT_VERSION, str(error))
        except Busy as error:
            return _not_activated(gnoi_os_pb2.ActivateError.UNSPECIFIED, str(error))
        except OSError as error:
            await context.abort(code_of(error), _disk(error, "the image or state folder"))
        return gnoi_os_pb2.ActivateResponse(activate_ok=gnoi_os_pb2.ActivateOK())

    async def Verify(self, request: Any, context: Context) -> Any:
        """What runs, and why the latest activation failed if it did."""
        activation = self._activator.current
        failed = activation.message if activation is not None and activation.over else ""
        running = activation.version if activation is not None and activation.progress == "done" else ""
        return gnoi_os_pb2.VerifyResponse(version=running, activation_fail_message=failed)


class System(gnoi_system_pb2_grpc.SystemServicer):
    """Time, Reboot of the host, RebootStatus of the card."""

    def __init__(self, activator: Activator, reboots: HostReboots) -> None:
        self._activator = activator
        self._reboots = reboots

    async def Time(self, request: Any, context: Context) -> Any:
        """This host's clock."""
        return gnoi_system_pb2.TimeResponse(time=time.time_ns())

    async def Reboot(self, request: Any, context: Context) -> Any:
        """Reboots the host, once per ``message``: the whole of it and now, so anything else that is asked for is refused."""
        try:
            method = gnoi_system_pb2.RebootMethod.Name(request.method)
            await self._reboots.ask(request.message, method, _power(request))
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except CardError as error:
            await context.abort(code_of(error), str(error))
        except OSError as error:
            await context.abort(code_of(error), _disk(error, "the state folder"))
        return gnoi_system_pb2.RebootResponse()

    async def RebootStatus(self, request: Any, context: Context) -> Any:
        """How the card's latest activation stands; named without CPU, how the host's reboot does."""
        names = {element.name for path in request.subcomponents for element in path.elem}
        if names and dms.CPU not in names:
            failure = self._reboots.failure
            status = Status(status=Status.STATUS_FAILURE if failure else Status.STATUS_UNKNOWN, message=failure)
            return gnoi_system_pb2.RebootStatusResponse(active=self._reboots.active, status=status)
        return self._activation_status()

    def _activation_status(self) -> Any:
        activation, seen = self._activator.current, self._activator.seen
        if activation is None:
            return gnoi_system_pb2.RebootStatusResponse(status=Status(status=Status.STATUS_UNKNOWN))
        version = activation.version.partition(dms.SEPARATOR)[0]
        if activation.running:
            reason = f"{seen.state.value} {version}: {seen.percent} %"
            return gnoi_system_pb2.RebootStatusResponse(active=True, reason=reason)
        code = {
            "done": Status.STATUS_SUCCESS,
            "passing": Status.STATUS_RETRIABLE_FAILURE,
        }.get(activation.progress, Status.STATUS_FAILURE)
        return gnoi_system_pb2.RebootStatusResponse(
            reason=f"{activation.progress} {version}", status=Status(status=code, message=activation.message)
        )


def _power(request: Any) -> str:
    """How a request for a reboot wants the host's power to be handled.

    :raises ValueError: if it wants something else than the host's reboot at once.
    """
    if request.delay:
        raise ValueError("a reboot cannot be delayed: ask when it is time")
    for path in request.subcomponents:
        names = [element.name for element in path.elem]
        if names != [dms.CHASSIS]:
            raise ValueError(f"{'/'.join(names)} cannot be rebooted by itself, only the host: {dms.CHASSIS}")
    return next((path.elem[0].key.get(dms.POWER, "") for path in request.subcomponents), "") or "reset"


async def _content(requests: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    """The chunks up to the end; a stream that breaks off before it is a failure."""
    while True:
        try:
            async with asyncio.timeout(SILENCE):
                request = await anext(aiter(requests), None)
        except TimeoutError:
            raise InstallFailure(Error.INTEGRITY_FAIL, f"nothing was sent for {SILENCE:g} s") from None
        if request is None:
            raise InstallFailure(Error.INTEGRITY_FAIL, "the transfer ended before transfer_end")
        match request.WhichOneof("request"):
            case "transfer_content":
                yield request.transfer_content
            case "transfer_end":
                return
            case _:
                raise InstallFailure(Error.PARSE_FAIL, "expected transfer_content or transfer_end")


async def _written(
    volume: Line, file: BinaryIO, requests: AsyncIterator[Any], version: str, size: int
) -> AsyncIterator[int]:
    """Writes the chunks; yields how many bytes are on disk every few MB."""
    received, told = 0, 0
    async for content in _content(requests):
        await volume.outcome(file.write, content)
        received += len(content)
        if received > size > 0:
            _check_size(version, received, size)
        if received - told >= PROGRESS_EVERY:
            told = received
            # Now and not at the end alone: the sender would hear nothing while a whole image goes to disk.
            await volume.outcome(file.flush)
            await volume.outcome(os.fsync, file.fileno())
            yield received


def _check_size(version: str, got: int, size: int) -> None:
    if size and got != size:
        raise InstallFailure(Error.INTEGRITY_FAIL, f"{version}: got {got} of {size} bytes")


def _disk(error: OSError, where: str) -> str:
    """What a disk that does not take something says to whoever has to mend it."""
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    what = f"{error.filename or where}: {error.strerror}"
    return f"{what}; free space on the volume of {where}" if full else what


def _validated(version: str) -> Any:
    return gnoi_os_pb2.InstallResponse(validated=gnoi_os_pb2.Validated(version=version))


def _progress(received: int) -> Any:
    return gnoi_os_pb2.InstallResponse(transfer_progress=gnoi_os_pb2.TransferProgress(bytes_received=received))


def _failed(kind: Any, detail: str) -> Any:
    return gnoi_os_pb2.InstallResponse(install_error=gnoi_os_pb2.InstallError(type=kind, detail=detail))


def _not_activated(kind: Any, detail: str) -> Any:
    error = gnoi_os_pb2.ActivateError(type=kind, detail=detail)
    return gnoi_os_pb2.ActivateResponse(activate_error=error)
