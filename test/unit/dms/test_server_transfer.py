"""Transfers of images over real gRPC: what breaks off leaves nothing, and what does not fit is refused."""

from __future__ import annotations

import asyncio
import errno
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from dpf.dms import images, services
from dpf.dms.server import Server
from dpf.gnxi.gen import gnoi_os_pb2 as os_pb2
from dpf.host import files
from dpf.provisioning.dpu.dms import DmsClient
from dpf.provisioning.dpu.install import NoRoom, Refused, Unreachable
from dpf.provisioning.dpu.rebootpolicy import Policy, Power
from test.unit.dms.asking import CONFIG, IMAGE, Hang, begun, failing
from test.unit.dms.fakes import CountingCard, config, served


async def test_an_image_that_is_there_is_not_sent_again(tmp_path: Path) -> None:
    settings = config(tmp_path)
    (settings.image_folder / "x.bfb").write_bytes(IMAGE)
    before = (settings.image_folder / "x.bfb").stat().st_mtime_ns
    async with served(settings, CountingCard()) as client:
        await client.install("x.bfb", IMAGE)
        assert (settings.image_folder / "x.bfb").stat().st_mtime_ns == before
        await client.install("x.bfb", IMAGE + b"more")
        assert (settings.image_folder / "x.bfb").read_bytes() == IMAGE + b"more", "another size is another image"


@pytest.mark.parametrize(
    ("version", "content", "says"),
    [
        ("../x.bfb", b"x", "INCOMPATIBLE"),
        (".hidden.bfb", b"x", "INCOMPATIBLE"),
        ("x.iso", b"x", "INCOMPATIBLE"),
        ("d.cfg", b"x" * 131_073, "TOO_LARGE"),
    ],
)
async def test_what_no_card_can_take_is_refused(tmp_path: Path, version: str, content: bytes, says: str) -> None:
    async with served(config(tmp_path), CountingCard()) as client:
        with pytest.raises(Refused, match=says):
            await client.install(version, content)


async def test_a_transfer_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with served(settings, CountingCard()) as client:
        stream = client._os.Install()
        await stream.write(
            os_pb2.InstallRequest(transfer_request=os_pb2.TransferRequest(version="x.bfb", package_size=9))
        )
        await stream.read()
        await stream.write(os_pb2.InstallRequest(transfer_content=b"part"))
        await stream.done_writing()
        answer = await stream.read()
        assert answer.install_error.type == os_pb2.InstallError.INTEGRITY_FAIL
        assert list(settings.image_folder.iterdir()) == []


async def test_what_a_killed_server_left_of_images_is_removed_by_the_next_and_no_others(tmp_path: Path) -> None:
    settings = config(tmp_path)
    others = {".x.bfb.other.part", ".x.bfb.big.card.0123abcd.part", "x.bfb", ".a-bfb-uid.part"}
    for name in (".x.bfb.card.part", ".y.bfb.card.0123abcd.part", *others):
        (settings.image_folder / name).write_bytes(IMAGE)
    async with served(settings, CountingCard()):
        assert {path.name for path in settings.image_folder.iterdir()} == others


async def test_what_can_not_be_removed_of_an_image_keeps_no_server_from_starting(tmp_path: Path) -> None:
    settings = config(tmp_path)
    (settings.image_folder / ".x.bfb.card.part").mkdir()
    async with served(settings, CountingCard()) as client:
        await client.install("y.bfb", IMAGE)


async def test_a_silent_volume_keeps_no_server_from_starting_and_loses_no_transfer_when_it_wakes_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, old = config(tmp_path), ".x.bfb.card.part"
    (settings.image_folder / old).write_bytes(b"of a server that was killed")
    monkeypatch.setattr(images, "SILENT", 0.2)
    hang = Hang(monkeypatch, "_tidy")
    async with served(settings, CountingCard()) as client:
        assert hang.begun.is_set()
        stream = await begun(client)
        await stream.write(os_pb2.InstallRequest(transfer_content=IMAGE))
        hang.free.set()
        assert await asyncio.to_thread(hang.ended.wait, 20)
        assert not (settings.image_folder / old).exists()
        await stream.write(os_pb2.InstallRequest(transfer_end=os_pb2.TransferEnd()))
        answer = await stream.read()
        while answer.WhichOneof("response") == "transfer_progress":
            answer = await stream.read()
        assert answer.WhichOneof("response") == "validated"


async def test_a_start_that_is_cancelled_gives_its_address_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, hang = config(tmp_path), Hang(monkeypatch, "_tidy")
    starting = asyncio.create_task(Server(settings, CountingCard()).__aenter__())
    assert await asyncio.to_thread(hang.begun.wait, 20)
    starting.cancel()
    await asyncio.wait([starting])
    hang.free.set()
    async with served(settings, CountingCard()) as client:
        await client.install("x.bfb", IMAGE)


async def test_a_sender_that_falls_silent_does_not_keep_others_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "SILENCE", 0.1)
    async with served(config(tmp_path), CountingCard()) as client:
        stream = await begun(client)
        assert (await stream.read()).install_error.detail == "nothing was sent for 0.1 s"
        monkeypatch.undo()
        await client.install("x.bfb", IMAGE)


async def test_an_image_longer_than_was_said_is_refused_before_its_end(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with served(settings, CountingCard()) as client:
        stream = await begun(client, size=2)
        await stream.write(os_pb2.InstallRequest(transfer_content=b"three"))
        answer = await stream.read()
        assert answer.install_error.type == os_pb2.InstallError.INTEGRITY_FAIL
        assert list(settings.image_folder.iterdir()) == []


async def test_an_image_for_which_there_is_no_room_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    async with served(config(tmp_path), CountingCard()) as client:
        stream = await begun(client, size=1 << 60)
        with pytest.raises(grpc.aio.AioRpcError, match="there is room for") as info:
            await stream.read()
        assert info.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_servers_that_share_a_folder_may_be_given_one_image_at_once(tmp_path: Path) -> None:
    settings = config(tmp_path)
    other = replace(config(tmp_path), state_file=tmp_path / "state" / "other.json")
    async with served(settings, CountingCard()) as client, served(other, CountingCard()) as second:
        stream = await begun(client)
        await stream.write(os_pb2.InstallRequest(transfer_content=b"par"))
        await second.install("x.bfb", IMAGE)
        assert (settings.image_folder / "x.bfb").read_bytes() == IMAGE
        await stream.write(os_pb2.InstallRequest(transfer_content=b"ts"))
        await stream.write(os_pb2.InstallRequest(transfer_end=os_pb2.TransferEnd()))
        assert (await stream.read()).WhichOneof("response") == "validated"
    assert (settings.image_folder / "x.bfb").read_bytes() == b"parts"


async def test_a_volume_that_does_not_say_what_it_has_stops_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "SILENT", 0.2)
    hang = Hang(monkeypatch, "complete")
    card = CountingCard()
    async with served(config(tmp_path), card) as client:
        asked = asyncio.create_task(client.install("x.bfb", IMAGE))
        assert await asyncio.to_thread(hang.begun.wait, 20)
        await client.report()
        await client.reboot(Policy("COLD", Power.RESET), "uid/boot-1")
        with pytest.raises(Unreachable, match=r"x\.bfb: no answer for 0\.2 s"):
            await asked
        hang.free.set()
        await _as_soon_as_it_can(client, "x.bfb", IMAGE)
        async with asyncio.timeout(20):
            while not card.resets:
                await asyncio.sleep(0.01)


async def _as_soon_as_it_can(client: DmsClient, version: str, content: bytes) -> None:
    async with asyncio.timeout(20):
        while True:
            with suppress(Unreachable):
                await client.install(version, content)
                return


@pytest.mark.parametrize(
    ("work", "version"), [("write_config", "d.cfg"), ("begin", "x.bfb"), ("finish", "x.bfb"), ("room", "x.bfb")]
)
async def test_what_a_silent_volume_keeps_of_a_transfer_is_over_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str, version: str
) -> None:
    settings, hang = config(tmp_path), Hang(monkeypatch, work)
    async with served(settings, CountingCard()) as client:
        gone = asyncio.create_task(client.install(version, b"the first"))
        assert await asyncio.to_thread(hang.begun.wait, 20)
        await client.report()
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        with pytest.raises(Unreachable, match="INSTALL_IN_PROGRESS"):
            await client.install(version, b"the second one")
        hang.free.set()
        await _as_soon_as_it_can(client, version, b"the second one")
        assert {path.name: path.read_bytes() for path in settings.image_folder.iterdir()} == {
            version: b"the second one"
        }


async def test_two_transfers_of_one_image_at_once_are_refused(tmp_path: Path) -> None:
    async with served(config(tmp_path), CountingCard()) as client:
        first = client._os.Install()
        await first.write(os_pb2.InstallRequest(transfer_request=os_pb2.TransferRequest(version="x.bfb")))
        await first.read()
        with pytest.raises(Unreachable, match="INSTALL_IN_PROGRESS"):
            await client.install("x.bfb", IMAGE)
        first.cancel()


async def test_a_full_volume_is_waited_for_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(config(tmp_path), CountingCard()) as client:
        monkeypatch.setattr(files, "put", failing(errno.ENOSPC))
        with pytest.raises(NoRoom, match="No space left on device; free space on the volume of the image folder"):
            await client.install("d.cfg", CONFIG)
        monkeypatch.undo()
        await client.install("d.cfg", CONFIG)
