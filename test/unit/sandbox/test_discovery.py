"""How a simulated host gets its labels."""

from __future__ import annotations

import shutil
from contextlib import aclosing
from pathlib import Path

import pytest

from dpf.host.network import BRIDGE
from dpf.runtime.testing import run_virtual
from dpf.sandbox.fleet.discovery import Changes, Discovery
from dpf.sandbox.fleet.machine import Hardware, Machine
from dpf_api.names import FEATURE_PREFIX

CARDS = [Hardware("0000:04:00", "ens1f0np0", 0, serial="MT1"), Hardware("0000:05:00", "ens2f0np0", 1, serial="MT2")]
LABELS = {
    f"{FEATURE_PREFIX}dpu-0-pci-address": "0000-04-00",
    f"{FEATURE_PREFIX}dpu-0-pf0-name": "ens1f0np0",
    f"{FEATURE_PREFIX}dpu-0-ps-id": "MT_0000000884",
    f"{FEATURE_PREFIX}dpu-0-part-number": "900-9D3B6-00CV-AA0",
    f"{FEATURE_PREFIX}dpu-0-serial-number": "MT1",
    f"{FEATURE_PREFIX}dpu-1-pci-address": "0000-05-00",
    f"{FEATURE_PREFIX}dpu-1-pf0-name": "ens2f0np0",
    f"{FEATURE_PREFIX}dpu-1-ps-id": "MT_0000000884",
    f"{FEATURE_PREFIX}dpu-1-part-number": "900-9D3B6-00CV-AA0",
    f"{FEATURE_PREFIX}dpu-1-serial-number": "MT2",
    f"{FEATURE_PREFIX}dpu-oob-bridge-configured": "",
    f"{FEATURE_PREFIX}dpu-enabled": "true",
}


def started(root: Path) -> tuple[Machine, Discovery]:
    machine = Machine(root, CARDS)
    machine.power_on()
    return machine, Discovery(machine)


async def first(discovery: Discovery) -> Changes:
    async with aclosing(discovery.follow(60.0)) as features:
        return await anext(features)


async def test_a_host_has_the_labels_of_its_cards_and_of_the_rule(tmp_path: Path) -> None:
    _, discovery = started(tmp_path)
    await first(discovery)
    assert discovery.labels == LABELS


async def test_a_fleet_that_starts_again_changes_nothing_that_is_true(tmp_path: Path) -> None:
    await first(started(tmp_path)[1])
    machine, discovery = started(tmp_path)
    assert await first(discovery) == {}
    assert discovery.labels == LABELS
    machine.network.remove(BRIDGE)
    assert await first(Discovery(machine)) == {f"{FEATURE_PREFIX}dpu-oob-bridge-configured": None}


@pytest.mark.parametrize("gone", ["vendor", "device"])
async def test_a_look_while_a_card_is_removed_file_by_file_finds_the_others(tmp_path: Path, gone: str) -> None:
    machine, discovery = started(tmp_path)
    for function in machine.sysfs.devices.glob("0000:04:00.*"):
        (function / gone).unlink()
    await first(discovery)
    assert discovery.labels[f"{FEATURE_PREFIX}dpu-enabled"] == "true"
    assert [value for name, value in discovery.labels.items() if name.endswith("pci-address")] == ["0000-05-00"]


def test_what_is_pulled_out_by_hand_loses_its_labels(tmp_path: Path) -> None:
    async def story() -> None:
        machine, discovery = started(tmp_path)
        async with aclosing(discovery.follow(60.0)) as features:
            await anext(features)
            for function in machine.sysfs.devices.glob("0000:05:00.*"):
                shutil.rmtree(function)
            assert await anext(features) == {name: None for name in LABELS if "dpu-1" in name}
            shutil.rmtree(machine.sysfs.devices)
            machine.sysfs.devices.mkdir()
            changes = await anext(features)
            assert changes[f"{FEATURE_PREFIX}dpu-enabled"] is None

    run_virtual(story)
