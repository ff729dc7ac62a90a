"""Makes the host's network as the pod asks for and keeps it so: whatever is undone by hand is done again.

Level-triggered: nothing is remembered from one pass to the next but what was said. A pass that fails ends; the next comes with the
next change, or after a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from dpf.host.network import Network, NetworkError, looks
from dpf.host.pci import Sysfs
from dpf.hostnetwork.decide import Action, Attach, MakeFunctions, Problem, Seen, SetMtu, SetUp, Wanted, decide
from dpf.hostnetwork.observe import observe
from dpf.runtime.errors import DpfError
from dpf.runtime.log import get_logger

log = get_logger(__name__)

INTERVAL = 10.0
"""Seconds between looks at what tells nobody when it changes: the card's functions."""
ROUNDS = 4
"""Looks within one pass: functions, then their devices, then the bridge."""


MENDING = "Mending"
"""The reason while something is being done about it."""
_NOTHING = Problem("", "")
"""What was said before anything was."""


class Report(Protocol):
    """Who is told how things are."""

    def tell(self, problem: Problem | None) -> None:
        """Called whenever it may have changed; None: all is as it should be.

        :raises OSError: if it can't be told.
        """


class GivenUp(DpfError):
    """It has been waited long enough, and nothing is lost by ending."""


class HostNetwork:
    """The host's side of one card. It reads and writes ``sysfs`` and ``network``, nothing else."""

    def __init__(self, wanted: Wanted, sysfs: Sysfs, network: Network, report: Report) -> None:
        self.wanted = wanted
        self._sysfs = sysfs
        self._network = network
        self._report = report
        self._said: Problem | None = _NOTHING
        self._since: float | None = None

    async def run(self, interval: float = INTERVAL, give_up_after: float = 0.0) -> None:
        """Keeps the network until cancelled.

        :param interval: seconds between looks without a cause.
        :param give_up_after: seconds of one trouble or another after which it ends, while the bridge has nothing of the card; 0 is
            never.
        :raises GivenUp: then, with the trouble.
        """
        clock: Callable[[], float] = asyncio.get_running_loop().time
        async for _ in looks(self._network, interval):
            problem, attached = await self._pass()
            self._tell(problem)
            if problem is None:
                self._since = None
                continue
            self._since = clock() if self._since is None else self._since
            if give_up_after and not attached and clock() - self._since >= give_up_after:
                raise GivenUp(f"{problem.reason}: {problem.message}")

    async def leave(self) -> None:
        """Takes virtual function 0 out of the bridge, if it is in.

        :raises OSError: if sysfs can't be read.
        :raises ValueError: if it holds garbage.
        :raises NetworkError: if the kernel refuses.
        """
        seen = await observe(self.wanted, self._sysfs, self._network)
        if _attached(seen) and seen.vf0 is not None:
            await self._network.set_master(seen.vf0.index, 0)
            log.info("function_detached", device=seen.vf0.name, bridge=self.wanted.bridge)

    async def _pass(self) -> tuple[Problem | None, bool]:
        """What is wrong after everything was done that could be, and whether the bridge has virtual function 0."""
        attached = False
        try:
            for _ in range(ROUNDS):
                seen = await observe(self.wanted, self._sysfs, self._network)
                attached = _attached(seen)
                decision = decide(self.wanted, seen)
                if not decision.actions:
                    return decision.problem, attached
                self._tell(Problem(MENDING, f"on its way: {', '.join(map(_words, decision.actions))}"))
                failures = [failure for action in decision.actions if (failure := await self._do(action))]
                if failures:
                    return failures[0], attached
        except (OSError, ValueError, NetworkError) as error:
            return Problem("HostUnreadable", f"the host's state can't be read: {error}"), attached
        message = f"the kernel takes everything and keeps nothing: {', '.join(map(_words, decision.actions))}"
        return Problem("NothingHolds", message), attached

    async def _do(self, action: Action) -> Problem | None:
        words = _words(action)
        try:
            await self._perform(action)
        except (OSError, NetworkError) as error:
            return Problem("ActionFailed", f"{words}: {error}")
        log.info("done", action=words)
        return None

    async def _perform(self, action: Action) -> None:
        match action:
            case MakeFunctions(address, number, anew):
                if anew:
                    await self._sysfs.set_count(address, 0)
                await self._sysfs.set_count(address, number)
            case Attach(device, bridge):
                await self._network.set_master(device.index, bridge.index)
            case SetMtu(device, mtu):
                await self._network.set_mtu(device.index, mtu)
            case SetUp(device):
                await self._network.set_up(device.index)

    def _tell(self, problem: Problem | None) -> None:
        """Says how things are; whoever relies on them hears it before anything is done about it."""
        try:
            self._report.tell(problem)
        except OSError as error:
            log.error("not_told", error=str(error))
        if problem == self._said:
            return
        self._said = problem
        if problem is None:
            log.info("ready")
        elif problem.reason != MENDING:
            log.warning("not_ready", reason=problem.reason, message=problem.message)


def _attached(seen: Seen) -> bool:
    return seen.vf0 is not None and seen.bridge is not None and seen.vf0.master == seen.bridge.index


def _words(action: Action) -> str:
    match action:
        case MakeFunctions(address, number, anew):
            return f"make {number} virtual functions of {address}{' anew' if anew else ''}"
        case Attach(device, bridge):
            return f"put {device.name} into bridge {bridge.name}"
        case SetMtu(device, mtu):
            return f"give {device.name} an MTU of {mtu}"
        case SetUp(device):
            return f"bring {device.name} up"
