"""The inside of a simulated host, whose fleet may be killed at any time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dpf.sandbox.fleet.machine import Hardware, Machine

CARD = Hardware("0000:04:00", "ens1f0np0")
PF0 = "0000:04:00.0"


class Killed(Exception):
    """As far as the disk can tell."""


@pytest.mark.parametrize("at", ["vendor", "driver"])
async def test_functions_are_there_whole_or_not_whenever_the_fleet_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    first = Machine(tmp_path, [CARD])
    first.power_on()
    with monkeypatch.context() as patch:

        def killed(self: Path, *args: Any, **more: Any) -> None:
            if self.name == at:
                raise Killed
            real(self, *args, **more)

        method = "symlink_to" if at == "driver" else "write_text"
        real = getattr(Path, method)
        patch.setattr(Path, method, killed)
        with pytest.raises(Killed):
            await first.sysfs.set_count(PF0, 4)
    again = Machine(tmp_path, [CARD])
    again.power_on()
    (function,) = again.sysfs.virtual(PF0)
    assert again.sysfs.driver(function) == "mlx5_core"
    assert again.sysfs.netdev(function) == "ens1f0v0"
    await again.reboot()
    assert again.sysfs.virtual(PF0) == []
    assert again.sysfs.count(PF0) == 0


def test_a_card_that_was_half_plugged_in_is_whole_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: Path, __: bytes) -> int:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", killed)
        with pytest.raises(Killed):
            Machine(tmp_path, [CARD]).power_on()
    machine = Machine(tmp_path, [CARD])
    machine.power_on()
    assert machine.sysfs.is_dpu(PF0)
    assert (machine.sysfs.devices / PF0 / "vpd").exists()
