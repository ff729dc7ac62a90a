"""A network namespace of the test's own, and programs that run in it on a sysfs folder.

Needs root and iproute2, and says so: what these programs do to a host's network is shown on a real one or not at all.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dpf.host.network import BRIDGE
from dpf.sandbox.fleet.machine import Hardware, SimulatedNetwork, SimulatedSysfs, plug

CARD = Hardware("0000:90:00", "ens1f0np0", serial="MT2430XZ0AAA")
PF0, PF1 = f"{CARD.slot}.0", f"{CARD.slot}.1"
VF0 = "ens1f0v0"
PATIENCE = 30.0


async def until(condition: Callable[[], Any], what: str) -> None:
    """Returns when the condition holds."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {PATIENCE:g} s: {what}") from None


async def ip(*words: str) -> str:
    """Runs iproute2."""
    process = await asyncio.create_subprocess_exec(
        "ip", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    if process.returncode:
        raise AssertionError(f"ip {' '.join(words)}: {err.decode().strip()}")
    return out.decode()


@dataclass
class Program:
    """One of the programs, running."""

    process: asyncio.subprocess.Process
    log: Path

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code after a signal."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.wait()

    async def wait(self) -> int:
        """Its exit code, once it has one."""
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    def said(self, text: str) -> bool:
        """Whether its log has that."""
        return text in self.log.read_text()


@dataclass
class HostNamespace:
    """A host: a network namespace, a sysfs folder with a card, and a folder for what programs write."""

    name: str
    """Of the namespace; without one programs run in the test's own."""
    folder: Path
    sysfs: SimulatedSysfs
    functions: SimulatedNetwork
    """What the card's driver believes to be there; made true by :meth:`drive`."""
    programs: list[Program] = field(default_factory=list)

    @property
    def marker(self) -> Path:
        return self.folder / "succeed"

    @property
    def status(self) -> str:
        file = self.folder / "status"
        return file.read_text() if file.exists() else ""

    @property
    def features(self) -> str:
        file = self.folder / "features.d" / "dpu"
        return file.read_text() if file.exists() else ""

    async def ip(self, *words: str) -> str:
        """iproute2 in the namespace."""
        return await ip("-n", self.name, *words)

    async def link(self, name: str) -> dict[str, Any]:
        """A network device as iproute2 shows it."""
        found: dict[str, Any] = json.loads(await self.ip("-j", "link", "show", name))[0]
        return found

    async def add_bridge(self, *, address: bool = True) -> None:
        """What an administrator does before the node joins."""
        await self.ip("link", "add", BRIDGE, "type", "bridge")
        await self.ip("link", "set", BRIDGE, "up")
        if address:
            await self.add_address()

    async def add_address(self) -> None:
        await self.ip("address", "add", "10.7.0.1/24", "dev", BRIDGE)

    async def start(self, module: str, *flags: str, **environment: str) -> Program:
        """Starts a program in the namespace."""
        log = self.folder / f"{module}.log"
        inside = ["ip", "netns", "exec", self.name] if self.name else []
        command = [*inside, sys.executable, "-m", f"dpf_cmd.{module}", *flags]
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *command, stdout=output, stderr=output, env=os.environ | environment
            )
        self.programs.append(Program(process, log))
        return self.programs[-1]

    async def hostnetwork(self, *flags: str, **environment: str) -> Program:
        """Starts ``hostnetwork`` as the pod does, with files of the test's own. It is told what it notices: timers don't help."""
        pod = {"device_pci_address": CARD.slot, "num_of_vfs": "4", "vf_mtu": "9000"} | environment
        own = ["--sysfs", str(self.folder / "sys"), "--marker", str(self.marker)]
        own += ["--status-file", str(self.folder / "status"), "--termination-log", str(self.folder / "last-words")]
        return await self.start("hostnetwork", *own, "--interval=1h", *flags, **pod)

    async def detector(self, *flags: str) -> Program:
        """Starts ``dpu-detector``."""
        own = ["--sysfs", str(self.folder / "sys"), "--features-file", str(self.folder / "features.d" / "dpu")]
        return await self.start("dpu_detector", *own, "--interval=1h", *flags)

    def _asked(self, address: str) -> int | None:
        """How many functions are asked for; None while the number is being written, when a plain file, unlike one of sysfs,
        may be read empty."""
        try:
            return self.sysfs.count(address) or 0
        except ValueError:
            return None

    async def drive(self) -> None:
        """The card's driver: makes the functions that are asked for, with network devices, and takes them away."""
        while True:
            for address in (PF0, PF1):
                asked, there = self._asked(address), self.sysfs.virtual(address)
                if asked is None:
                    continue
                if asked and not there:
                    self.sysfs.show(address)
                    netdev = self.sysfs.netdev(self.sysfs.virtual(address)[0])
                    await self.ip("link", "add", netdev, "type", "veth", "peer", "name", f"{netdev}p")
                elif there and not asked:
                    netdev = self.sysfs.netdev(there[0])
                    # The program is told by the device's end, and may ask for functions at once; the number is its own then.
                    self.sysfs.show(address)
                    await self.ip("link", "delete", netdev)
            await asyncio.sleep(0.02)


@asynccontextmanager
async def namespace() -> AsyncIterator[str]:
    """The name of a new network namespace."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.fail("these tests need root and iproute2 (package iproute2), for network namespaces")
    name = f"dpf-test-{secrets.token_hex(4)}"
    await ip("netns", "add", name)
    try:
        yield name
    finally:
        await ip("netns", "delete", name)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[HostNamespace]:
    """A host with a card and without a bridge."""
    plug(tmp_path / "sys", CARD)
    functions = SimulatedNetwork()
    async with namespace() as name, asyncio.TaskGroup() as group:
        made = HostNamespace(name, tmp_path, SimulatedSysfs(tmp_path / "sys", functions), functions)
        driver = group.create_task(made.drive())
        try:
            yield made
        finally:
            driver.cancel()
            for program in made.programs:
                await program.end(signal.SIGKILL)
