"""The rshim adapter against a folder that behaves as the driver's does, and tools that record how they are called."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from dpf.dms import devices, rshim
from dpf.dms.activation import Activator
from dpf.dms.card import CardError, State
from dpf.dms.devices import Place
from dpf.dms.images import Images
from dpf.dms.metrics import DmsMetrics
from dpf.dms.rshim import RshimCard
from dpf.dms.state import Store

INSTALLING = ["INFO[BL2]: start", "INFO[MISC]: Linux up", "INFO[MISC]: Installing OS image"]
INSTALLED = [*INSTALLING, "INFO[MISC]: Installation finished", "INFO[MISC]: Rebooting..."]
UP = ["INFO[BL2]: start", "INFO[MISC]: Linux up", "INFO[MISC]: DPU is ready"]


class Device:
    """A device folder: ``misc`` takes settings and then tells, ``boot`` takes bytes."""

    def __init__(self, folder: Path, pci: str) -> None:
        self.folder = folder
        self.pci = pci
        self.log: list[str] = []
        self.emptying = False
        self._stop = False
        self._there = threading.Event()
        folder.mkdir(parents=True)
        os.mkfifo(folder / "misc")
        (folder / "boot").touch()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stop:
            try:
                told = dict(line.split() for line in (self.folder / "misc").read_text().splitlines())
            except FileNotFoundError:
                self._there.wait()
                continue
            if "DISPLAY_LEVEL" not in told:
                continue  # opened and left, as close() does it
            level, self.emptying = int(told["DISPLAY_LEVEL"]), told.get("CLEAR_ON_READ") == "1"
            text = [f"DISPLAY_LEVEL {level}", f"DEV_NAME pcie-{self.pci}.2"]
            shown = [f" {line}" for line in self.log] if level == devices.LOG else []
            if self.emptying:
                self.log = self.log[len(shown) :]
            with suppress(BrokenPipeError):
                (self.folder / "misc").write_text("\n".join([*text, *shown]) + "\n")

    def hide(self) -> None:
        """Takes ``misc`` away, as while the card resets."""
        self._there.clear()
        (self.folder / "misc").rename(self.folder / "misc.gone")

    @property
    def hidden(self) -> bool:
        return (self.folder / "misc.gone").exists()

    def show(self) -> None:
        (self.folder / "misc.gone").rename(self.folder / "misc")
        self._there.set()

    def close(self) -> None:
        self._stop = True
        while self._thread.is_alive():
            # Whoever waits for the other end of a pipe, to read or to write, waits no longer; this itself waits for nobody.
            os.close(os.open(self.folder / "misc", os.O_RDWR | os.O_NONBLOCK))
            self._thread.join(0.01)

    @property
    def booted(self) -> bytes:
        return (self.folder / "boot").read_bytes()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    device = Device(tmp_path / "dev" / "rshim0", "0000:04:00")
    yield device
    device.close()


@pytest.fixture
def card(device: Device) -> RshimCard:
    return RshimCard(Place("0000:04:00", devices=device.folder.parent))


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on the path; every tool in it records its arguments in ``calls``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("mlxconfig", "mlxfwreset", "flint", "ipmitool"):
        tool = folder / name
        tool.write_text(
            f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\ncat {tmp_path}/{name}.out 2>/dev/null || true\n'
        )
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path


async def test_image_and_configuration_are_written_to_the_boot_device_in_one_go(
    card: RshimCard, device: Device, tmp_path: Path
) -> None:
    image = tmp_path / "x.bfb"
    image.write_bytes(b"i" * (3 * rshim.PIECE + 5))
    await card.boot(image, "x.bfb", b"# bf.cfg\n", "id")
    assert device.booted == image.read_bytes() + b"# bf.cfg\n"


async def test_what_the_card_takes_is_told_as_it_takes_it(device: Device, tmp_path: Path) -> None:
    image, taken = tmp_path / "x.bfb", list[int]()
    image.write_bytes(b"i" * (rshim.PIECE + 5))
    await RshimCard(Place("0000:04:00", device.folder), wrote=taken.append).boot(image, "x.bfb", b"# bf.cfg\n", "id")
    assert taken == [rshim.PIECE, 5, 9]


async def test_the_card_is_found_by_its_address(device: Device, tmp_path: Path) -> None:
    other = Device(tmp_path / "dev" / "rshim1", "0000:85:00")
    assert await Place("85:00", devices=device.folder.parent).folder() == other.folder
    with pytest.raises(CardError, match=r"no rshim of rshim0, rshim1 shows a card at 99:00"):
        await Place("99:00", devices=device.folder.parent).folder()
    other.close()


async def test_a_folder_whose_driver_ends_while_it_is_looked_at_is_not_kept(device: Device) -> None:
    class Ending(Place):
        async def look(self) -> Path | None:
            found = await super().look()
            if not self.why:
                return found
            self.forget()
            self.why = ""
            return found

    place = Ending("0000:04:00", devices=device.folder.parent)
    with pytest.raises(CardError, match="shows a card"):
        await place.folder()
    assert await place.folder() == device.folder


async def test_a_card_is_found_beside_one_that_can_not_be_read(device: Device) -> None:
    devices = device.folder.parent
    (devices / "rshim").mkdir()
    assert await Place("0000:04:00", devices=devices).folder() == device.folder
    with pytest.raises(CardError, match="rshim/misc: No such file"):
        await Place("0000:99:00", devices=devices).folder()


@pytest.mark.parametrize(
    ("wanted", "shown", "same"),
    [
        ("0000:04:00", "pcie-0000:04:00.2", True),
        ("0001:04:00", "pcie-0000:04:00.2", False),
        ("0000:04:00", "pcie-0001:04:00.2", False),
        ("0000:04:00", "pcie-04:00.2", True),
        ("04:00", "pcie-0001:04:00.2", True),
        ("0000:a4:00", "pcie-0000:A4:00.2", True),
        ("10000:04:00", "pcie-10000:04:00.2", True),
        ("0000:04:00", "pcie-0000:04:00", False),
        ("0000:04:00", "pcie-0004:00:04.2", False),
    ],
)
def test_cards_of_two_pci_domains_are_told_apart(wanted: str, shown: str, same: bool) -> None:
    assert devices.shows(f"DISPLAY_LEVEL 1\nDEV_NAME        {shown} (ro)\n", wanted) == same


@pytest.mark.parametrize(
    ("log", "state", "percent"),
    [
        ([], State.INSTALLING, 0),
        (INSTALLING[:1], State.INSTALLING, 5),
        (INSTALLING, State.INSTALLING, 40),
        (INSTALLED, State.BOOTING, 92),
        ([*INSTALLED, *UP[:1]], State.BOOTING, 92),
        ([*INSTALLED, *UP], State.UP, 100),
        ([*UP, *INSTALLING], State.INSTALLING, 40),
        ([*INSTALLING[:1], "PANIC(BL31): PC = 0x88"], State.FAILED, 5),
        ([*INSTALLING, "ERR[MISC]: eMMC not found"], State.FAILED, 40),
    ],
)
async def test_the_log_tells_how_far_the_card_is(
    card: RshimCard, device: Device, log: list[str], state: State, percent: int
) -> None:
    device.log = log
    status = await card.status()
    assert (status.state, status.percent) == (state, percent)


async def test_following_ends_when_the_card_is_up(
    card: RshimCard, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rshim, "POLL", 0.01)
    device.log = INSTALLING
    states = []
    async for status in card.follow():
        states.append(status.state)
        device.log = {State.INSTALLING: INSTALLED, State.BOOTING: [*INSTALLED, *UP]}.get(status.state, device.log)
    assert states == [State.INSTALLING, State.BOOTING, State.UP]


async def test_the_log_is_emptied_while_the_card_installs_as_it_holds_only_a_kilobyte(
    card: RshimCard, device: Device, tmp_path: Path
) -> None:
    device.log = [*UP]
    image = tmp_path / "x.bfb"
    image.write_bytes(b"x")
    await card.boot(image, "x.bfb", b"", "id")
    assert (await card.status()).state is State.INSTALLING, "what the system before said does not count"
    device.log = [*INSTALLING]
    assert (await card.status()).percent == 40
    assert device.log == []
    assert (await card.status()).percent == 40
    device.log = INSTALLED[len(INSTALLING) :]
    assert (await card.status()).state is State.BOOTING
    assert not device.emptying
    device.log = [*UP]
    assert (await card.status()).state is State.UP
    assert device.log == UP, "the next process can read it too"


async def test_a_process_that_takes_over_sees_the_installation_through(
    card: RshimCard, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rshim, "POLL", 0.001)
    says = [INSTALLED[len(INSTALLING) :], UP]
    states = []
    async for status in card.follow():
        states.append(status.state)
        device.log = [*(says.pop(0) if says else device.log)]
    assert states == [State.INSTALLING, State.BOOTING, State.UP]


async def test_a_device_that_is_gone_while_the_card_resets_is_waited_for(
    card: RshimCard, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rshim, "POLL", 0.001)
    device.log = [*INSTALLED]
    messages = []
    async for status in card.follow():
        messages.append(status.message)
        if len(messages) == 1:
            device.hide()
        elif device.hidden:
            device.log = [*UP]
            device.show()
    assert "No such file" in messages[1]
    assert status.state is State.UP


class OldMisc(FileIO):
    """A ``misc`` that knows no CLEAR_ON_READ."""

    def write(self, data: Any) -> int:
        if data.startswith(b"CLEAR_ON_READ"):
            raise OSError(errno.EINVAL, "Invalid argument")
        return super().write(data)


def test_a_driver_that_cannot_empty_its_log_is_read_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "opened", lambda path: OldMisc(path, "w"))
    assert devices.tell(tmp_path / "misc", devices.LOG, True) == ("DISPLAY_LEVEL 2\n", False)


async def test_no_image_is_given_to_a_card_whose_old_log_would_be_taken_for_the_new_one(
    card: RshimCard, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "opened", lambda path: OldMisc(path, "w"))
    device.log = [*UP]
    image = tmp_path / "x.bfb"
    image.write_bytes(b"x")
    with pytest.raises(CardError, match=r"must be 2\.0\.33 or newer") as info:
        await card.boot(image, "x.bfb", b"", "id")
    assert not info.value.passing
    assert device.booted == b""


class SlowBoot(FileIO):
    """A ``boot`` that is closed when the test says so."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "a")
        self.closing, self.taken = threading.Event(), threading.Event()

    def close(self) -> None:
        self.closing.set()
        self.taken.wait(20)
        super().close()


async def test_a_server_that_ends_while_the_card_takes_the_last_of_an_image_notes_that_it_has_it(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot, opened = SlowBoot(device.folder / "boot"), devices.opened
    monkeypatch.setattr(devices, "opened", lambda path: boot if path.name == "boot" else opened(path))
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "x.bfb").write_bytes(b"image")
    (folder / "d.cfg").write_bytes(b"# bf.cfg\n")

    def activator() -> Activator:
        card = RshimCard(Place("0000:04:00", devices=device.folder.parent))
        store = Store(tmp_path / "state" / "card.json")
        return Activator(card, Images(folder, "card"), store, timeout=None, metrics=DmsMetrics())

    first = activator()
    await first.activate("x.bfb;d.cfg")
    assert await asyncio.to_thread(boot.closing.wait, 20)
    ending = asyncio.create_task(first.close())
    await asyncio.sleep(0)
    boot.taken.set()
    await asyncio.wait_for(ending, 20)
    second = activator()
    assert second.current is not None
    assert second.current.progress == "pushed"
    await second.resume()
    device.log = [*INSTALLED, *UP]
    async with asyncio.timeout(20):
        while second.current.running:
            await asyncio.sleep(0.01)
    assert "DPU is ready" in second.current.message
    assert device.booted == b"image# bf.cfg\n", "once"


async def test_an_image_for_a_driver_that_is_gone_is_not_written_to_a_plain_file(
    card: RshimCard, device: Device, tmp_path: Path
) -> None:
    image = tmp_path / "x.bfb"
    image.write_bytes(b"x")
    (device.folder / "boot").unlink()
    with pytest.raises(CardError, match="boot: No such file"):
        await card.boot(image, "x.bfb", b"", "id")
    assert not (device.folder / "boot").exists()


async def test_a_card_that_hangs_holds_one_thread_and_the_host_can_be_rebooted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices.in_thread, "__defaults__", (0.01,))
    # Nobody is at the other end, so who opens it waits.
    os.mkfifo(tmp_path / "misc")
    card, before = RshimCard(Place("0000:04:00", tmp_path)), threading.active_count()
    for _ in range(40):
        with pytest.raises(CardError, match="misc does not answer for") as info:
            await card.status()
        assert info.value.passing
    assert threading.active_count() <= before + 2
    assert await card.boot_id()
    os.close(os.open(tmp_path / "misc", os.O_RDWR | os.O_NONBLOCK))


async def test_an_image_that_hangs_stops_nothing_but_its_push(
    card: RshimCard, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices.in_thread, "__defaults__", (0.2,))
    image = tmp_path / "x.bfb"
    os.mkfifo(image)
    # Somebody has it open and writes nothing, so who reads it waits.
    end = os.open(image, os.O_RDWR | os.O_NONBLOCK)
    async with asyncio.timeout(10):
        with pytest.raises(CardError, match=r"x\.bfb does not answer for") as info:
            await card.boot(image, "x.bfb", b"", "id")
    assert info.value.passing
    os.close(end)


async def test_a_failure_names_the_line(card: RshimCard, device: Device) -> None:
    device.log = [*INSTALLING, "INFO[MISC]: Installation failed: no disk"]
    assert (await card.status()).message == "INFO[MISC]: Installation failed: no disk"


async def test_the_mode_is_changed_only_if_it_is_another(card: RshimCard, tools: Path) -> None:
    (tools / "mlxconfig.out").write_text("  INTERNAL_CPU_OFFLOAD_ENGINE   DISABLED(1)\n")
    assert await card.mode() == "NIC"
    await card.set_mode("NIC")
    await card.set_mode("DPU")
    sets = [line for line in (tools / "calls").read_text().splitlines() if " s " in line]
    assert sets == ["mlxconfig -d 0000:04:00.0 -y s INTERNAL_CPU_OFFLOAD_ENGINE=0"]


FLINT = """\
Image type:            FS4
FW Version:            32.43.1014
FW Version(Running):   32.39.2048
FW Release Date:       7.11.2024
Rom Info:              type=UEFI version=14.36.16 cpu=AMD64,AARCH64
PSID:                  MT_0000000884
"""


async def test_the_firmware_is_what_counts_after_the_next_reset(card: RshimCard, tools: Path) -> None:
    (tools / "flint.out").write_text(FLINT)
    assert await card.firmware() == {"nic": "32.43.1014"}
    assert (tools / "calls").read_text() == "flint -d 0000:04:00.0 q\n"
    (tools / "flint.out").write_text("-E- Cannot open Device\n")
    assert await card.firmware() == {}


async def test_a_reset_shuts_the_arm_side_down_before_the_host(card: RshimCard, device: Device, tools: Path) -> None:
    device.log = ["INFO[BL31]: System Off"]
    await card.reset("cycle", "id")
    assert (tools / "calls").read_text().splitlines() == [
        "mlxfwreset -d 0000:04:00.0 -l 1 -t 4 reset -y --sync 0",
        "mlxfwreset -d 0000:04:00.0 -l 4 r -y",
        "ipmitool chassis power cycle",
    ]


async def test_the_host_is_not_reset_while_the_arm_side_runs(
    card: RshimCard, device: Device, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rshim, "ARM_OFF_PAUSE", 0.001)
    with pytest.raises(CardError, match="Arm side did not go down"):
        await card.reset("cycle", "id")
    assert "ipmitool" not in (tools / "calls").read_text()


async def test_a_tool_that_fails_or_is_missing_is_named(
    card: RshimCard, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tools / "bin" / "ipmitool").write_text("#!/bin/sh\necho no BMC here; exit 3\n")
    with pytest.raises(CardError, match="ipmitool failed with 3: no BMC here"):
        await card.power_cycle("cycle", "id")
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(CardError, match="ipmitool cannot be run"):
        await card.power_cycle("cycle", "id")


async def test_a_device_that_does_not_answer_is_given_up(
    card: RshimCard, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (device.folder / "boot").unlink()
    (device.folder / "boot").mkdir()
    image = tmp_path / "x.bfb"
    image.write_bytes(b"x")
    with pytest.raises(CardError, match="boot: Is a directory") as info:
        await card.boot(image, "x.bfb", b"", "id")
    assert info.value.passing
