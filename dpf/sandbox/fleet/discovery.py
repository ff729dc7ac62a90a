"""How a simulated host gets its labels: the detector's own code looks at the host's sysfs and network and writes a feature file,
and a stand-in for node feature discovery makes labels of that file and of the NodeFeatureRule in ``config/detector``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from functools import cache
from random import random
from typing import Any

from dpf.detector.cards import Scanner
from dpf.detector.detector import INTERVAL, Detector
from dpf.detector.features import read
from dpf.host.network import looks
from dpf.sandbox import manifests
from dpf.sandbox.fleet.machine import Machine
from dpf_api.names import FEATURE_PREFIX

FEATURES = "etc/kubernetes/node-feature-discovery/features.d"
LARGE = 50
"""Hosts from which on the detectors look less often: a thousand of them would be at it all the time."""
SELDOM = 10.0

Changes = dict[str, str | None]
"""Labels to set, and those to take away (None)."""


def interval(hosts: int) -> float:
    """Seconds between looks of a detector in a fleet of so many hosts; jittered, so that they don't look all at once."""
    return INTERVAL * (1.0 if hosts <= LARGE else SELDOM) * (0.8 + 0.4 * random())  # noqa: S311  (spreads load, guards nothing)


class Discovery:
    """Detector and node feature discovery of one host."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._file = machine.root / FEATURES / "dpu"
        self.labels: dict[str, str] = {}
        """What the host's Node is to be labelled with, as of the last look."""

    async def follow(self, interval: float) -> AsyncGenerator[Changes, None]:
        """Looks at once, then after changes and every so many seconds, and yields what is to be changed at the Node.

        Labels that somebody else changed are left alone until what they stand for changes. The first time, what counts is the
        feature file that was there.
        """
        self.labels = self._read()
        first = True
        with self._machine.network.view() as network:
            scanner = Scanner(self._machine.sysfs, psid=True)
            # On the disk of a real host it must survive a power cut.
            detector = Detector(scanner, network, self._file, durable=False)
            async for _ in looks(network, interval):
                await detector.look()
                found = self._read()
                changes: Changes = {name: value for name, value in found.items() if self.labels.get(name) != value}
                changes |= dict.fromkeys(self.labels.keys() - found.keys())
                self.labels = found
                if first or changes:
                    yield changes
                first = False

    def _read(self) -> dict[str, str]:
        """Labels from the feature file and from the rules."""
        lines = read(self._file.read_text()) if self._file.exists() else {}
        return {_label(name): value for name, value in (lines | self._by_rules()).items()}

    def _by_rules(self) -> dict[str, str]:
        functions = []
        for _, address in self._machine.sysfs.functions():
            folder = self._machine.sysfs.devices / address
            # A folder that is just being removed, file by file, is a function no more.
            with suppress(OSError, ValueError):
                ids = {name: (folder / name).read_text().strip().removeprefix("0x") for name in ("vendor", "device")}
                functions.append(ids)
        labels: dict[str, str] = {}
        for rule in _rules():
            if all(_matches(feature, functions) for feature in rule["matchFeatures"]):
                labels |= rule["labels"]
        return labels


def _matches(wanted: Mapping[str, Any], functions: list[dict[str, str]]) -> bool:
    """Whether some PCI function fits a rule; of what such a rule may ask, ``In`` is known here."""
    expressions: Mapping[str, Any] = wanted["matchExpressions"]
    return wanted["feature"] == "pci.device" and any(
        all(ids[name] in expression["value"] for name, expression in expressions.items()) for ids in functions
    )


@cache
def _rules() -> list[dict[str, Any]]:
    documents = manifests.documents(manifests.CONFIG / "detector")
    return [rule for each in documents if each["kind"] == "NodeFeatureRule" for rule in each["spec"]["rules"]]


def _label(name: str) -> str:
    return name if "/" in name else FEATURE_PREFIX + name
