"""The program's loop on a simulated host: it makes the network, keeps it, says what keeps it from that, and leaves."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dpf.host.network import BRIDGE
from dpf.hostnetwork.decide import Problem, Wanted
from dpf.hostnetwork.hostnetwork import GivenUp, HostNetwork
from dpf.hostnetwork.marker import Marker, last_words
from dpf.runtime.testing import run_virtual
from dpf.sandbox.fleet.machine import Hardware, Machine, SimulatedSysfs, View

CARD = Hardware("0000:90:00", "ens1f0np0")
PF0, PF1 = "0000:90:00.0", "0000:90:00.1"
VF0 = "ens1f0v0"


@dataclass
class Said:
    """What the program told, the latest last."""

    problems: list[Problem | None] = field(default_factory=list)

    def tell(self, problem: Problem | None) -> None:
        if not self.problems or self.problems[-1] != problem:
            self.problems.append(problem)

    @property
    def reason(self) -> str:
        if not self.problems:
            return "nothing"
        return self.problems[-1].reason if self.problems[-1] is not None else "ready"


class World:
    """A host with one card, and the program on it."""

    def __init__(self, root: Path, machine: Machine, network: View) -> None:
        self.root = root
        self.machine = machine
        self.view = network
        self.said = Said()
        self.program = self.started()

    def started(self, functions: int = 4) -> HostNetwork:
        """The program, just started."""
        return HostNetwork(Wanted(CARD.slot, functions, 9000), self.machine.sysfs, self.view, self.said)

    @property
    def attached(self) -> bool:
        links = self.machine.network.links
        return VF0 in links and BRIDGE in links and links[VF0].master == links[BRIDGE].index

    async def until(self, reason: str, after: int = 0) -> None:
        """Returns when that is told, and more than ``after`` things have been."""
        try:
            async with asyncio.timeout(3600):
                while self.said.reason != reason or len(self.said.problems) <= after:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"waited for {reason}, told was {self.said.problems}") from None


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    machine = Machine(tmp_path, [CARD])
    machine.power_on()
    machine.sysfs = SimulatedSysfs(tmp_path / "sys", machine.network, shown=16)
    with machine.network.view() as network:
        yield World(tmp_path, machine, network)


def running(world: World, story: Callable[[], Awaitable[None]], give_up_after: float = 0.0) -> None:
    """Runs a story beside the program, in virtual time."""

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(world.program.run(give_up_after=give_up_after))
            await story()
            task.cancel()

    run_virtual(both)


def test_functions_of_both_ports_are_made_and_the_first_is_in_the_bridge(world: World) -> None:
    async def story() -> None:
        await world.until("ready")
        assert (world.machine.sysfs.count(PF0), world.machine.sysfs.count(PF1)) == (4, 4)
        link = world.machine.network.links[VF0]
        assert (link.mtu, link.up, world.attached) == (9000, True, True)
        assert asyncio.get_running_loop().time() < 1.0

    running(world, story)


def test_a_card_with_one_port_needs_no_other(world: World) -> None:
    async def story() -> None:
        shutil.rmtree(world.machine.sysfs.devices / PF1)
        await world.until("ready")

    running(world, story)


def test_a_second_function_that_is_no_port_is_left_alone(world: World) -> None:
    async def story() -> None:
        (world.machine.sysfs.devices / PF1 / "device").write_text("0xc2d5\n")
        await world.until("ready")
        assert world.machine.sysfs.count(PF1) == 0

    running(world, story)


@pytest.mark.parametrize("undone", ["master", "mtu", "up"])
def test_what_is_undone_by_hand_is_done_again_at_once(world: World, undone: str) -> None:
    async def story() -> None:
        await world.until("ready")
        before, told = asyncio.get_running_loop().time(), len(world.said.problems)
        match undone:
            case "master":
                world.machine.network.change(VF0, master=0)
            case "mtu":
                world.machine.network.change(VF0, mtu=1500)
            case "up":
                world.machine.network.change(VF0, up=False)
        await world.until("ready", after=told)
        assert [problem and problem.reason for problem in world.said.problems[told:]] == ["Mending", None]
        link = world.machine.network.links[VF0]
        assert (world.attached, link.mtu, link.up) == (True, 9000, True)
        assert asyncio.get_running_loop().time() - before < 1.0

    running(world, story)


def test_functions_that_were_taken_away_are_made_again(world: World) -> None:
    async def story() -> None:
        await world.until("ready")
        told = len(world.said.problems)
        await world.machine.reboot()
        await world.until("ready", after=told)
        assert world.machine.sysfs.count(PF0) == 4

    running(world, story)


def test_success_does_not_outlive_the_bridge(world: World) -> None:
    async def story() -> None:
        network = world.machine.network
        await world.until("ready")
        network.addresses.clear()
        network.notify()
        await world.until("BridgeWithoutAddress")
        assert world.attached, "nothing is taken from a card because its bridge has no address"
        network.remove(BRIDGE)
        await world.until("BridgeMissing")
        network.add_bridge()
        await world.until("ready")

    running(world, story)


def test_a_smaller_number_of_functions_is_made_anew_while_nobody_uses_them(world: World) -> None:
    async def story() -> None:
        await world.machine.sysfs.set_count(PF0, 2)
        await world.until("ready")
        assert world.machine.sysfs.count(PF0) == 4

    running(world, story)


@pytest.mark.parametrize(
    ("use", "said"),
    [
        ("bridge", "ens1f0v1 (0000:90:01.1) belongs to device 99"),
        ("address", "ens1f0v1 (0000:90:01.1) has an IPv4 address"),
        ("up", "ens1f0v1 (0000:90:01.1) is up, as it is while somebody uses it"),
        ("namespace", "0000:90:01.1 has its network device in another network namespace"),
        ("vfio", "0000:90:01.1 is held by driver vfio-pci"),
    ],
)
def test_functions_that_somebody_uses_are_not_taken_away(world: World, use: str, said: str) -> None:
    async def story() -> None:
        network, function = world.machine.network, world.machine.sysfs.devices / "0000:90:01.1"
        await world.machine.sysfs.set_count(PF0, 2)
        match use:
            case "bridge":
                network.change("ens1f0v1", master=99)
            case "address":
                network.addresses.add(network.links["ens1f0v1"].index)
            case "up":  # All that is seen of an IPv6 address, a VLAN or a DPDK program.
                network.change("ens1f0v1", up=True)
            case "namespace":
                shutil.rmtree(function / "net" / "ens1f0v1")
            case "vfio":
                (function / "driver").unlink()
                (function / "driver").symlink_to("../../drivers/vfio-pci")
        await world.until("FunctionsInUse")
        problem = world.said.problems[-1]
        assert problem is not None
        assert said in problem.message
        assert world.machine.sysfs.count(PF0) == 2
        assert world.attached, "the card's way to the bridge is there all the same"

    running(world, story)


def test_functions_are_made_anew_once_what_was_up_is_taken_down(world: World) -> None:
    async def story() -> None:
        await world.machine.sysfs.set_count(PF0, 2)
        world.machine.network.change("ens1f0v1", up=True)
        await world.until("FunctionsInUse")
        world.machine.network.change("ens1f0v1", up=False)
        await world.until("ready")
        assert world.machine.sysfs.count(PF0) == 4

    running(world, story)


def test_our_own_function_is_not_in_the_way_though_it_was_up_before_it_was_in_the_bridge(world: World) -> None:
    async def story() -> None:
        await world.machine.sysfs.set_count(PF0, 2)
        world.machine.network.change(VF0, up=True)
        await world.until("ready")
        assert world.machine.sysfs.count(PF0) == 4

    running(world, story)


def test_a_function_without_a_driver_is_used_by_nobody(world: World) -> None:
    async def story() -> None:
        await world.machine.sysfs.set_count(PF0, 2)
        (world.machine.sysfs.devices / "0000:90:01.1" / "driver").unlink()
        await world.until("ready")
        assert world.machine.sysfs.count(PF0) == 4

    running(world, story)


def test_a_card_that_is_missing_is_waited_for(world: World) -> None:
    async def story() -> None:
        shutil.rmtree(world.machine.sysfs.devices / PF0)
        await world.until("CardMissing")
        world.machine.power_on()
        await world.until("ready")

    running(world, story)


def test_garbage_in_sysfs_ends_a_pass_and_not_the_program(world: World) -> None:
    async def story() -> None:
        (world.machine.sysfs.devices / PF0 / "sriov_numvfs").write_text("garbage\n")
        await world.until("HostUnreadable")
        (world.machine.sysfs.devices / PF0 / "sriov_numvfs").write_text("0\n")
        await world.until("ready")

    running(world, story)


def test_a_driver_that_refuses_is_asked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(address: str, number: int) -> None:
        raise OSError(12, "Cannot allocate memory")

    async def story() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(world.machine.sysfs, "set_count", refuse)
            await world.until("ActionFailed")
            problem = world.said.problems[-1]
            assert problem is not None
            assert "make 4 virtual functions of 0000:90:00.0: [Errno 12] Cannot allocate memory" in problem.message
        await world.until("ready")

    running(world, story)


def test_a_kernel_that_takes_everything_and_keeps_nothing_is_called_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forget(index: int, master: int) -> None:
        return

    async def story() -> None:
        monkeypatch.setattr(world.view, "set_master", forget)
        await world.until("NothingHolds")

    running(world, story)


def test_trouble_that_lasts_ends_it_with_the_reason_while_nothing_is_lost_by_that(world: World) -> None:
    world.machine.network.remove(BRIDGE)
    with pytest.raises(GivenUp, match="BridgeMissing: there is no bridge br-dpu"):
        run_virtual(lambda: world.program.run(give_up_after=300.0))


def test_it_is_not_given_up_while_the_card_is_in_the_bridge(world: World) -> None:
    async def story() -> None:
        await world.until("ready")
        world.machine.network.addresses.clear()
        world.machine.network.notify()
        await world.until("BridgeWithoutAddress")
        await asyncio.sleep(3000.0)
        assert world.attached

    running(world, story, give_up_after=300.0)


def test_trouble_that_is_over_is_forgotten(world: World) -> None:
    async def story() -> None:
        network = world.machine.network
        for _ in range(3):
            network.remove(BRIDGE)
            await world.until("BridgeMissing")
            await asyncio.sleep(200.0)
            network.add_bridge()
            await world.until("ready")

    running(world, story, give_up_after=300.0)


def test_leaving_takes_the_function_out_of_our_bridge_alone(world: World) -> None:
    async def story() -> None:
        await world.until("ready")

    running(world, story)
    run_virtual(world.program.leave)
    assert world.machine.network.links[VF0].master == 0
    world.machine.network.change(VF0, master=99)
    run_virtual(world.program.leave)
    assert world.machine.network.links[VF0].master == 99


def test_a_program_that_was_killed_finds_its_work_done(world: World) -> None:
    async def story() -> None:
        await world.until("ready")

    running(world, story)
    world.said = Said()
    world.program = world.started()
    running(world, story)
    assert world.said.problems == [None], "there was nothing to do"


def test_the_marker_is_there_while_all_is_well_and_only_then(tmp_path: Path) -> None:
    marker = Marker(tmp_path / "succeed", tmp_path / "status")
    marker.tell(Problem("BridgeMissing", "make it"))
    assert not (tmp_path / "succeed").exists()
    assert (tmp_path / "status").read_text() == "BridgeMissing: make it\n"
    marker.tell(None)
    assert (tmp_path / "succeed").exists()
    assert (tmp_path / "status").read_text() == "ready\n"
    marker.tell(Problem("BridgeMissing", "make it"))
    assert not (tmp_path / "succeed").exists()
    marker.tell(None)
    marker.clear()
    assert list(tmp_path.iterdir()) == []


def test_last_words_are_left_where_the_kubelet_looks_for_them(tmp_path: Path) -> None:
    last_words(tmp_path / "nowhere", "x")
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "log").touch()
    last_words(tmp_path / "log", "no card")
    assert (tmp_path / "log").read_text() == "no card\n"
