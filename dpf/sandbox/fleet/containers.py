"""What runs in a pod's containers: the image's name says which entry point.

An entry point is a coroutine function: it runs the container until it ends by itself (and returns the exit code) or is
cancelled (and then stops it). It calls ``run.ready()`` when the container is. Three there are: a program as a local process, the
``dms`` server inside the fleet's own process (hundreds of cards), and ``hostnetwork`` there, on the simulated host's network.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpf.hostnetwork.decide import Problem, Wanted
from dpf.hostnetwork.hostnetwork import MENDING, HostNetwork
from dpf.sandbox.fleet.cards import Card
from dpf.sandbox.fleet.hosts import Host
from dpf.sandbox.fleet.volumes import localised
from dpf.sandbox.processes import die_with_parent, end

HOUR = 3600.0
GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""
PROBE = 0.05
"""Seconds between tries to connect to a container's port."""

_VARIABLE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


@dataclass(frozen=True)
class Container:
    """One container of a pod, ready to be started."""

    pod: dict[str, Any]
    spec: dict[str, Any]
    host: Host
    card: Card | None
    """The card that the pod is for."""
    card_socket: Path
    mounts: Mapping[str, Path]
    log: Path

    @property
    def host_ip(self) -> str:
        """The address of the host, which is the pod's too."""
        return self.host.address

    @property
    def image(self) -> str:
        """The image's name without registry, tag and digest."""
        name: str = self.spec.get("image", "")
        return name.rpartition("/")[2].partition("@")[0].partition(":")[0]

    @property
    def port(self) -> int | None:
        """The first port that the container declares."""
        ports = self.spec.get("ports") or []
        return ports[0]["containerPort"] if ports else None

    def environment(self) -> dict[str, str]:
        """The variables of the container's spec; those from fields resolved, others that refer to objects left out."""
        metadata = self.pod["metadata"]
        fields = {
            "status.podIP": self.host_ip,
            "status.hostIP": self.host_ip,
            "spec.nodeName": self.pod["spec"].get("nodeName", ""),
            "metadata.name": metadata["name"],
            "metadata.namespace": metadata["namespace"],
            "metadata.uid": metadata["uid"],
        }
        found = {}
        for variable in self.spec.get("env") or []:
            path = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            found[variable["name"]] = fields.get(path, "") if path else variable.get("value", "")
        return found

    def arguments(self) -> list[str]:
        """The container's arguments, made fit for this machine: variables, mounted folders, and the host's own address."""
        env = self.environment()
        words = [_VARIABLE.sub(lambda found: env.get(found[1], found[0]), word) for word in self.spec.get("args") or []]
        return [localised(word, self.mounts).replace("0.0.0.0:", f"{self.host_ip}:") for word in words]


@dataclass
class Run:
    """One run of a container, as its entry point tells of it."""

    ready: Callable[[], None]
    """To be called when the container is ready."""
    unready: Callable[[], None]
    """To be called when it is not any more."""
    pid: int | None = None
    """Of the process, if it has one of its own."""


EntryPoint = Callable[[Container, Run], Awaitable[int]]


async def run_dms(container: Container, run: Run) -> int:
    """The ``dms`` program as a process, with the simulated card behind it."""
    if container.card is None:
        return _say(container, "no card of this fleet belongs to the pod")
    # What the pod says of the state's folder comes later on the command line and so wins.
    command = [sys.executable, "-m", "dpf_cmd.dms", "--state-dir", str(state_folder(container)), *container.arguments()]
    command += ["--card", "simulated", "--card-socket", str(container.card_socket), "--card-name", container.card.name]
    return await run_process(container, command, run)


async def run_silent(container: Container, run: Run) -> int:
    """In place of a program that serves a port: it accepts connections and never says a word."""
    silenced: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: silenced.append(writer), container.host_ip, container.port)
    try:
        run.ready()
        await asyncio.Event().wait()
    finally:
        server.close()
        for writer in silenced:
            writer.transport.abort()
    return 0


async def run_hostnetwork(container: Container, run: Run) -> int:
    """The ``hostnetwork`` program's own code on the host's simulated sysfs and network. While all is as it should be, the card's
    communication channel gets its address."""
    if container.card is None:
        return _say(container, "no card of this fleet belongs to the pod")
    environment, machine = container.environment(), container.host.machine
    slot = environment.get("device_pci_address") or container.card.address.slot
    wanted = Wanted(slot, int(environment.get("num_of_vfs") or 16), int(environment.get("vf_mtu") or 1500))
    with machine.network.view() as network:
        program = HostNetwork(wanted, machine.sysfs, network, _Readiness(container, container.card, run))
        try:
            # On a simulated host nothing changes without a word.
            await program.run(interval=HOUR)
        finally:
            container.card.link.clear()
            await program.leave()
    return 0


class _Readiness:
    """What the kubelet makes of the program's files."""

    def __init__(self, container: Container, card: Card, run: Run) -> None:
        self._container = container
        self._card = card
        self._run = run

    def tell(self, problem: Problem | None) -> None:
        if problem is None:
            self._card.link.set()
            self._run.ready()
        else:
            self._card.link.clear()
            self._run.unready()
            if problem.reason != MENDING:
                _say(self._container, f"{problem.reason}: {problem.message}")


def state_folder(container: Container) -> Path:
    """Where ``dms`` keeps its state: on the host, so that it outlives the pod."""
    return container.host.root / "var" / "lib" / "dms"


ENTRY_POINTS: dict[str, EntryPoint] = {"dms": run_dms, "hostnetwork": run_hostnetwork}
"""Entry points by image name."""


async def run_process(container: Container, command: list[str], run: Run) -> int:
    """Runs a command until it ends; cancelled, it is asked to end and killed if it does not.

    It is ready when it accepts connections on its port, or at once if it declares none.
    """
    container.log.parent.mkdir(parents=True, exist_ok=True)
    with container.log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | container.environment(),
            preexec_fn=die_with_parent,
            start_new_session=True,
        )
    run.pid = process.pid
    probe = asyncio.create_task(_probe(container, run))
    try:
        return await process.wait()
    finally:
        probe.cancel()
        await end(process, GRACE)


async def _probe(container: Container, run: Run) -> None:
    while container.port is not None:
        try:
            _, writer = await asyncio.open_connection(container.host_ip, container.port)
        except OSError:
            await asyncio.sleep(PROBE)
            continue
        writer.close()
        break
    run.ready()


def _say(container: Container, message: str) -> int:
    container.log.parent.mkdir(parents=True, exist_ok=True)
    with container.log.open("a") as output:
        output.write(f"{message}\n")
    return 1
