"""``dpu-detector`` in a real network namespace. It looks once an hour by itself here: what it notices, it is told."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace

import aiohttp

from dpf.host.network import BRIDGE
from dpf.sandbox.controlplane.planes import free_ports
from test.integration.host.conftest import HostNamespace, until

CONFIGURED = "dpu-oob-bridge-configured="
CARD = (
    "dpu-0-pci-address=0000-90-00\ndpu-0-pf0-name=ens1f0np0\n"
    "dpu-0-serial-number=MT2430XZ0AAA\ndpu-0-part-number=900-9D3B6-00CV-AA0\n"
)


async def test_the_first_scan_is_at_once_and_needs_no_bridge(host: HostNamespace) -> None:
    program = await host.detector("--collector.PSID=true")
    await until(lambda: host.features, "the file")
    assert host.features == CARD + "dpu-0-ps-id=MT_0000000884\n"
    await until(lambda: program.said("there is no bridge br-dpu"), "the log says what is missing")
    assert await program.end() == 0
    assert "ps-id" in host.features, "labels stay while the detector is replaced"


async def test_the_bridge_is_watched(host: HostNamespace) -> None:
    program = await host.detector()
    await until(lambda: host.features == CARD, "the card")
    await host.add_bridge()
    await until(lambda: program.said("no default route goes over br-dpu"), "the reason")
    assert CONFIGURED not in host.features
    await host.ip("route", "add", "default", "via", "10.7.0.2", "dev", BRIDGE, "metric", "5")
    await until(lambda: CONFIGURED in host.features, "configured")
    await host.ip("route", "add", "default", "via", "10.7.0.3", "dev", BRIDGE, "metric", "2")
    await until(lambda: CONFIGURED not in host.features, "a route that wins over the host's own")
    await until(lambda: program.said("has metric 2: raise it to 3"), "the reason")
    await host.ip("route", "del", "default", "via", "10.7.0.3", "dev", BRIDGE, "metric", "2")
    await until(lambda: CONFIGURED in host.features, "configured")
    await host.ip("link", "delete", BRIDGE)
    await until(lambda: CONFIGURED not in host.features, "no bridge")
    assert host.features == CARD


async def test_routes_of_other_devices_and_tables_do_not_count(host: HostNamespace) -> None:
    await host.add_bridge()
    await host.ip("link", "add", "eth0", "type", "veth", "peer", "name", "peer0")
    await host.ip("address", "add", "10.9.0.1/24", "dev", "eth0")
    await host.ip("link", "set", "eth0", "up")
    await host.ip("route", "add", "default", "via", "10.9.0.2", "dev", "eth0", "metric", "1")
    await host.ip("route", "add", "default", "via", "10.7.0.2", "dev", BRIDGE, "metric", "5", "table", "100")
    await host.ip("route", "add", "10.20.0.0/16", "via", "10.7.0.2", "dev", BRIDGE, "metric", "5")
    program = await host.detector()
    await until(lambda: program.said("no default route goes over br-dpu"), "the reason")
    hops = ["nexthop", "via", "10.9.0.2", "dev", "eth0", "nexthop", "via", "10.7.0.2", "dev", BRIDGE]
    await host.ip("route", "add", "default", "metric", "7", *hops)
    await until(lambda: CONFIGURED in host.features, "one hop of several")


async def test_a_device_that_only_has_the_name_is_no_bridge(host: HostNamespace) -> None:
    await host.ip("link", "add", BRIDGE, "type", "veth", "peer", "name", "peer0")
    program = await host.detector()
    await until(lambda: program.said("br-dpu is no bridge but veth"), "the reason")
    await until(lambda: host.features == CARD, "the card all the same")


async def test_killed_and_started_again_it_leaves_a_whole_file(host: HostNamespace) -> None:
    first = await host.detector()
    await until(lambda: host.features == CARD, "the file")
    await first.end(signal.SIGKILL)
    folder = host.folder / "features.d"
    (folder / ".dpu.new").write_text("dpu-0-pci-addr")  # as if it had been killed while it wrote
    await host.add_bridge()
    await host.ip("route", "add", "default", "via", "10.7.0.2", "dev", BRIDGE, "metric", "5")
    await host.detector()
    await until(lambda: CONFIGURED in host.features, "the file")
    assert host.features == f"{CARD}{CONFIGURED}\n"
    assert [path.name for path in folder.iterdir()] == ["dpu"]


async def test_once_prints_what_it_wrote(host: HostNamespace) -> None:
    program = await host.detector("--once")
    assert await program.wait() == 0
    assert program.said(CARD)
    program = await host.detector("--once", "--sysfs=/nowhere")
    assert await program.wait() == 1
    assert program.said("/nowhere/bus/pci/devices")


async def test_it_is_ready_when_the_file_is_true(host: HostNamespace) -> None:
    (port,) = free_ports([0])
    reachable = replace(host, name="")
    await reachable.detector(f"--health-probe-bind-address=127.0.0.1:{port}")
    async with aiohttp.ClientSession() as http, asyncio.timeout(30):
        while not await ready(http, f"http://127.0.0.1:{port}/readyz"):
            await asyncio.sleep(0.05)
    assert host.features.startswith(CARD)


async def ready(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(url) as response:
            return response.status == 200
    except aiohttp.ClientConnectionError:
        return False
