"""The DMS server and its client over real gRPC with mutual TLS."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from gnmi_pb import gnmi_pb2

from dpf.dms import services
from dpf.dms.card import CardError, CardStatus, State
from dpf.dms.gnmi import firmware_path
from dpf.dms.server import Server
from dpf.gnxi.gen import gnoi_os_pb2 as os_pb2
from dpf.host import files
from dpf.provisioning.dpu.dms import DmsClient, dial
from dpf.provisioning.dpu.install import NoRoom, Refused, Report, Unreachable
from dpf.provisioning.dpu.rebootpolicy import Policy, Power
from dpf.runtime.certs import SmallCA
from dpf.runtime.errors import ConfigError
from dpf_api.dpu import Firmware
from test.unit.dms.fakes import CLIENT, CountingCard, config, digest, served, write_pair

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


async def test_a_card_is_given_mode_image_and_configuration_and_comes_up(tmp_path: Path) -> None:
    card = CountingCard()
    async with served(config(tmp_path), card) as client:
        assert (await client.report()).outcome == "unknown"
        await client.set_mode("DPU")
        await installed(client)
        await client.activate("x.bfb;d.cfg")
        running = await client.report()
        assert running.active
        card.go.set()
        assert (await settled(client)).outcome == "success"
    assert card.card_mode == "DPU"
    assert card.pushes == [("x.bfb", CONFIG)]
    assert (tmp_path / "images" / "x.bfb").read_bytes() == IMAGE


async def test_a_bfcfg_is_the_owners_alone_and_goes_when_the_card_has_it(tmp_path: Path) -> None:
    card, file = CountingCard(), tmp_path / "images" / "d.cfg"
    async with served(config(tmp_path), card) as client:
        await installed(client)
        assert file.stat().st_mode & 0o777 == 0o600
        await client.activate("x.bfb;d.cfg")
        async with asyncio.timeout(20):
            while not card.pushes or file.exists():
                await asyncio.sleep(0.01)
        assert (await client.report()).active, "while it is still at work"
        await client.install("d.cfg", CONFIG)
        await client.activate("x.bfb;d.cfg")
        assert not file.exists(), "a manager that takes over hands it over again"
        card.go.set()
        assert (await settled(client)).outcome == "success"
    assert len(card.pushes) == 1
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == CONFIG]
    assert left == []


async def test_a_bfcfg_goes_when_the_card_fails_and_a_newer_one_stays(tmp_path: Path) -> None:
    card, folder = CountingCard(), tmp_path / "images"
    card.failure = CardError("eMMC broke")
    async with served(config(tmp_path), card) as client:
        await installed(client)
        await client.activate("x.bfb;d.cfg")
        await client.install("d.cfg", b"# of the next attempt\n")
        card.go.set()
        assert (await settled(client)).outcome == "failure"
        assert (folder / "d.cfg").read_bytes() == b"# of the next attempt\n"


async def test_a_bfcfg_that_a_killed_server_left_is_removed_by_the_next(tmp_path: Path) -> None:
    card, settings = CountingCard(), config(tmp_path)
    card.go.set()
    async with served(settings, card) as client:
        await installed(client)
        await client.activate("x.bfb;d.cfg")
        await settled(client)
    (settings.image_folder / "d.cfg").write_bytes(CONFIG)
    (settings.image_folder / ".d.cfg.new").write_bytes(CONFIG[:3])
    async with served(settings, card):
        assert [path.name for path in settings.image_folder.iterdir()] == ["x.bfb"]


async def test_the_firmware_is_told_as_far_as_it_is_known(tmp_path: Path) -> None:
    card = CountingCard()
    async with served(config(tmp_path), card) as client:
        assert await client.firmware() == Firmware(nic="32.43.1014")
        nic = await client._gnmi.Get(gnmi_pb2.GetRequest(path=[firmware_path("nic")]))
        assert nic.notification[0].update[0].val.string_val == "32.43.1014"
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await client._gnmi.Get(gnmi_pb2.GetRequest(path=[firmware_path("bmc")]))
        assert info.value.code() is grpc.StatusCode.NOT_FOUND
        card.versions = {}
        assert await client.firmware() is None
        card.failure = CardError("flint cannot be run")
        with pytest.raises(Refused, match="flint cannot be run"):
            await client.firmware()


async def test_a_card_that_comes_up_with_another_image_has_failed(tmp_path: Path) -> None:
    card = CountingCard()
    card.comes_up_with = "old.bfb"
    card.go.set()
    async with served(config(tmp_path), card) as client:
        await installed(client)
        await client.activate("x.bfb;d.cfg")
        report = await settled(client)
    assert report.outcome == "failure"
    assert "old.bfb, not x.bfb" in report.text


async def test_progress_names_version_and_percent(tmp_path: Path) -> None:
    card = CountingCard()
    async with served(config(tmp_path), card) as client:
        await installed(client)
        await client.activate("x.bfb;d.cfg")
        async with asyncio.timeout(20):
            while (report := await client.report()).percent != 40:
                await asyncio.sleep(0.01)
        assert report.text == "installing x.bfb: 40 %"


async def test_an_image_that_is_there_is_not_sent_again(tmp_path: Path) -> None:
    settings = config(tmp_path)
    (settings.image_folder / "x.bfb").write_bytes(IMAGE)
    before = (settings.image_folder / "x.bfb").stat().st_mtime_ns
    async with served(settings, CountingCard()) as client:
        await client.install("x.bfb", IMAGE)
        assert (settings.image_folder / "x.bfb").stat().st_mtime_ns == before
        await client.install("x.bfb", IMAGE + b"more")
        assert (settings.image_folder / "x.bfb").read_bytes() == IMAGE + b"more", "another size is another image"


async def test_the_same_activation_asked_for_again_flashes_once(tmp_path: Path) -> None:
    card = CountingCard()
    async with served(config(tmp_path), card) as client:
        await installed(client)
        for _ in range(3):
            await client.activate("x.bfb;d.cfg")
        card.go.set()
        await settled(client)
        await client.activate("x.bfb;d.cfg")
        assert (await client.report()).outcome == "success"
        assert len(card.pushes) == 1
        await client.install("d.cfg", CONFIG)
        await client.activate("x.bfb;d.cfg")
        assert len(card.pushes) == 1, "handed over once more it is the same"
        assert not (tmp_path / "images" / "d.cfg").exists()
        await client.install("d.cfg", b"# another token\n")
        await client.activate("x.bfb;d.cfg")
        await settled(client)
    assert [bf_cfg for _, bf_cfg in card.pushes] == [CONFIG, b"# another token\n"]


async def test_a_server_killed_while_the_card_installs_goes_on_without_flashing_again(tmp_path: Path) -> None:
    card, settings = CountingCard(), config(tmp_path)
    async with served(settings, card) as client:
        await installed(client)
        await client.activate("x.bfb;d.cfg")
        async with asyncio.timeout(20):
            while not card.pushes:
                await asyncio.sleep(0.01)
    card.go.set()
    async with served(settings, card) as client:
        assert (await settled(client)).outcome == "success"
    assert len(card.pushes) == 1


async def test_a_server_killed_before_the_card_had_it_all_pushes_it_once_more(tmp_path: Path) -> None:
    card, settings = CountingCard(), config(tmp_path)
    taken = asyncio.Event()

    async def hang(image: Path, version: str, config: bytes, request: str) -> None:
        taken.set()
        await asyncio.Event().wait()

    original, card.boot = card.boot, hang  # type: ignore[method-assign]
    async with served(settings, card) as client:
        await installed(client)
        await client.activate("x.bfb;d.cfg")
        await asyncio.wait_for(taken.wait(), 20)
    card.boot = original  # type: ignore[method-assign]
    card.go.set()
    async with served(settings, card) as client:
        assert (await settled(client)).outcome == "success"
    assert len(card.pushes) == 1


async def test_a_card_that_took_the_image_unseen_is_not_given_it_again(tmp_path: Path) -> None:
    card, settings = CountingCard(), config(tmp_path)
    card.state = CardStatus(State.INSTALLING, 10, "x.bfb", "writing", digest(CONFIG))
    card.go.set()
    async with served(settings, card) as client:
        await installed(client)
        await client.activate("x.bfb;d.cfg")
        assert (await settled(client)).outcome == "success"
    assert card.pushes == []


@pytest.mark.parametrize(("passing", "outcome"), [(True, "retriable"), (False, "failure")])
async def test_a_card_that_fails_says_why_and_may_be_tried_again(tmp_path: Path, passing: bool, outcome: str) -> None:
    card = CountingCard()
    card.failure = CardError("eMMC broke", passing=passing)
    card.go.set()
    async with served(config(tmp_path), card) as client:
        await installed(client)
        await client.activate("x.bfb;d.cfg")
        assert await settled(client) == Report(False, outcome, "eMMC broke")
        card.failure = None
        card.state = CardStatus(State.FAILED)
        await client.install("d.cfg", CONFIG)
        await client.activate("x.bfb;d.cfg")
        assert (await settled(client)).outcome == "success"


async def test_a_card_that_hangs_is_given_up_after_the_exec_timeout(tmp_path: Path) -> None:
    async with served(config(tmp_path, timeout=0.1), CountingCard()) as client:
        await installed(client)
        await client.activate("x.bfb;d.cfg")
        report = await settled(client)
        assert report.outcome == "retriable"
        assert "not done within 0.1 s" in report.text


async def test_what_was_never_installed_cannot_be_activated(tmp_path: Path) -> None:
    async with served(config(tmp_path), CountingCard()) as client:
        with pytest.raises(Refused, match=r"NON_EXISTENT_VERSION: 'x\.bfb' is not installed"):
            await client.activate("x.bfb;d.cfg")


async def test_another_activation_waits_for_the_one_that_runs(tmp_path: Path) -> None:
    async with served(config(tmp_path), CountingCard()) as client:
        await installed(client)
        await client.activate("x.bfb;d.cfg")
        await client.install("e.cfg", b"# e\n")
        with pytest.raises(Refused, match=r"the card is being given x\.bfb;d\.cfg"):
            await client.activate("x.bfb;e.cfg")


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


async def begun(client: DmsClient, size: int = 0) -> Any:
    """An Install of x.bfb; its first answer is read."""
    stream = client._os.Install()
    request = os_pb2.TransferRequest(version="x.bfb", package_size=size)
    await stream.write(os_pb2.InstallRequest(transfer_request=request))
    await stream.read()
    return stream


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


async def test_two_transfers_of_one_image_at_once_are_refused(tmp_path: Path) -> None:
    async with served(config(tmp_path), CountingCard()) as client:
        first = client._os.Install()
        await first.write(os_pb2.InstallRequest(transfer_request=os_pb2.TransferRequest(version="x.bfb")))
        await first.read()
        with pytest.raises(Unreachable, match="INSTALL_IN_PROGRESS"):
            await client.install("x.bfb", IMAGE)
        first.cancel()


def failing(code: int, *, only: str = "") -> Callable[..., None]:
    """A disk that does not take files, or those of one name."""
    put = files.put

    def fails(path: Path, content: str | bytes, **options: Any) -> None:
        if only in path.name:
            raise OSError(code, os.strerror(code))
        put(path, content, **options)

    return fails


async def test_a_full_volume_is_waited_for_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(config(tmp_path), CountingCard()) as client:
        monkeypatch.setattr(files, "put", failing(errno.ENOSPC))
        with pytest.raises(NoRoom, match="No space left on device; free space on the volume of the image folder"):
            await client.install("d.cfg", CONFIG)
        monkeypatch.undo()
        await client.install("d.cfg", CONFIG)


async def test_a_disk_that_fails_for_a_moment_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(config(tmp_path), CountingCard()) as client:
        await installed(client)
        monkeypatch.setattr(files, "put", failing(errno.ESTALE))
        with pytest.raises(Unreachable, match="Stale"):
            await client.install("d.cfg", CONFIG)
        with pytest.raises(Unreachable, match="Stale"):
            await client.activate("x.bfb;d.cfg")
        with pytest.raises(Unreachable, match="Stale"):
            await client.reboot(Policy("WARM", Power.RESET), "uid/boot-1")


async def test_an_activation_that_ends_while_the_state_can_not_be_saved_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = CountingCard()
    async with served(config(tmp_path), card) as client:
        await installed(client)
        await client.activate("x.bfb;d.cfg")
        async with asyncio.timeout(20):
            while not card.pushes:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        monkeypatch.setattr(files, "put", failing(errno.ENOSPC, only="card.json"))
        card.go.set()
        assert (await settled(client)).outcome == "success"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("a misspelt percentage"), "ValueError: a misspelt percentage"),
        (TimeoutError(110, "timed out"), "timed out"),
    ],
)
async def test_an_activation_that_breaks_in_a_way_nobody_thought_of_ends(
    tmp_path: Path, error: Exception, says: str
) -> None:
    class Broken(CountingCard):
        async def boot(self, image: Path, version: str, config: bytes, request: str) -> None:
            raise error

    async with served(config(tmp_path, timeout=0), Broken()) as client:
        await installed(client)
        await client.activate("x.bfb;d.cfg")
        report = await settled(client)
        assert report.outcome == "retriable"
        assert says in report.text


async def test_a_reboot_that_breaks_in_a_way_nobody_thought_of_has_failed(tmp_path: Path) -> None:
    class Broken(CountingCard):
        async def reset(self, power: Any, request: str) -> None:
            raise ValueError("no such register")

    async with served(config(tmp_path), Broken()) as client:
        await client.reboot(Policy("WARM", Power.RESET), "uid/boot-1")
        async with asyncio.timeout(20):
            while not (failure := await client.reboot_failure()):
                await asyncio.sleep(0.01)
        assert failure == "ValueError: no such register"


async def test_a_client_of_another_authority_is_not_let_in(tmp_path: Path) -> None:
    stranger = SmallCA.make("other").issue("client", purposes=["client"])
    pair = type(stranger)(stranger.cert, stranger.key, CLIENT.ca)
    async with served(config(tmp_path), CountingCard(), pair) as client:
        with pytest.raises(Unreachable):
            await client.report()


async def test_a_server_of_another_authority_is_not_trusted(tmp_path: Path) -> None:
    async with served(config(tmp_path, authority=SmallCA.make("other")), CountingCard()) as client:
        with pytest.raises(Unreachable):
            await client.report()


async def test_new_certificates_on_disk_are_taken_up_without_a_break(tmp_path: Path) -> None:
    settings, other = config(tmp_path), SmallCA.make("other")
    async with Server(settings, CountingCard()), dial(settings.address, CLIENT) as old:
        await old.report()
        write_pair(tmp_path, other.issue("server", purposes=["server"], names=["127.0.0.1"]))
        async with dial(settings.address, other.issue("client", purposes=["client"])) as fresh:
            assert (await fresh.report()).outcome == "unknown"
        assert (await old.report()).outcome == "unknown", "the open connection stays"


@pytest.mark.parametrize(("method", "power"), [("WARM", Power.RESET), ("COLD", Power.CYCLE)])
async def test_the_host_is_rebooted_once_per_request(tmp_path: Path, method: str, power: Power) -> None:
    card, settings = CountingCard(), config(tmp_path)
    for _ in range(2):
        async with served(settings, card) as client:
            await client.reboot(Policy(method, power), "uid/boot-1")
            await client.reboot(Policy(method, power), "uid/boot-1")
            async with asyncio.timeout(20):
                while not card.resets:
                    await asyncio.sleep(0.01)
    assert card.resets == [(method, power.value)]
    async with served(settings, card) as client:
        await client.reboot(Policy(method, power), "uid/boot-2")
        async with asyncio.timeout(20):
            while len(card.resets) < 2:
                await asyncio.sleep(0.01)


async def test_a_reboot_that_ended_this_process_is_not_taken_up_again(tmp_path: Path) -> None:
    card, settings = CountingCard(), config(tmp_path)
    begun = asyncio.Event()

    async def hang(power: str, request: str) -> None:
        begun.set()
        await asyncio.Event().wait()

    original, card.reset = card.reset, hang  # type: ignore[method-assign]
    async with served(settings, card) as client:
        await client.reboot(Policy("WARM", Power.RESET), "uid/boot-1")
        await asyncio.wait_for(begun.wait(), 20)
    card.reset, card.host_boot_id = original, "boot-2"  # type: ignore[method-assign]
    async with served(settings, card) as client:
        await client.report()
    assert card.resets == []


async def test_a_reboot_cut_short_is_taken_up_in_the_same_boot(tmp_path: Path) -> None:
    card, settings = CountingCard(), config(tmp_path)
    begun = asyncio.Event()

    async def hang(power: str, request: str) -> None:
        begun.set()
        await asyncio.Event().wait()

    original, card.reset = card.reset, hang  # type: ignore[method-assign]
    async with served(settings, card) as client:
        await client.reboot(Policy("WARM", Power.RESET), "uid/boot-1")
        await asyncio.wait_for(begun.wait(), 20)
    card.reset = original  # type: ignore[method-assign]
    async with served(settings, card):
        async with asyncio.timeout(20):
            while not card.resets:
                await asyncio.sleep(0.01)
    assert card.resets == [("WARM", "reset")]


async def test_one_reboot_of_the_host_at_a_time(tmp_path: Path) -> None:
    card = CountingCard()

    async def hang(power: str, request: str) -> None:
        await asyncio.Event().wait()

    card.reset = hang  # type: ignore[method-assign]
    async with served(config(tmp_path), card) as client:
        await client.reboot(Policy("WARM", Power.RESET), "uid/boot-1")
        with pytest.raises(Unreachable, match="another reboot of the host is under way"):
            await client.reboot(Policy("COLD", Power.CYCLE), "uid/boot-2")
    assert card.resets == []


async def test_a_reboot_that_failed_is_done_again_only_if_asked_for(tmp_path: Path) -> None:
    card, settings = CountingCard(), config(tmp_path)
    policy, failed, done = Policy("WARM", Power.RESET), asyncio.Event(), asyncio.Event()

    async def fail(power: str, request: str) -> None:
        failed.set()
        raise CardError("no BMC")

    async def succeed(power: Any, request: str) -> None:
        done.set()

    card.reset = fail  # type: ignore[method-assign]
    async with served(settings, card) as client:
        await client.reboot(policy, "uid/boot-1")
        await asyncio.wait_for(failed.wait(), 20)
    card.reset = succeed  # type: ignore[method-assign]
    async with served(settings, card) as client:
        assert await client.reboot_failure() == "no BMC"
        assert not done.is_set(), "a restart alone takes no host down"
        await client.reboot(policy, "uid/boot-1")
        await asyncio.wait_for(done.wait(), 20)
        assert await client.reboot_failure() == ""


async def test_a_state_file_nobody_can_read_counts_as_none(tmp_path: Path) -> None:
    settings = config(tmp_path)
    settings.state_file.parent.mkdir()
    settings.state_file.write_text("{broken")
    async with served(settings, CountingCard()) as client:
        assert (await client.report()).outcome == "unknown"


async def test_an_address_in_use_and_missing_certificates_say_what_to_do(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with Server(settings, CountingCard()):
        with pytest.raises(ConfigError, match="is another dms running there"):
            await Server(settings, CountingCard()).__aenter__()
    settings.cert.unlink()
    with pytest.raises(ConfigError, match="--tls-cert-file"):
        await Server(settings, CountingCard()).__aenter__()


async def test_what_is_not_served_is_unimplemented(tmp_path: Path) -> None:
    async with served(config(tmp_path), CountingCard()) as client:
        subscribe = client._gnmi.Subscribe()
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await subscribe.read()
        assert info.value.code() is grpc.StatusCode.UNIMPLEMENTED
