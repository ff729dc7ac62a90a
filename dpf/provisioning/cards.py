"""The cards of a host node, from the node's labels alone.

They are numbered by its labels ``feature.node.kubernetes.io/dpu-<i>-<what>``; a card exists if it has a PCI address.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dpf.runtime.k8s import Node
from dpf_api.names import FEATURE_PREFIX, label_card

CARD_LABEL = re.compile(rf"^{re.escape(FEATURE_PREFIX)}dpu-([0-9]{{1,4}})-(.+)$")
"""A label that describes a card: its index, and what is said of it."""

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


def cards_of(node: Node) -> list[Card]:
    """The cards that a node's labels describe, in order of their index; of two with one address the first."""
    found: dict[str, Card] = {}
    for index in sorted(_indices(node.labels)):
        pci = node.labels.get(label_card(index, "pci-address"), "")
        if pci and pci not in found:
            pf0 = node.labels.get(label_card(index, "pf0-name"), "")
            found[pci] = Card(node.name, index, pci, pf0, node.internal_ip)
    return list(found.values())


def index_of(node: Node | None, pci: str) -> int:
    """The index on its node of the card with that PCI address (label form); 0 if the labels don't know it."""
    cards: Iterable[Card] = cards_of(node) if node is not None else ()
    return next((card.index for card in cards if card.pci == pci), 0)


def _indices(labels: Mapping[str, str]) -> set[int]:
    return {int(found[1]) for key in labels if (found := CARD_LABEL.match(key))}
