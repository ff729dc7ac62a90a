"""The detector on sysfs folders: what it writes, and what a card in trouble does not spoil."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from dpf.detector import bridge
from dpf.detector.cards import AGAIN, Scanner
from dpf.detector.detector import Detector
from dpf.detector.features import read
from dpf.host import pci
from dpf.host.network import BRIDGE, NetworkError
from dpf.host.pci import Sysfs
from dpf.runtime.testing import run_virtual
from dpf.sandbox.fleet.machine import Hardware, Machine, View

FOUR = Hardware("0000:04:00", "ens1f0np0", 0, serial="MT2430XZ0AAA")
FIVE = Hardware("0000:05:00", "ens2f0np0", 1, serial="MT2430XZ0BBB")

FLINT = """#!/bin/sh
echo "Image type:            FS4"
echo "FW Version:            32.43.1014"
echo "PSID:                  MT_0000000884"
"""


class Host:
    """A host with two cards, and its detector."""

    def __init__(self, root: Path, network: View, machine: Machine) -> None:
        self.machine = machine
        self.network = network
        self.file = root / "features.d" / "dpu"
        self.detector = self.started()

    def started(self, *, psid: bool = False) -> Detector:
        """A detector that was just started."""
        return Detector(Scanner(self.machine.sysfs, psid=psid), self.network, self.file)

    def function(self, card: Hardware) -> Path:
        return self.machine.sysfs.devices / f"{card.slot}.0"

    @property
    def features(self) -> dict[str, str]:
        return read(self.file.read_text()) if self.file.exists() else {}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    machine = Machine(tmp_path / "root", [FOUR, FIVE])
    machine.power_on()
    with machine.network.view() as network:
        yield Host(tmp_path, network, machine)


def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Puts a program called flint on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "flint").write_text(script)
    (folder / "flint").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


BOTH = {
    "dpu-0-pci-address": "0000-04-00",
    "dpu-0-pf0-name": "ens1f0np0",
    "dpu-0-serial-number": "MT2430XZ0AAA",
    "dpu-0-part-number": "900-9D3B6-00CV-AA0",
    "dpu-1-pci-address": "0000-05-00",
    "dpu-1-pf0-name": "ens2f0np0",
    "dpu-1-serial-number": "MT2430XZ0BBB",
    "dpu-1-part-number": "900-9D3B6-00CV-AA0",
    "dpu-oob-bridge-configured": "",
}


def without(*names: str) -> dict[str, str]:
    return {name: value for name, value in BOTH.items() if name not in names}


async def test_every_card_has_its_lines(host: Host) -> None:
    assert await host.detector.look()
    assert host.features == BOTH
    assert host.file.stat().st_mode & 0o777 == 0o644
    assert "\r" not in host.file.read_text()


async def test_a_file_that_is_true_is_not_written_again(host: Host) -> None:
    await host.detector.look()
    before = host.file.stat()
    assert not await host.detector.look()
    assert not await host.started().look()
    assert (host.file.stat().st_ino, host.file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def spoil(host: Host, what: str) -> None:
    function = host.function(FOUR)
    match what:
        case "no vpd":
            (function / "vpd").unlink()
        case "bad vpd":
            (function / "vpd").write_bytes(b"\xff" * 256)
        case "wrong checksum":
            data = (function / "vpd").read_bytes()
            (function / "vpd").write_bytes(data.replace(b"0AAA", b"0AAB"))
        case "no netdev":
            shutil.rmtree(function / "net")
        case "odd netdev":
            (function / "net" / "ens1f0np0").rename(function / "net" / "_odd")
        case "net is a file":
            shutil.rmtree(function / "net")
            (function / "net").touch()


VITAL = ("dpu-0-serial-number", "dpu-0-part-number")


@pytest.mark.parametrize(
    ("what", "lost", "said"),
    [
        ("no vpd", VITAL, "can't be read: No such file"),
        ("bad vpd", VITAL, "no resource that is known"),
        ("wrong checksum", VITAL, "the checksum is wrong"),
        ("no netdev", ("dpu-0-pf0-name",), "is its driver loaded?"),
        ("odd netdev", ("dpu-0-pf0-name",), "'_odd' can't be the value of a label"),
        ("net is a file", ("dpu-0-pf0-name",), "is its driver loaded?"),
    ],
)
async def test_a_card_in_trouble_loses_that_line_and_hides_no_other(
    host: Host, what: str, lost: tuple[str, ...], said: str
) -> None:
    spoil(host, what)
    with capture_logs() as logs:
        await host.detector.look()
        await host.detector.look()
    assert host.features == without(*lost)
    findings = [line for line in logs if line["event"] == "finding"]
    assert len(findings) == 1, "once, not at every look"
    assert said in findings[0]["message"]


async def test_a_function_that_can_not_be_read_hides_no_card(host: Host) -> None:
    (host.function(FOUR) / "device").write_text("garbage\n")
    shutil.rmtree(host.machine.sysfs.devices / f"{FOUR.slot}.1")
    stranger = host.machine.sysfs.devices / "0000:00:1f.0"
    stranger.mkdir()
    await host.detector.look()
    assert {value for name, value in host.features.items() if name.endswith("pci-address")} == {"0000-05-00"}


async def test_a_card_is_known_by_any_of_its_functions(host: Host) -> None:
    (host.function(FOUR) / "device").unlink()
    await host.detector.look()
    assert host.features["dpu-0-pci-address"] == "0000-04-00"


async def test_a_finding_that_is_over_is_said_to_be(host: Host) -> None:
    spoil(host, "odd netdev")
    await host.detector.look()
    net = host.function(FOUR) / "net"
    (net / "_odd").rename(net / "ens1f0np0")
    with capture_logs() as logs:
        await host.detector.look()
    assert [line["event"] for line in logs] == ["finding_over", "features_changed"]
    assert host.features == BOTH


async def test_a_card_that_vanishes_takes_its_lines_and_the_other_keeps_its_index(host: Host) -> None:
    await host.detector.look()
    for port in range(2):
        shutil.rmtree(host.machine.sysfs.devices / f"{FOUR.slot}.{port}")
    await host.started().look()
    assert host.features == {name: value for name, value in BOTH.items() if not name.startswith("dpu-0-")}
    host.machine.power_on()
    await host.started().look()
    assert host.features == BOTH


async def test_a_host_without_cards_keeps_no_stale_file(host: Host) -> None:
    await host.detector.look()
    shutil.rmtree(host.machine.sysfs.devices)
    host.machine.sysfs.devices.mkdir()
    host.machine.network.remove(BRIDGE)
    await host.detector.look()
    assert not host.file.exists()


async def test_the_psid_is_the_drivers(host: Host) -> None:
    await host.started(psid=True).look()
    assert host.features == BOTH | {"dpu-0-ps-id": "MT_0000000884", "dpu-1-ps-id": "MT_0000000884"}


async def test_without_the_driver_flint_is_asked_once(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    program(tmp_path, monkeypatch, FLINT + f'echo "$@" >> {asked}\n')
    for card in (FOUR, FIVE):
        shutil.rmtree(host.function(card) / "infiniband")
    detector = host.started(psid=True)
    await detector.look()
    await detector.look()
    assert host.features["dpu-0-ps-id"] == host.features["dpu-1-ps-id"] == "MT_0000000884"
    assert sorted(asked.read_text().splitlines()) == ["-d 0000:04:00.0 q", "-d 0000:05:00.0 q"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("#!/bin/sh\necho '-E- Cannot open Device'; exit 1\n", "flint failed with 1: -E- Cannot open Device"),
        ("#!/bin/sh\necho 'FW Version: 1'\n", "flint does not tell it: FW Version: 1"),
        ("", "flint cannot be run"),
    ],
)
async def test_a_flint_that_fails_costs_the_psid_alone(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    if script:
        program(tmp_path, monkeypatch, script)
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
    shutil.rmtree(host.function(FOUR) / "infiniband")
    with capture_logs() as logs:
        await host.started(psid=True).look()
    assert host.features == BOTH | {"dpu-1-ps-id": "MT_0000000884"}
    assert said in next(line["message"] for line in logs if line["event"] == "finding")


async def test_a_disk_that_is_full_leaves_the_file_and_the_detector_at_work(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    await host.detector.look()
    host.machine.network.remove(BRIDGE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            await host.detector.look()
    assert host.features == BOTH
    await host.detector.look()
    assert host.features == without("dpu-oob-bridge-configured")


def test_it_looks_at_once_after_changes_and_every_minute(host: Host) -> None:
    async def story() -> None:
        clock = asyncio.get_running_loop().time
        task = asyncio.create_task(host.detector.run())
        await _until(lambda: host.features == BOTH)
        assert clock() < 1.0
        # A change of the network is seen when it comes, one of a card when its time has come.
        host.machine.network.remove(BRIDGE)
        await _until(lambda: "dpu-oob-bridge-configured" not in host.features)
        assert clock() < 5.0
        shutil.rmtree(host.machine.sysfs.devices / f"{FOUR.slot}.0")
        shutil.rmtree(host.machine.sysfs.devices / f"{FOUR.slot}.1")
        await _until(lambda: "dpu-0-pci-address" not in host.features)
        assert 55.0 < clock() < 70.0
        task.cancel()

    run_virtual(story)


async def test_a_card_that_hangs_is_a_problem_of_its_own(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pci, "VPD", 0.05)
    vpd = host.function(FOUR) / "vpd"
    vpd.unlink()
    # Nobody is at the other end, so who opens it waits.
    os.mkfifo(vpd)
    before = threading.active_count()
    for _ in range(10):
        scanner = Scanner(Sysfs(host.machine.root / "sys"))
        found = await asyncio.wait_for(scanner.scan(), 10)
        assert [card.slot for card in found.cards] == [FOUR.slot, FIVE.slot]
        assert found.cards[1].found["serial-number"] == FIVE.serial
        assert found.problems == {(FOUR.slot, "vpd"): "vital product data can't be read: no answer for 0.05 s"}
    assert threading.active_count() <= before + 3
    os.close(os.open(vpd, os.O_RDWR | os.O_NONBLOCK))


def test_a_card_that_did_not_answer_is_asked_again_after_a_while(host: Host) -> None:
    async def story() -> None:
        vpd = host.function(FOUR) / "vpd"
        data = vpd.read_bytes()
        vpd.write_bytes(b"")
        await host.detector.look()
        vpd.write_bytes(data)
        await host.detector.look()
        assert "dpu-0-serial-number" not in host.features
        await asyncio.sleep(AGAIN)
        await host.detector.look()
        assert host.features == BOTH

    run_virtual(story)


def test_without_a_sysfs_it_says_so_once_and_goes_on(host: Host) -> None:
    async def story() -> None:
        with capture_logs() as logs:
            shutil.rmtree(host.machine.root / "sys")
            task = asyncio.create_task(host.detector.run(interval=10.0))
            await asyncio.sleep(35.0)
            assert [line["event"] for line in logs] == ["finding"]
            assert "No such file" in logs[0]["message"]
            assert not host.detector.looked
            host.machine.power_on()
            await _until(lambda: host.features == BOTH)
            task.cancel()

    run_virtual(story)


async def _until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(600):
        while not condition():
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("method", ["link", "default_metrics"])
async def test_a_kernel_that_does_not_tell_of_the_bridge_changes_nothing_that_was_said_of_it(
    host: Host, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    async def refuse(_: object) -> None:
        raise NetworkError("no buffer space")

    with monkeypatch.context() as patch:
        patch.setattr(host.network, method, refuse)
        await host.detector.look()
        assert host.features == without("dpu-oob-bridge-configured"), "what was never seen is not claimed"
    await host.detector.look()
    shutil.rmtree(host.function(FIVE) / "net")
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(host.network, method, refuse)
        await host.detector.look()
        assert host.features == without("dpu-1-pf0-name"), "the rest is looked at all the same"
    assert "no buffer space" in [line["message"] for line in logs if line["event"] == "finding"]
    host.machine.network.remove(BRIDGE)
    await host.detector.look()
    assert host.features == without("dpu-1-pf0-name", "dpu-oob-bridge-configured")


async def test_the_bridge_must_be_there_and_leave_the_default_route_alone(host: Host) -> None:
    network = host.machine.network
    index = network.links[BRIDGE].index
    assert await bridge.problem(host.network, BRIDGE) == ""
    for metrics, said in (((), "no default route"), ((5, 2), "metric 2"), ((0,), "metric 0")):
        network.routes[index] = metrics
        assert said in await bridge.problem(host.network, BRIDGE)
    network.routes[index] = (3, 100)
    assert await bridge.problem(host.network, BRIDGE) == ""
    network.change(BRIDGE, kind="veth")  # type: ignore[arg-type]
    assert "is no bridge but veth" in await bridge.problem(host.network, BRIDGE)
    network.remove(BRIDGE)
    assert "there is no bridge br-dpu" in await bridge.problem(host.network, BRIDGE)
