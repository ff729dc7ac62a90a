"""A card at work: its task, its disk, and its API on a unix socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dpf.sandbox import control
from dpf.sandbox.control import ControlError
from dpf.sandbox.fleet import cardapi
from dpf.sandbox.fleet.cards import Card
from dpf.sandbox.fleet.cardstate import Durations, State
from dpf.sandbox.fleet.faults import Fault
from dpf.sandbox.fleet.hosts import Host
from dpf.sandbox.layout import CardAddress
from test.unit.sandbox.samples import bf_cfg

ADDRESS = CardAddress("worker1", 0)
NO_DELAYS = Durations()


class Kubelets:
    """Stands in for the kubelets of cards: notes which boots they ran in."""

    def __init__(self) -> None:
        self.boots: asyncio.Queue[int] = asyncio.Queue()
        self.running = 0

    async def __call__(self, card: Card) -> None:
        self.boots.put_nowait(card.record.counters.boots)
        self.running += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.running -= 1


@asynccontextmanager
async def running(folder: Path, kubelets: Kubelets, durations: Durations = NO_DELAYS) -> AsyncIterator[Card]:
    card = Card(ADDRESS, folder, durations, kubelets)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(card.run())
        yield card
        task.cancel()


async def reach(card: Card, state: State) -> None:
    await card.wait_while(lambda card: card.record.state is not state)


async def test_kubelet_runs_from_the_second_boot_and_anew_after_each(tmp_path: Path) -> None:
    kubelets = Kubelets()
    async with running(tmp_path, kubelets) as card:
        card.boot_image("x.bfb", bf_cfg(), "1")
        await reach(card, State.UP)
        assert kubelets.boots.empty()
        card.reset()
        assert await kubelets.boots.get() == 2
        card.reset()
        assert await kubelets.boots.get() == 3
        assert kubelets.running == 1
    assert kubelets.running == 0


async def test_card_goes_on_where_it_was_when_the_fleet_was_killed(tmp_path: Path) -> None:
    hanging = Durations(install=3600.0)
    async with running(tmp_path, Kubelets(), hanging) as card:
        card.boot_image("x.bfb", bf_cfg(), "1")
        card.set_fault(Fault.NEVER_JOINS)
    async with running(tmp_path, Kubelets()) as again:
        assert again.fault is Fault.NEVER_JOINS
        await reach(again, State.UP)
        again.boot_image("x.bfb", bf_cfg(), "1")
        assert (again.record.counters.activates, again.record.counters.installs) == (1, 1)


async def test_clearing_a_fault_lets_the_card_go_on(tmp_path: Path) -> None:
    async with running(tmp_path, Kubelets()) as card:
        card.set_fault(Fault.INSTALL_HANGS)
        card.boot_image("x.bfb", bf_cfg(), "1")
        await reach(card, State.INSTALLING)
        assert card.percent == 40
        card.set_fault(None)
        await reach(card, State.UP)


async def test_new_image_has_no_credentials_of_the_old_one(tmp_path: Path) -> None:
    async with running(tmp_path, Kubelets()) as card:
        (tmp_path / "kubelet.json").write_text("{}")
        card.boot_image("x.bfb", bf_cfg(), "1")
        assert not (tmp_path / "kubelet.json").exists()


def test_disk_of_a_card_is_private(tmp_path: Path) -> None:
    card = Card(ADDRESS, tmp_path / "card", Durations(), Kubelets())
    card.boot_image("x.bfb", bf_cfg(), "1")
    assert (tmp_path / "card" / "card.json").stat().st_mode & 0o777 == 0o600


def test_same_host_reboot_is_accepted_once(tmp_path: Path) -> None:
    card = Card(ADDRESS, tmp_path / "card", Durations(), Kubelets())
    assert [card.accept_host_reboot(id_) for id_ in ("a", "a", "b")] == [True, False, True]
    assert card.record.counters.host_reboots == 2


class NoPods:
    """Stands in for the pods of the fleet."""

    def processes(self) -> list[dict[str, Any]]:
        return []

    def kill(self, name: str) -> bool:
        return name == "known"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Path]:
    """The socket of a fleet with one card."""
    async with running(tmp_path / "card", Kubelets()) as card:
        host = Host("worker1", "127.16.0.1", [card], tmp_path / "host", 0.0)
        app = cardapi.application({card.name: card}, {host.name: host}, NoPods())  # type: ignore[arg-type]
        runner = await cardapi.serve(app, tmp_path / "fleet.sock")
        (tmp_path / "x.bfb").write_bytes(b"image")
        yield tmp_path / "fleet.sock"
        await runner.cleanup()


CARD = f"/cards/{ADDRESS.dpu}"


async def test_dms_boots_an_image_and_polls_until_it_is_up(api: Path) -> None:
    empty = await control.ask(api, "GET", CARD)
    known = {"state": "empty", "percent": 0, "version": "", "message": "", "id": "", "mode": "DPU", "firmware": {}}
    assert empty == known
    body = {"image": str(api.parent / "x.bfb"), "version": "x.bfb", "config": bf_cfg(), "id": "1"}
    await control.ask(api, "POST", f"{CARD}/boot", body)
    up = await control.ask(api, "GET", f"{CARD}?wait=10&not=installing")
    assert (up["state"], up["percent"], up["version"], up["id"]) == ("up", 100, "x.bfb", "1")
    assert sorted(up["firmware"]) == ["bmc", "nic", "uefi"]


async def test_poll_ends_when_its_time_is_up(api: Path) -> None:
    assert (await control.ask(api, "GET", f"{CARD}?wait=0.01&not=empty"))["state"] == "empty"


@pytest.mark.parametrize(
    ("method", "path", "body", "message"),
    [
        ("GET", "/cards/other", None, "no card other"),
        ("POST", f"{CARD}/boot", {"image": "/nowhere", "version": "v", "config": "c", "id": "i"}, "no image /nowhere"),
        ("POST", f"{CARD}/boot", {"image": "/nowhere"}, "the body lacks version, config, id"),
        ("PUT", f"{CARD}/fault", {"fault": "tired"}, "no fault 'tired': choose from install-fails"),
        ("POST", "/pods/unknown/kill", None, "no pod unknown"),
    ],
)
async def test_wrong_request_is_answered_with_the_reason(
    api: Path, method: str, path: str, body: dict[str, str] | None, message: str
) -> None:
    with pytest.raises(ControlError, match=message):
        await control.ask(api, method, path, body)


async def test_faults_are_set_and_cleared_at_run_time(api: Path) -> None:
    assert (await control.ask(api, "PUT", f"{CARD}/fault", {"fault": "never-joins"}))["fault"] == "never-joins"
    assert (await control.ask(api, "GET", "/cards"))[0]["fault"] == "never-joins"
    assert (await control.ask(api, "PUT", f"{CARD}/fault", {"fault": ""}))["fault"] is None
