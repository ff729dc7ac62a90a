"""The gNMI service over one card: its mode, its firmware, and when its host was booted."""

from __future__ import annotations

import errno
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
from gnmi_pb import gnmi_pb2, gnmi_pb2_grpc

from dpf.dms.card import Card, CardError
from dpf.gnxi import dms

Context = grpc.aio.ServicerContext[Any, Any]


class Gnmi(gnmi_pb2_grpc.gNMIServicer):  # type: ignore[misc]
    """Get and Set of the card's mode; Get of its firmware's versions and of the host's boot time."""

    def __init__(self, card: Card) -> None:
        self._card = card

    async def Capabilities(self, request: Any, context: Context) -> Any:
        """What is spoken."""
        return gnmi_pb2.CapabilityResponse(supported_encodings=[gnmi_pb2.PROTO], gNMI_version="0.10.0")

    async def Get(self, request: Any, context: Context) -> Any:
        """The values of known paths, a notification for each path that was asked for.

        An unknown one is NOT_FOUND. One with a wildcard has as many values as are known, possibly none.
        """
        notifications = []
        for path in request.path:
            updates = [gnmi_pb2.Update(path=found, val=value) async for found, value in self._values(path, context)]
            notifications.append(gnmi_pb2.Notification(timestamp=time.time_ns(), update=updates))
        return gnmi_pb2.GetResponse(notification=notifications)

    async def Set(self, request: Any, context: Context) -> Any:
        """Changes the mode; what asks for anything else besides is refused whole."""
        try:
            modes = _modes(request)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        results = []
        for path, mode in modes:
            try:
                await self._card.set_mode(mode)
            except CardError as error:
                await context.abort(code_of(error), str(error))
            results.append(gnmi_pb2.UpdateResult(path=path, op=gnmi_pb2.UpdateResult.UPDATE))
        return gnmi_pb2.SetResponse(response=results, timestamp=time.time_ns())

    async def _values(self, path: Any, context: Context) -> AsyncIterator[tuple[Any, Any]]:
        names = _names(path)
        try:
            if names == dms.MODE_PATH:
                yield path, gnmi_pb2.TypedValue(string_val=await self._card.mode())
                return
            if names == dms.BOOT_TIME_PATH:
                yield path, gnmi_pb2.TypedValue(uint_val=await self._card.boot_time())
                return
            if names == dms.FIRMWARE_PATH:
                wanted = path.elem[1].key.get("name", dms.ANY)
                versions = await self._card.firmware()
                known = {part: version for part, version in versions.items() if version and wanted in (dms.ANY, part)}
                for part, version in known.items():
                    yield firmware_path(part), gnmi_pb2.TypedValue(string_val=version)
                if known or wanted == dms.ANY:
                    return
        except CardError as error:
            await context.abort(code_of(error), str(error))
        await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no /{'/'.join(names)}")


def firmware_path(part: str) -> Any:
    """Where the version of a part's firmware is."""
    keys = [{}, {"name": part}, {}, {}]
    elements = [gnmi_pb2.PathElem(name=name, key=key) for name, key in zip(dms.FIRMWARE_PATH, keys, strict=True)]
    return gnmi_pb2.Path(elem=elements)


def code_of(error: CardError | OSError) -> grpc.StatusCode:
    """The code that tells a client of a card's error, or of a disk's: that may pass."""
    if isinstance(error, OSError):
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        return grpc.StatusCode.RESOURCE_EXHAUSTED if full else grpc.StatusCode.UNAVAILABLE
    return grpc.StatusCode.UNAVAILABLE if error.passing else grpc.StatusCode.FAILED_PRECONDITION


def _modes(request: Any) -> list[tuple[Any, str]]:
    """The modes that a Set asks for, with their paths.

    :raises ValueError: if it asks for something that cannot be done, for all of it.
    """
    if request.delete:
        raise ValueError(f"/{'/'.join(_names(request.delete[0]))} cannot be deleted")
    found = []
    for update in [*request.replace, *request.update]:
        path = "/".join(_names(update.path))
        if _names(update.path) != dms.MODE_PATH:
            raise ValueError(f"/{path} cannot be set")
        if update.val.WhichOneof("value") != "string_val":
            raise ValueError(f"/{path} takes a string_val")
        found.append((update.path, update.val.string_val))
    return found


def _names(path: Any) -> tuple[str, ...]:
    return tuple(element.name for element in path.elem)
