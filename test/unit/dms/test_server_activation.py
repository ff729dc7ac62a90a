"""Activations over real gRPC: a card is flashed once, and what is over is so on disk."""

from __future__ import annotations

import asyncio
import errno
from contextlib import suppress
from pathlib import Path

import pytest

from dpf.dms import activation
from dpf.dms.card import CardError, CardStatus, State
from dpf.host import files
from dpf.provisioning.dpu.install import Refused, Report, Unreachable
from dpf.provisioning.dpu.rebootpolicy import Policy, Power
from test.unit.dms.asking import CONFIG, Hang, failing, installed, settled
from test.unit.dms.fakes import CountingCard, config, digest, served


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


async def test_a_volume_that_is_silent_when_an_activation_begins_stops_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = CountingCard()
    async with served(config(tmp_path), card) as client:
        await installed(client)
        monkeypatch.setattr(activation, "SILENT", 0.2)
        hang = Hang(monkeypatch, "find")
        asked = asyncio.create_task(client.activate("x.bfb;d.cfg"))
        assert await asyncio.to_thread(hang.begun.wait, 20)
        assert (await client.report()).outcome == "unknown"
        with pytest.raises(Unreachable, match=r"x\.bfb;d\.cfg in .*images: no answer for 0\.2 s"):
            await asked
        hang.free.set()
        card.go.set()
        async with asyncio.timeout(20):
            while True:
                with suppress(Unreachable):
                    await client.activate("x.bfb;d.cfg")
                    break
        assert (await settled(client)).outcome == "success"
        assert len(card.pushes) == 1


async def test_a_volume_that_keeps_a_bf_cfg_keeps_no_activation_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, card = config(tmp_path), CountingCard()
    card.go.set()
    hang = Hang(monkeypatch, "forget")
    async with served(settings, card) as client:
        await installed(client)
        await client.activate("x.bfb;d.cfg")
        assert (await settled(client)).outcome == "success"
        assert await asyncio.to_thread(hang.begun.wait, 20)
        hang.free.set()
        async with asyncio.timeout(20):
            while (settings.image_folder / "d.cfg").exists():
                await asyncio.sleep(0.01)


async def test_a_bf_cfg_that_is_handed_over_while_the_same_is_being_removed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, card = config(tmp_path), CountingCard()
    card.failure = CardError("busy", passing=True)
    card.go.set()
    hang = Hang(monkeypatch, "forget")
    async with served(settings, card) as client:
        await installed(client)
        await client.activate("x.bfb;d.cfg")
        assert (await settled(client)).outcome == "retriable"
        assert await asyncio.to_thread(hang.begun.wait, 20)
        handed_over = asyncio.create_task(client.install("d.cfg", CONFIG))
        await asyncio.wait([handed_over], timeout=1.0)
        hang.free.set()
        await handed_over
        assert await asyncio.to_thread(hang.ended.wait, 20)
        assert (settings.image_folder / "d.cfg").exists()
