"""Which cards a DPUSet selects, from the labels of host nodes alone.

The cards of a node are numbered by its labels ``feature.node.kubernetes.io/dpu-<i>-<what>``; a card exists if it has a PCI
address. Without a ``dpuSelector`` card 0 is selected. With one:

* Entries that name the same card belong together: the card is selected if all of them hold. Cards are independent of one
  another, so entries for two cards select both.
* An entry whose label the node does not carry says nothing, neither for nor against, as long as another entry of that card
  holds. Manifests rely on it that name a PSID beside a PCI address on nodes whose detector does not report PSIDs. A label that
  is there with another value does deselect the card.
* ``psid`` and ``ps-id`` are the same word: manifests have the one, the detector writes the other.
* Keys of any other shape are ignored.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dpf.runtime.k8s import Node
from dpf_api.names import FEATURE_PREFIX, label_card

_ENTRY = re.compile(rf"^{re.escape(FEATURE_PREFIX)}dpu-([0-9]{{1,4}})-(.+)$")

NAME_LIMIT = 63
"""A DPU's name is a host name, a label value and the name of a Node."""


@dataclass(frozen=True)
class Card:
    """A card of a host node, as the node's labels describe it.

    :param pci: label form of the PCI address, for example ``0000-04-00``.
    :param pf0: name of the first physical function's network device; may be empty.
    """

    node: str
    index: int
    pci: str
    pf0: str = ""
    host_ip: str = ""

    @property
    def name(self) -> str:
        """The name of the card's DPU; one too long keeps its beginning and gets a digest of the whole."""
        full = f"{self.node.lower()}-{self.pci.lower()}"
        if len(full) <= NAME_LIMIT:
            return full
        digest = hashlib.sha256(full.encode()).hexdigest()[:8]
        return f"{full[: NAME_LIMIT - 9].rstrip('-.')}-{digest}"


@dataclass(frozen=True)
class Choice:
    """What a selector makes of one node: its cards that are selected, and those known that are not."""

    selected: tuple[Card, ...] = ()
    rejected: tuple[Card, ...] = ()


def cards_of(node: Node) -> list[Card]:
    """The cards that a node's labels describe, in order of their index; of two with one address the first."""
    found: dict[str, Card] = {}
    for index in sorted(_indices(node.labels)):
        pci = node.labels.get(label_card(index, "pci-address"), "")
        if pci and pci not in found:
            pf0 = node.labels.get(label_card(index, "pf0-name"), "")
            found[pci] = Card(node.name, index, pci, pf0, node.internal_ip)
    return list(found.values())


def choose(dpu_selector: Mapping[str, str] | None, node: Node) -> Choice:
    """Divides the node's cards into those that the selector selects and the others."""
    entries = _entries(dpu_selector or {})
    selected: list[Card] = []
    rejected: list[Card] = []
    for card in cards_of(node):
        wanted = _holds(entries.get(card.index, {}), card.index, node.labels) if dpu_selector else card.index == 0
        (selected if wanted else rejected).append(card)
    return Choice(tuple(selected), tuple(rejected))


def index_of(node: Node | None, pci: str) -> int:
    """The index on its node of the card with that PCI address (label form); 0 if the labels don't know it."""
    cards: Iterable[Card] = cards_of(node) if node is not None else ()
    return next((card.index for card in cards if card.pci == pci), 0)


def _indices(labels: Mapping[str, str]) -> set[int]:
    return {int(found[1]) for key in labels if (found := _ENTRY.match(key))}


def _entries(dpu_selector: Mapping[str, str]) -> dict[int, dict[str, str]]:
    """The selector's entries by card: what is asked of it, and the value."""
    entries: defaultdict[int, dict[str, str]] = defaultdict(dict)
    for key, value in dpu_selector.items():
        if found := _ENTRY.match(key):
            entries[int(found[1])][found[2]] = value
    return entries


def _holds(entries: Mapping[str, str], index: int, labels: Mapping[str, str]) -> bool:
    answers = [
        _label(labels, index, what) == value
        for what, value in entries.items()
        if _label(labels, index, what) is not None
    ]
    return bool(answers) and all(answers)


def _label(labels: Mapping[str, str], index: int, what: str) -> str | None:
    """A card's label; a PSID under either of its names."""
    value = labels.get(label_card(index, what))
    if value is None and what in _PSID:
        value = labels.get(label_card(index, _PSID[what]))
    return value


_PSID = {"psid": "ps-id", "ps-id": "psid"}
