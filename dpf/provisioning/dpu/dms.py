"""The manager's side of DMS: gNMI and gNOI over mutual TLS, one connection per piece of work.

Every call has a deadline, a transfer one on silence. What gRPC or gNOI answers becomes one of three errors: after
:class:`Unreachable` another try may do better, after :class:`NoRoom` once somebody has made some, after :class:`Refused` it
won't. gRPC is imported when the first connection is opened: an idle manager need not carry it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from dpf.gnxi import dms as wire
from dpf.provisioning.dpu.install import NoRoom, Refused, Report, Unreachable
from dpf.provisioning.dpu.rebootpolicy import Policy
from dpf.provisioning.volume import VolumeFile
from dpf.runtime.certs import KeyPair
from dpf_api.dpu import Firmware

if TYPE_CHECKING:
    import grpc.aio

CALL_TIMEOUT = 15.0
"""Seconds for a call without content."""
SILENCE = 60.0
"""Seconds without a message, either way, that end a transfer."""
TOOL_TIMEOUT = 60.0
"""Seconds for a call that makes DMS run the firmware's tools."""
PASSING = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED", "INTERNAL", "UNKNOWN"}
"""gRPC codes after which the same call may succeed; INTERNAL is what gRPC makes of a stream that breaks under it, UNKNOWN of a
server's exception that it does not handle."""
NO_ROOM = "RESOURCE_EXHAUSTED"
"""gRPC code of a DMS whose volume is full."""
PASSING_INSTALL = {"INSTALL_IN_PROGRESS"}
_PERCENT = re.compile(r"(\d+) ?%")


@asynccontextmanager
async def dial(address: str, pair: KeyPair) -> AsyncIterator[DmsClient]:
    """A connection to the DMS at ``HOST:PORT``; it is made when first used."""
    import grpc

    credentials = grpc.ssl_channel_credentials(pair.ca, pair.key, pair.cert)
    # Channels are not shared between connections, or a DMS with another certificate would be reached by an old one.
    # The environment's proxy is for images that come from outside; cards are where no proxy leads.
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),
    ]
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        yield DmsClient(channel, address)


class DmsClient:
    """The calls that provisioning makes. Each raises :class:`Unreachable`, :class:`NoRoom` or :class:`Refused`."""

    def __init__(self, channel: grpc.aio.Channel, address: str) -> None:
        from gnmi_pb import gnmi_pb2_grpc

        from dpf.gnxi.gen import gnoi_os_pb2_grpc, gnoi_system_pb2_grpc

        self._address = address
        self._gnmi: Any = gnmi_pb2_grpc.gNMIStub(channel)
        self._os: Any = gnoi_os_pb2_grpc.OSStub(channel)  # type: ignore[no-untyped-call]
        self._system: Any = gnoi_system_pb2_grpc.SystemStub(channel)  # type: ignore[no-untyped-call]

    async def set_mode(self, mode: str) -> None:
        """Sets the card's mode of operation."""
        from gnmi_pb import gnmi_pb2

        path = gnmi_pb2.Path(elem=[gnmi_pb2.PathElem(name=name) for name in wire.MODE_PATH])
        update = gnmi_pb2.Update(path=path, val=gnmi_pb2.TypedValue(string_val=mode))
        await self._call(self._gnmi.Set, gnmi_pb2.SetRequest(update=[update]), timeout=TOOL_TIMEOUT)

    async def install(self, version: str, content: VolumeFile | bytes) -> bool:
        """Hands over an image or a bf.cfg; nothing is sent of what is there already.

        :returns: whether anything was sent.
        :raises OSError: if the image cannot be read.
        """
        import grpc

        from dpf.gnxi.gen import gnoi_os_pb2 as os_pb2

        size = len(content) if isinstance(content, bytes) else await content.size()
        stream = self._os.Install()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(SILENCE) as limit:
                request = os_pb2.TransferRequest(version=version, package_size=size)
                with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    # A stream that has ended takes nothing, and why is what is heard.
                    await stream.write(os_pb2.InstallRequest(transfer_request=request))
                if sent := await self._answer(stream, version) == "transfer_ready":
                    await self._transfer(stream, version, content, lambda: limit.reschedule(loop.time() + SILENCE))
                return sent
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from error
        except TimeoutError:
            raise Unreachable(f"DMS at {self._address} said nothing for {SILENCE:g} s during a transfer") from None
        finally:
            stream.cancel()

    async def activate(self, version: str) -> None:
        """Begins the activation of ``IMAGE;CONFIG``; repeated, it does nothing."""
        from dpf.gnxi.gen import gnoi_os_pb2 as os_pb2

        answer = await self._call(self._os.Activate, os_pb2.ActivateRequest(version=version))
        if answer.WhichOneof("response") == "activate_error":
            error = answer.activate_error
            raise Refused(f"{os_pb2.ActivateError.Type.Name(error.type)}: {error.detail}")

    async def report(self) -> Report:
        """How the card stands."""
        from dpf.gnxi.gen import gnoi_system_pb2 as system_pb2
        from dpf.gnxi.gen import gnoi_types_pb2 as types_pb2

        path = types_pb2.Path(elem=[types_pb2.PathElem(name=wire.CPU)])
        answer = await self._call(self._system.RebootStatus, system_pb2.RebootStatusRequest(subcomponents=[path]))
        outcome = {
            system_pb2.RebootStatus.STATUS_SUCCESS: "success",
            system_pb2.RebootStatus.STATUS_FAILURE: "failure",
            system_pb2.RebootStatus.STATUS_RETRIABLE_FAILURE: "retriable",
        }.get(answer.status.status, "unknown")
        text = answer.status.message or answer.reason
        percent = _PERCENT.search(answer.reason)
        return Report(answer.active, outcome, text, int(percent[1]) if percent else 0)

    async def firmware(self) -> Firmware | None:
        """Versions of the card's firmware, as far as it tells; None if it tells none."""
        from gnmi_pb import gnmi_pb2

        elements = [gnmi_pb2.PathElem(name=name) for name in wire.FIRMWARE_PATH]
        elements[1].key["name"] = wire.ANY
        request = gnmi_pb2.GetRequest(path=[gnmi_pb2.Path(elem=elements)])
        answer = await self._call(self._gnmi.Get, request, timeout=TOOL_TIMEOUT)
        updates = [update for notification in answer.notification for update in notification.update]
        found = {
            element.key["name"]: update.val.string_val
            for update in updates
            for element in update.path.elem
            if element.key.get("name") in wire.PARTS
        }
        return Firmware(**found) if found else None

    async def reboot(self, policy: Policy, request: str) -> None:
        """Asks for a reboot of the host; repeated with the same request, it does nothing."""
        from dpf.gnxi.gen import gnoi_system_pb2 as system_pb2
        from dpf.gnxi.gen import gnoi_types_pb2 as types_pb2

        chassis = types_pb2.PathElem(name=wire.CHASSIS, key={wire.POWER: policy.power or ""})
        body = system_pb2.RebootRequest(
            method=policy.method,
            message=request,
            subcomponents=[types_pb2.Path(elem=[chassis])],
        )
        await self._call(self._system.Reboot, body)

    async def reboot_failure(self) -> str:
        """Why the latest reboot that was asked for could not be carried out; empty if nothing is known to have failed."""
        from dpf.gnxi.gen import gnoi_system_pb2 as system_pb2
        from dpf.gnxi.gen import gnoi_types_pb2 as types_pb2

        path = types_pb2.Path(elem=[types_pb2.PathElem(name=wire.CHASSIS)])
        answer = await self._call(self._system.RebootStatus, system_pb2.RebootStatusRequest(subcomponents=[path]))
        if answer.status.status != system_pb2.RebootStatus.STATUS_FAILURE:
            return ""
        return answer.status.message or answer.reason or "DMS gives no reason"

    async def _call(self, method: Any, request: Any, *, timeout: float = CALL_TIMEOUT) -> Any:
        import grpc

        try:
            return await method(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from error

    async def _answer(self, stream: Any, version: str) -> str:
        """What kind of answer the next one is.

        :raises Refused: if it is an error, or another version than was sent is there.
        :raises Unreachable: if the stream ends before, or the error passes.
        """
        from dpf.gnxi.gen import gnoi_os_pb2 as os_pb2

        # Not read(): that withholds what arrived before the stream broke.
        answer = await anext(aiter(stream), None)
        if answer is None:
            raise Unreachable(f"DMS at {self._address} ended the transfer of {version} without a word")
        kind: str = answer.WhichOneof("response") or ""
        if kind == "install_error":
            name = os_pb2.InstallError.Type.Name(answer.install_error.type)
            error = Unreachable if name in PASSING_INSTALL else Refused
            raise error(f"{name}: {answer.install_error.detail}")
        if kind == "validated" and answer.validated.version != version:
            raise Refused(f"DMS validated {answer.validated.version!r} where {version!r} was sent")
        return kind

    async def _transfer(
        self, stream: Any, version: str, content: VolumeFile | bytes, heard: Callable[[], None]
    ) -> None:
        """Sends the content and listens meanwhile: DMS may refuse it before the end."""

        async def listen() -> None:
            while await self._answer(stream, version) != "validated":
                heard()

        listening = asyncio.create_task(listen(), name="install answers")
        try:
            await self._send(stream, content, heard, listening)
            await listening
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _send(
        self, stream: Any, content: VolumeFile | bytes, heard: Callable[[], None], listening: asyncio.Task[None]
    ) -> None:
        import grpc

        from dpf.gnxi.gen import gnoi_os_pb2 as os_pb2

        # If the stream has ended it takes nothing more, and why is what was heard last.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            parts = _chunks(content) if isinstance(content, bytes) else content.chunks(wire.CHUNK)
            async with aclosing(parts) as chunks:
                async for chunk in chunks:
                    if listening.done():
                        return
                    await stream.write(os_pb2.InstallRequest(transfer_content=chunk))
                    heard()
                await stream.write(os_pb2.InstallRequest(transfer_end=os_pb2.TransferEnd()))
                await stream.done_writing()

    def _error(self, error: grpc.aio.AioRpcError) -> Unreachable | NoRoom | Refused:
        code = error.code().name
        text = f"DMS at {self._address}: {code}: {error.details()}"
        if code == NO_ROOM:
            return NoRoom(text)
        return Unreachable(text) if code in PASSING else Refused(text)


async def _chunks(content: bytes) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(content), wire.CHUNK):
        yield content[start : start + wire.CHUNK]
