"""Looks at the host at once, after every change of its network and once in a while, and keeps the feature file true."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dpf.detector import bridge
from dpf.detector.cards import Problems, Scanner
from dpf.detector.features import BRIDGE_CONFIGURED, features, read, render
from dpf.host import files
from dpf.host.findings import Findings
from dpf.host.network import BRIDGE, Network, NetworkError, looks
from dpf.runtime.log import get_logger

log = get_logger(__name__)

INTERVAL = 60.0
"""Seconds between looks at what tells nobody when it changes: PCI devices."""
SETTLE = 1.0
"""Seconds between a change of the network and the look at it: a busy host makes and removes devices all the time."""


@dataclass
class Detector:
    """Keeps the feature file of one host.

    :param file: where node feature discovery reads it.
    :param bridge: name of the bridge that cards need.
    :param durable: see :func:`dpf.host.files.put`.
    """

    scanner: Scanner
    network: Network
    file: Path
    bridge: str = BRIDGE
    durable: bool = True
    looked: bool = False
    """Whether the file has been true once."""
    _findings: Findings = field(default_factory=Findings)

    async def run(self, interval: float = INTERVAL) -> None:
        """Keeps the file true until cancelled. A look that fails is logged, and the file stays as it was."""
        async for _ in looks(self.network, interval, SETTLE):
            try:
                await self.look()
            except OSError as error:
                self._findings.tell({(str(error.filename or self.file), "look"): str(error)})

    async def look(self) -> bool:
        """Looks once; whether the file had to be changed.

        :raises OSError: if there is no sysfs, or the file can't be written.
        """
        found = await self.scanner.scan()
        problems = dict(found.problems)
        before = self._read()
        known = read(before)
        configured = await self._bridge(problems, before=BRIDGE_CONFIGURED in known)
        self._findings.tell(problems)
        wanted = features(found.cards, known, bridge=configured)
        changed = self._write(before, render(wanted))
        if changed:
            log.info("features_changed", features=wanted)
        self.looked = True
        return changed

    async def _bridge(self, problems: Problems, *, before: bool) -> bool:
        """Whether the bridge is as it should be; as before if the kernel does not tell, which says nothing about the bridge."""
        try:
            problem = await bridge.problem(self.network, self.bridge)
        except NetworkError as error:
            problems[self.bridge, BRIDGE_CONFIGURED] = str(error)
            return before
        if problem:
            problems[self.bridge, BRIDGE_CONFIGURED] = problem
        return not problem

    def _read(self) -> str:
        try:
            return self.file.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def _write(self, before: str, text: str) -> bool:
        """Writes the file if its text is another; without features there is none."""
        if text == before:
            return False
        if text:
            files.put(self.file, text, durable=self.durable)
        else:
            files.remove(self.file)
        return True
