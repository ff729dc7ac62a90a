"""The feature file: a line per label, from which node feature discovery makes ``feature.node.kubernetes.io/<line>``.

A card keeps its index as long as it is there: the file itself remembers which it had. So when one card of a host vanishes for a
while, no DPUSet takes the other for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

BRIDGE_CONFIGURED = "dpu-oob-bridge-configured"
PCI_ADDRESS, PF0_NAME, PS_ID = "pci-address", "pf0-name", "ps-id"
PART_NUMBER, SERIAL_NUMBER = "part-number", "serial-number"

LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_ADDRESS = re.compile(rf"dpu-(\d+)-{PCI_ADDRESS}")

Features = Mapping[str, str]
"""Labels by name, without their prefix."""


@dataclass(frozen=True)
class Card:
    """A card and what could be found out about it.

    :param slot: for example ``0000:04:00``.
    :param found: values by the last part of their label's name; each can be a label's value.
    """

    slot: str
    found: Mapping[str, str]


def features(cards: Iterable[Card], before: Features, *, bridge: bool) -> dict[str, str]:
    """The features of a host.

    :param before: what was written last.
    :param bridge: whether the bridge is as it should be.
    """
    cards = list(cards)
    by_slot = {card.slot: card for card in cards}
    numbers = indices([card.slot for card in cards], before)
    lines: dict[str, str] = {}
    for slot, number in sorted(numbers.items(), key=lambda each: each[1]):
        for name, value in {PCI_ADDRESS: label_form(slot), **by_slot[slot].found}.items():
            lines[f"dpu-{number}-{name}"] = value
    if bridge:
        lines[BRIDGE_CONFIGURED] = ""
    return lines


def indices(slots: list[str], before: Features) -> dict[str, int]:
    """The index of each card: the one it had; of new cards the lowest that are free, in the order given."""
    had: dict[str, int] = {}
    for name, value in before.items():
        if (match := _ADDRESS.fullmatch(name)) and value not in had:
            had[value] = int(match[1])
    known = {slot: had[label_form(slot)] for slot in slots if label_form(slot) in had}
    free = (number for number in range(len(slots) + max(known.values(), default=0)) if number not in known.values())
    return {slot: known[slot] if slot in known else next(free) for slot in slots}


def label_form(slot: str) -> str:
    """The slot as labels have it: ``0000-04-00``."""
    return slot.replace(":", "-")


def render(lines: Features) -> str:
    """The file's text; empty without features."""
    return "".join(f"{name}={value}\n" for name, value in lines.items())


def read(text: str) -> dict[str, str]:
    """The features in a file's text. Comments, and what is no feature, are left out."""
    rows = (line.strip() for line in text.splitlines())
    pairs = (row.partition("=") for row in rows if row and not row.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs if name.strip()}
