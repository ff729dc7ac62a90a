"""The rshim driver of a card, played by a program that makes a folder as the driver does."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from dpf.dms import driver
from dpf.dms.card import CardError
from dpf.dms.devices import Place
from dpf.dms.driver import driven
from dpf.dms.metrics import DmsMetrics
from dpf.dms.rshim import RshimCard
from dpf.dms.server import Server
from dpf.host.pci import Sysfs
from dpf.provisioning.dpu.dms import dial
from dpf_cmd import dms
from test.unit.dms.asking import installed, settled
from test.unit.dms.fakes import CLIENT, config

pytestmark = pytest.mark.timeout(60)

PCI = "0000:04:00"

PROGRAM = """#!{python}
import os, pathlib, shutil, signal, sys
here = pathlib.Path({here!r})
with (here / "calls").open("a") as calls:
    print(*sys.argv[1:], file=calls)
if (here / "fails").exists():
    print("Probing the card")
    print("Failed to initialize rshim backend")
    sys.exit(255)
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
folder = here / "dev" / ("rshim" + options["--index"])
folder.mkdir()
def end(*_):
    shutil.rmtree(folder)
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if (here / "stubborn").exists() else end)
(folder / "pid").write_text(str(os.getpid()))
(folder / "misc.new").write_text(200 * " " + "\\nDEV_NAME " + options["--device"] + "\\n")
(folder / "misc.new").rename(folder / "misc")
while True:
    signal.pause()
"""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with a card whose management function is its second, and the program ``rshim``."""
    monkeypatch.setattr(driver, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(driver, "LOOK", 0.01)
    for address, device in ((f"{PCI}.0", "0xa2dc"), (f"{PCI}.1", "0xc2d5"), ("0000:85:00.1", "0xc2d5")):
        folder = tmp_path / "sys" / "bus" / "pci" / "devices" / address
        folder.mkdir(parents=True)
        (folder / "vendor").write_text("0x15b3\n")
        (folder / "device").write_text(f"{device}\n")
    (tmp_path / "dev").mkdir()
    program = tmp_path / "rshim"
    program.write_text(PROGRAM.format(python=sys.executable, here=str(tmp_path)))
    program.chmod(0o755)
    return tmp_path


def place_on(host: Path, pci: str = PCI) -> Place:
    return Place(pci, devices=host / "dev")


def shown(folder: Path, device: str) -> Path:
    """A folder that another rshim has made."""
    folder.mkdir(exist_ok=True)
    (folder / "misc").write_text(200 * " " + f"\nDEV_NAME {device}\n")
    return folder


def calls(host: Path) -> list[str]:
    return (host / "calls").read_text().splitlines()


async def found(place: Place) -> Path:
    """The card's folder, once it has one."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await place.folder()
            except CardError:
                await asyncio.sleep(0.01)


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("pci", [PCI, "04:00"])
async def test_the_driver_runs_for_its_card_alone_and_ends_with_the_server(host: Path, pci: str) -> None:
    place = place_on(host, pci)
    async with driven(place, str(host / "rshim"), Sysfs(host / "sys")):
        assert await place.folder() == host / "dev" / "rshim0", "it is there before anything is served"
        pid = int((host / "dev" / "rshim0" / "pid").read_text())
        assert os.getsid(pid) == pid, "it may kill its whole group"
    assert calls(host) == ["--foreground --device pcie-0000:04:00.1 --index 0"]
    assert not (host / "dev" / "rshim0").exists()
    assert not runs(pid)


async def test_cards_of_one_host_have_a_driver_and_a_folder_each(host: Path) -> None:
    first, second = place_on(host), place_on(host, "0000:85:00")
    program, sysfs = str(host / "rshim"), Sysfs(host / "sys")
    async with driven(first, program, sysfs), driven(second, program, sysfs):
        assert (await first.folder()).name == "rshim0"
        assert (await second.folder()).name == "rshim1"


async def test_a_driver_that_ends_is_started_again_and_its_folder_may_be_another_cards_by_then(host: Path) -> None:
    place = place_on(host)
    async with driven(place, str(host / "rshim"), Sysfs(host / "sys")):
        first = await place.folder()
        pid = int((first / "pid").read_text())
        shown(first, "pcie-0000:85:00.1")
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            while len(calls(host)) < 2:
                await asyncio.sleep(0.01)
        assert (await found(place)).name == "rshim1"


async def test_a_driver_that_does_not_end_is_killed(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "GRACE", 0.1)
    (host / "stubborn").touch()
    place = place_on(host)
    async with driven(place, str(host / "rshim"), Sysfs(host / "sys")):
        pid = int((await place.folder() / "pid").read_text())
    assert not runs(pid)


async def test_a_card_that_another_rshim_shows_is_left_to_that_one_until_it_is_gone(host: Path) -> None:
    other = shown(host / "dev" / "rshim7", "pcie-0000:04:00.1")
    place = place_on(host)
    async with driven(place, str(host / "rshim"), Sysfs(host / "sys")):
        assert await place.folder() == other
        assert not (host / "calls").exists()
        (other / "misc").unlink()
        other.rmdir()
        async with asyncio.timeout(20):
            while await found(place) == other:
                await asyncio.sleep(0.01)
        assert (await place.folder()).name == "rshim0"


@pytest.mark.parametrize(
    ("pci", "program", "says"),
    [
        (
            PCI,
            "rshim",
            "rshim for pcie-0000:04:00.1 ended with 255: Probing the card; Failed to initialize rshim backend",
        ),
        (PCI, "missing", "missing cannot be run: No such file or directory"),
        ("0000:99:00", "rshim", "no function that rshim could drive at 0000:99:00"),
        (PCI, "", "does the rshim driver run here"),
    ],
)
async def test_why_no_rshim_shows_a_card_is_said(host: Path, pci: str, program: str, says: str) -> None:
    (host / "fails").touch()
    place = place_on(host, pci)
    async with driven(place, program and str(host / program), Sysfs(host / "sys")):
        with pytest.raises(CardError, match=f"no rshim of none shows a card at {pci}") as info:
            await RshimCard(place).status()
    assert says in str(info.value)
    assert info.value.passing


async def test_without_its_sysfs_no_driver_is_started_and_that_is_said(host: Path) -> None:
    place = place_on(host)
    async with driven(place, str(host / "rshim"), Sysfs(host / "nowhere")):
        with pytest.raises(CardError, match="nowhere/bus/pci/devices: No such file"):
            await place.folder()


async def test_the_program_serves_a_card_by_its_driver_and_whoever_installs_hears_why_it_can_not(
    host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dms, "DEVICES", host / "dev")
    monkeypatch.setattr(dms, "SYSFS", host / "sys")
    options = dms.Options(target_pci=PCI, rshim_driver=str(host / "rshim"))
    async with dms._card(options, DmsMetrics()) as card:
        assert (await card.status()).percent == 0
    (host / "fails").touch()
    settings = config(tmp_path)
    async with (
        dms._card(options, DmsMetrics()) as card,
        Server(settings, card),
        dial(settings.address, CLIENT) as client,
    ):
        await installed(client)
        await client.activate("x.bfb;d.cfg")
        report = await settled(client)
    assert report.outcome == "retriable"
    assert "Failed to initialize rshim backend" in report.text


async def test_where_the_device_folder_is_given_no_driver_is_started(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dms, "SYSFS", host / "sys")
    given = shown(host / "dev" / "rshim3", "pcie-0000:04:00.1")
    options = dms.Options(target_pci=PCI, rshim_driver=str(host / "rshim"), rshim_device=given)
    async with dms._card(options, DmsMetrics()) as card:
        assert (await card.status()).percent == 0
    assert not (host / "calls").exists()
