"""PCI functions in a sysfs folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpf.host.pci import Sysfs
from dpf.sandbox.fleet.machine import Hardware, Machine, plug


def devices(root: Path) -> Path:
    return root / "bus" / "pci" / "devices"


def test_functions_come_in_order_of_their_addresses_whatever_lies_beside_them(tmp_path: Path) -> None:
    for name in ("0000:e1:00.0", "10000:01:00.0", "0000:04:00.1", "0000:04:00.0", "notes.txt"):
        (devices(tmp_path) / name).mkdir(parents=True)
    assert [address for _, address in Sysfs(tmp_path).functions()] == [
        "0000:04:00.0",
        "0000:04:00.1",
        "0000:e1:00.0",
        "10000:01:00.0",
    ]


@pytest.mark.parametrize(
    ("vendor", "device", "is_dpu"),
    [("0x15b3", "0xa2dc", True), ("0x15b3", "0xa2d6", True), ("0x15b3", "0x101e", False), ("0x8086", "0xa2dc", False)],
)
def test_vendor_and_device_make_a_dpu(tmp_path: Path, vendor: str, device: str, is_dpu: bool) -> None:
    folder = devices(tmp_path) / "0000:04:00.0"
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "device").write_text(f"{device}\n")
    assert Sysfs(tmp_path).is_dpu("0000:04:00.0") is is_dpu


@pytest.mark.parametrize(
    ("vendor", "device", "is_rshim"),
    [("0x15b3", "0xc2d5", True), ("0x15b3", "0xc2d3", True), ("0x15b3", "0xa2dc", False), ("0x8086", "0xc2d5", False)],
)
def test_the_management_function_of_a_card_is_told_from_its_ports(
    tmp_path: Path, vendor: str, device: str, is_rshim: bool
) -> None:
    folder = devices(tmp_path) / "0000:04:00.2"
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "device").write_text(f"{device}\n")
    assert Sysfs(tmp_path).is_rshim("0000:04:00.2") == is_rshim


def test_representors_are_not_taken_for_the_port(tmp_path: Path) -> None:
    plug(tmp_path, Hardware("0000:04:00", "ens1f0np0"))
    port = devices(tmp_path) / "0000:04:00.0" / "net"
    for name, kind in (("ens1f0np0", "p0"), ("a-representor", "pf0vf1")):
        (port / name).mkdir(exist_ok=True)
        (port / name / "phys_port_name").write_text(f"{kind}\n")
    assert Sysfs(tmp_path).netdev("0000:04:00.0") == "ens1f0np0"


async def test_virtual_functions_appear_and_go_as_a_driver_has_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path, [Hardware("0000:04:00", "ens1f0np0")])
    machine.power_on()
    sysfs = machine.sysfs
    assert (sysfs.count("0000:04:00.0"), sysfs.offered("0000:04:00.0")) == (0, 127)
    await sysfs.set_count("0000:04:00.0", 16)
    first = sysfs.virtual("0000:04:00.0")[0]
    assert (sysfs.netdev(first), sysfs.driver(first), sysfs.is_dpu(first)) == ("ens1f0v0", "mlx5_core", False)
    await sysfs.set_count("0000:04:00.0", 0)
    assert sysfs.virtual("0000:04:00.0") == []


async def test_the_kernels_own_files_are_written(tmp_path: Path) -> None:
    plug(tmp_path, Hardware("0000:04:00", "ens1f0np0"))
    await Sysfs(tmp_path).set_count("0000:04:00.0", 8)
    assert Sysfs(tmp_path).count("0000:04:00.0") == 8
    assert len(await Sysfs(tmp_path).vpd("0000:04:00.0")) > 50
