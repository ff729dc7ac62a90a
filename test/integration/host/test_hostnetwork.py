"""``hostnetwork`` in a real network namespace, on a sysfs folder with a driver behind it."""

from __future__ import annotations

import signal

import pytest

from dpf.host.network import BRIDGE
from test.integration.host.conftest import PF0, PF1, VF0, HostNamespace, until


async def test_the_host_gets_its_functions_and_the_bridge_its_member(host: HostNamespace) -> None:
    await host.add_bridge()
    await host.hostnetwork()
    await until(host.marker.exists, "the marker")
    link = await host.link(VF0)
    assert (link["master"], link["mtu"], "UP" in link["flags"]) == (BRIDGE, 9000, True)
    assert (host.sysfs.count(PF0), host.sysfs.count(PF1)) == (4, 4)
    assert host.status == "ready\n"


async def test_it_says_what_it_waits_for_and_goes_on_when_that_is_there(host: HostNamespace) -> None:
    await host.hostnetwork()
    await until(lambda: host.status.startswith("BridgeMissing: there is no bridge br-dpu"), "it misses the bridge")
    assert (host.sysfs.count(PF0), host.marker.exists()) == (4, False)
    await host.add_bridge(address=False)
    await until(lambda: host.status.startswith("BridgeWithoutAddress"), "it misses the address")
    assert "master" not in await host.link(VF0)
    await host.add_address()
    await until(host.marker.exists, "the marker")


@pytest.mark.parametrize("undo", [("nomaster",), ("mtu", "1500"), ("down",)])
async def test_what_is_undone_by_hand_is_done_again(host: HostNamespace, undo: tuple[str, ...]) -> None:
    await host.add_bridge()
    program = await host.hostnetwork()
    await until(host.marker.exists, "the marker")
    said = program.log.read_text().count('"action"')
    await host.ip("link", "set", VF0, *undo)
    await until(lambda: program.log.read_text().count('"action"') > said, "it does something about it")
    await until(host.marker.exists, "the marker")
    link = await host.link(VF0)
    assert (link["master"], link["mtu"], "UP" in link["flags"]) == (BRIDGE, 9000, True)


async def test_success_goes_with_its_cause(host: HostNamespace) -> None:
    await host.add_bridge()
    await host.hostnetwork()
    await until(host.marker.exists, "the marker")
    await host.ip("address", "flush", "dev", BRIDGE)
    await until(lambda: not host.marker.exists(), "no marker")
    await until(lambda: host.status.startswith("BridgeWithoutAddress"), "the reason")
    await host.ip("link", "delete", BRIDGE)
    await until(lambda: host.status.startswith("BridgeMissing"), "the reason")
    await host.add_bridge()
    await until(host.marker.exists, "the marker")
    assert (await host.link(VF0))["master"] == BRIDGE


async def test_functions_that_are_taken_away_come_back(host: HostNamespace) -> None:
    await host.add_bridge()
    program = await host.hostnetwork()
    await until(host.marker.exists, "the marker")
    host.sysfs.write_count(PF0, 0)
    await until(lambda: program.log.read_text().count(f"virtual functions of {PF0}") == 2, "they are made again")
    await until(host.marker.exists, "the marker")
    assert (await host.link(VF0))["master"] == BRIDGE


async def test_a_function_that_another_bridge_has_is_brought_home(host: HostNamespace) -> None:
    await host.add_bridge()
    await host.ip("link", "add", "br-other", "type", "bridge")
    await host.hostnetwork()
    await until(host.marker.exists, "the marker")
    index = (await host.link(VF0))["ifindex"]
    await host.ip("link", "set", VF0, "master", "br-other")
    watched = host.folder / "hostnetwork.log"
    await until(lambda: watched.read_text().count(f"put {VF0} into bridge") == 2, "it is put back")
    await until(host.marker.exists, "the marker")
    link = await host.link(VF0)
    assert (link["master"], link["ifindex"]) == (BRIDGE, index)


async def test_sigterm_takes_the_function_out_and_the_marker_away(host: HostNamespace) -> None:
    await host.add_bridge()
    program = await host.hostnetwork()
    await until(host.marker.exists, "the marker")
    assert await program.end() == 0
    assert "master" not in await host.link(VF0)
    assert not host.marker.exists()
    assert host.sysfs.count(PF0) == 4, "functions stay: pods may use them"


async def test_sigterm_is_obeyed_while_it_waits(host: HostNamespace) -> None:
    program = await host.hostnetwork()
    await until(lambda: host.status.startswith("BridgeMissing"), "it waits")
    assert await program.end() == 0
    assert host.status == ""


async def test_killed_and_started_again_it_finds_its_work_done(host: HostNamespace) -> None:
    await host.add_bridge()
    first = await host.hostnetwork()
    await until(host.marker.exists, "the marker")
    await first.end(signal.SIGKILL)
    assert (await host.link(VF0))["master"] == BRIDGE
    # What the dead one left behind counts for nothing.
    host.sysfs.write_count(PF0, 0)
    await until(lambda: not host.sysfs.virtual(PF0), "the driver has taken them away")
    second = await host.hostnetwork()
    await until(
        lambda: second.said('"event":"ready"') and second.log.read_text().count('"event":"ready"') == 2, "ready"
    )
    assert host.marker.exists()
    assert host.sysfs.count(PF0) == 4


async def test_killed_half_way_and_started_again_it_goes_on(host: HostNamespace) -> None:
    await host.add_bridge(address=False)
    first = await host.hostnetwork()
    await until(lambda: host.status.startswith("BridgeWithoutAddress"), "half way")
    await first.end(signal.SIGKILL)
    await host.add_address()
    host.marker.touch()
    await host.ip("address", "flush", "dev", BRIDGE)
    await host.hostnetwork()
    await until(lambda: not host.marker.exists(), "a marker of before is not believed")
    await host.add_address()
    await until(host.marker.exists, "the marker")
    assert (await host.link(VF0))["mtu"] == 9000


async def test_trouble_that_lasts_is_its_last_words(host: HostNamespace) -> None:
    words = host.folder / "last-words"
    words.touch()
    program = await host.hostnetwork("--give-up-after=10ms", "--interval=100ms")
    assert await program.wait() == 1
    assert words.read_text().startswith("BridgeMissing: there is no bridge br-dpu on the host")
    assert not host.marker.exists()


async def test_a_number_that_users_are_in_the_way_of_is_told(host: HostNamespace) -> None:
    await host.add_bridge()
    host.sysfs.write_count(PF0, 2)
    await until(lambda: host.sysfs.virtual(PF0), "the driver has made them")
    await host.ip("address", "add", "10.8.0.1/24", "dev", VF0)
    await host.hostnetwork()
    await until(lambda: host.status.startswith("FunctionsInUse"), "the reason")
    assert "ens1f0v0 (0000:90:01.0) has an IPv4 address" in host.status
    assert (host.sysfs.count(PF0), (await host.link(VF0))["master"]) == (2, BRIDGE)
    await host.ip("address", "flush", "dev", VF0)
    await until(host.marker.exists, "the marker")
    assert host.sysfs.count(PF0) == 4
