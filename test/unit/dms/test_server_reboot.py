"""Reboots of the host over real gRPC: once for each request."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from dpf.dms.card import CardError
from dpf.dms.hostreboot import HostReboots
from dpf.dms.metrics import DmsMetrics
from dpf.dms.server import ServerConfig
from dpf.dms.state import HostReboot, Store
from dpf.gnxi.gen import gnoi_system_pb2 as system_pb2
from dpf.gnxi.gen import gnoi_types_pb2 as types_pb2
from dpf.provisioning.dpu.install import Unreachable
from dpf.provisioning.dpu.rebootpolicy import Policy, Power
from test.unit.dms.fakes import CountingCard, config, served


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


def component(name: str) -> Any:
    return types_pb2.Path(elem=[types_pb2.PathElem(name=name)])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"delay": 600_000_000_000}, "cannot be delayed"),
        ({"subcomponents": [component("CPU")]}, "CPU cannot be rebooted by itself"),
        ({"subcomponents": [component("chassis"), component("CPU")]}, "CPU cannot be rebooted by itself"),
    ],
)
async def test_a_reboot_of_less_than_the_host_or_later_than_now_is_refused(
    tmp_path: Path, more: dict[str, Any], says: str
) -> None:
    card = CountingCard()
    async with served(config(tmp_path), card) as client:
        with pytest.raises(grpc.aio.AioRpcError, match=says) as info:
            await client._system.Reboot(system_pb2.RebootRequest(method="COLD", message="r", **more))
        assert info.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await client.reboot_failure() == ""
    assert card.resets == []


async def test_a_reboot_that_two_ask_for_at_once_is_one(tmp_path: Path) -> None:
    class Slow(CountingCard):
        async def boot_id(self) -> str:
            await asyncio.sleep(0)
            return await super().boot_id()

        async def power_cycle(self, power: Any, request: str) -> None:
            await super().power_cycle(power, request)
            await asyncio.Event().wait()

    card = Slow()
    reboots = HostReboots(card, Store(tmp_path / "card.json"), DmsMetrics())
    asked = [reboots.ask(request, "COLD", "reset") for request in ("r1", "r1", "r2")]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["None", "None", "another reboot of the host is under way"]
    await asyncio.sleep(0)
    await reboots.close()
    assert card.resets == [("COLD", "reset")]


async def cut_short(settings: ServerConfig, card: CountingCard, request: str) -> None:
    """A server ends while it resets the host."""
    begun = asyncio.Event()

    async def hang(power: str, request: str) -> None:
        begun.set()
        await asyncio.Event().wait()

    original, card.reset = card.reset, hang  # type: ignore[method-assign]
    async with served(settings, card) as client:
        await client.reboot(Policy("WARM", Power.RESET), request)
        await asyncio.wait_for(begun.wait(), 20)
    card.reset = original  # type: ignore[method-assign]


async def test_a_reboot_that_ended_this_process_is_not_taken_up_again(tmp_path: Path) -> None:
    card, settings = CountingCard(), config(tmp_path)
    await cut_short(settings, card, "uid/boot-1")
    card.host_boot_id = "boot-2"
    async with served(settings, card) as client:
        await client.report()
    assert card.resets == []


async def test_a_reboot_cut_short_is_taken_up_in_the_same_boot(tmp_path: Path) -> None:
    card, settings = CountingCard(), config(tmp_path)
    await cut_short(settings, card, "uid/boot-1")
    async with served(settings, card):
        async with asyncio.timeout(20):
            while not card.resets:
                await asyncio.sleep(0.01)
    assert card.resets == [("WARM", "reset")]


async def test_a_reboot_cut_short_is_not_taken_up_for_the_next_dpu_of_the_card(tmp_path: Path) -> None:
    card, settings = CountingCard(), config(tmp_path)
    await cut_short(replace(settings, owner="uid-1"), card, "uid-1/boot-1")
    async with served(replace(settings, owner="uid-2"), card) as client:
        left = Store(settings.state_file).record.reboot
        assert left is not None
        assert left.failure == "the DPU for which it was asked is gone"
        assert await client.reboot_failure() == "", "no reboot of its own has failed"
        await client.reboot(Policy("COLD", Power.RESET), "uid-2/boot-1")
        async with asyncio.timeout(20):
            while not card.resets:
                await asyncio.sleep(0.01)
    assert card.resets == [("COLD", "reset")]


async def test_a_reboot_cut_short_is_taken_up_for_the_dpu_that_asked_for_it(tmp_path: Path) -> None:
    card, store = CountingCard(), Store(tmp_path / "card.json")
    store.save(reboot=HostReboot("uid-1/boot-1", "WARM", "reset", card.host_boot_id))
    reboots = HostReboots(card, store, DmsMetrics(), "uid-1")
    await reboots.resume()
    async with asyncio.timeout(20):
        while reboots.active:
            await asyncio.sleep(0)
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
