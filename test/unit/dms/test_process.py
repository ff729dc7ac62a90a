"""``dms`` as a process, over a simulated card behind a fleet's socket."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import web

from dpf.dms.card import CardError, State
from dpf.dms.simulated import SimulatedCard
from dpf.dms.state import HostReboot, Store
from dpf.provisioning.dpu.dms import DmsClient, dial
from dpf.provisioning.dpu.install import Report, Unreachable
from dpf.provisioning.dpu.rebootpolicy import Policy, Power
from dpf.runtime.options import parse
from dpf_cmd.dms import DmsdFlags, Options, of_dmsd
from test.unit.dms.fakes import CLIENT, config, free_port

pytestmark = pytest.mark.timeout(60)


class Fleet:
    """One card behind a unix socket; it installs until :meth:`become`."""

    def __init__(self) -> None:
        self.boots: list[dict[str, str]] = []
        self.reboots: list[dict[str, str]] = []
        self.mode = "NIC"
        self.booted = asyncio.Event()
        self.rebooted = asyncio.Event()
        self._state = "empty"
        self._changed = asyncio.Condition()

    async def become(self, state: str) -> None:
        async with self._changed:
            self._state = state
            self._changed.notify_all()

    async def get(self, request: web.Request) -> web.Response:
        async with self._changed:
            if "not" in request.query:
                await self._changed.wait_for(lambda: self._state != request.query["not"])
            last = self.boots[-1] if self.boots else {"version": "", "id": ""}
            answer = {"state": self._state, "percent": 40, "message": "", "mode": self.mode}
            return web.json_response({**answer, "version": last["version"], "id": last["id"]})

    async def boot(self, request: web.Request) -> web.Response:
        self.boots.append(await request.json())
        await self.become("installing")
        self.booted.set()
        return web.json_response({}, status=202)

    async def set_mode(self, request: web.Request) -> web.Response:
        self.mode = (await request.json())["mode"]
        return web.json_response({})

    async def reboot(self, request: web.Request) -> web.Response:
        self.reboots.append(await request.json())
        self.rebooted.set()
        return web.json_response({}, status=202)

    @asynccontextmanager
    async def serve(self, socket: Path) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/cards/d", self.get)
        app.router.add_post("/cards/d/boot", self.boot)
        app.router.add_post("/cards/d/mode", self.set_mode)
        app.router.add_post("/cards/d/host-reboot", self.reboot)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, str(socket)).start()
        try:
            yield
        finally:
            await runner.cleanup()


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    command = (sys.executable, "-m", "dpf_cmd.dms", *arguments)
    running = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            running.kill()
        await running.communicate()


async def serving(running: asyncio.subprocess.Process) -> None:
    assert running.stdout is not None
    async for line in running.stdout:
        if b'"serving"' in line:
            return
    raise AssertionError("dms ended before it served")


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


async def settled(client: DmsClient) -> Report:
    while (report := await client.report()).active:
        continue
    return report


async def test_a_killed_process_goes_on_where_the_card_is(tmp_path: Path) -> None:
    settings, fleet = config(tmp_path), Fleet()
    flags = {
        "--bind-address": settings.address,
        "--ca": settings.ca,
        "--tls-cert-file": settings.cert,
        "--tls-key-file": settings.key,
        "--image-folder": settings.image_folder,
        "--card": "simulated",
        "--card-socket": tmp_path / "s",
        "--card-name": "d",
        "--metrics-bind-address": f"127.0.0.1:{free_port()}",
    }
    arguments = [str(word) for flag in flags.items() for word in flag]
    async with fleet.serve(tmp_path / "s"):
        async with process(*arguments) as first:
            await serving(first)
            async with dial(settings.address, CLIENT) as client:
                await client.set_mode("DPU")
                await client.install("x.bfb", b"image")
                await client.install("d.cfg", b"# bf.cfg\n")
                await client.activate("x.bfb;d.cfg")
                await fleet.booted.wait()
                first.kill()
                await first.wait()
                with pytest.raises(Unreachable):
                    await client.report()
        Store(settings.image_folder / ".dms" / "d.json").save(reboot=HostReboot("gone/boot-1", "WARM", "reset", ""))
        async with process(*arguments, "--owner", "uid") as second:
            await serving(second)
            async with dial(settings.address, CLIENT) as client:
                assert (await client.report()).active
                await client.activate("x.bfb;d.cfg")
                await fleet.become("up")
                assert (await settled(client)).outcome == "success"
                await client.reboot(Policy("COLD", Power.RESET), "uid/boot-1")
                await fleet.rebooted.wait()
            metrics = await asyncio.to_thread(read, f"http://{flags['--metrics-bind-address']}/metrics")
            assert 'dpf_dms_installs_total{outcome="success"} 1.0' in metrics
            assert 'dpf_dms_host_reboots_total{method="COLD"} 1.0' in metrics
            assert "dpf_dms_written_bytes_total 0.0" in metrics, "the process before it wrote them"
            assert "process_resident_memory_bytes" in metrics
            second.send_signal(signal.SIGTERM)
            assert await second.wait() == 0
    assert fleet.mode == "DPU"
    assert [(boot["version"], boot["config"]) for boot in fleet.boots] == [("x.bfb", "# bf.cfg\n")]
    assert fleet.reboots == [{"kind": "power", "power": "reset", "id": "uid/boot-1"}]


async def test_a_process_whose_card_hangs_reboots_the_host_and_ends_when_it_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever this machine has for its power is not found.
    monkeypatch.setenv("PATH", str(tmp_path))
    settings, device = config(tmp_path), tmp_path / "rshim0"
    device.mkdir()
    os.mkfifo(device / "misc")
    arguments = [
        *("--bind-address", settings.address, "--image-folder", settings.image_folder),
        *("--ca", settings.ca, "--tls-cert-file", settings.cert, "--tls-key-file", settings.key),
        *("--target-pci", "0000:04:00", "--rshim-device", device),
    ]
    async with process(*map(str, arguments)) as running:
        await serving(running)
        async with dial(settings.address, CLIENT) as client:
            await client.install("x.bfb", b"image")
            await client.install("d.cfg", b"# bf.cfg\n")
            await client.activate("x.bfb;d.cfg")
            # It takes what it is told, and then tells nothing.
            assert "DISPLAY_LEVEL" in await asyncio.to_thread((device / "misc").read_text)
            assert (await client.report()).active
            await client.reboot(Policy("COLD", Power.RESET), "uid/boot-1")
        running.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await running.wait() == 0


def test_the_command_line_of_nvidias_dmsd_is_understood() -> None:
    """As the DMS pods of DPF v24.10 have it."""
    line = (
        "-bind_address 0.0.0.0:9339 -v 99 -auth cert -ca /etc/ssl/certs/server/ca.crt -tls_key_file /certs/tls.key "
        "-tls_cert_file /certs/tls.crt -password admin -username admin -image_folder /bfb -target_pci 04:00 "
        "-exec_timeout 900 -disable_unbind_at_activate -reboot_status_check none"
    )
    options = parse(Options, of_dmsd(line.split()), prog="dms", description="")
    assert (options.bind_address, options.target_pci, options.image_folder) == ("0.0.0.0:9339", "04:00", Path("/bfb"))
    assert (options.tls_key_file, options.tls_cert_file) == (Path("/certs/tls.key"), Path("/certs/tls.crt"))
    assert float(options.exec_timeout) == 900.0
    assert options.dmsd == DmsdFlags(
        username="admin", password="admin", disable_unbind_at_activate=True, reboot_status_check="none", v=99
    )


def test_the_driver_is_switched_off_by_an_empty_name() -> None:
    assert parse(Options, [], prog="dms", description="").rshim_driver == "rshim"
    assert parse(Options, ["--rshim-driver="], prog="dms", description="").rshim_driver == ""


async def test_a_card_without_its_fleet_is_a_passing_fault(tmp_path: Path) -> None:
    async with SimulatedCard(tmp_path / "s", "d") as card:
        with pytest.raises(CardError, match="the fleet does not answer") as info:
            await card.status()
        assert info.value.passing
        async with Fleet().serve(tmp_path / "s"):
            assert (await card.status()).state is State.EMPTY


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--card", "simulated"], b"--card-socket and --card-name"),
        ([], b"--target-pci"),
        (["--rshim-device", "/dev/rshim0"], b"--target-pci"),
        (["--target-pci", "04:00", "--ca", "/nowhere/ca.crt"], b"give --ca"),
        (["--no-such-flag"], b"--no-such-flag"),
    ],
)
async def test_a_wrong_start_says_what_to_do(tmp_path: Path, arguments: list[str], says: bytes) -> None:
    where = ["--image-folder", str(tmp_path), "--bind-address", "127.0.0.1:0"]
    async with process(*where, *arguments) as running:
        output, _ = await running.communicate()
        assert running.returncode == 2
        assert says in output
