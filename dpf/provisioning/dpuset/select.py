"""Which cards a DPUSet selects, from the labels of host nodes alone.

Without a ``dpuSelector`` card 0 is selected. With one:

* Entries that name the same card belong together: the card is selected if all of them hold. Cards are independent of one
  another, so entries for two cards select both.
* An entry whose label the node does not carry says nothing, neither for nor against, as long as another entry of that card
  holds. Manifests rely on it that name a PSID beside a PCI address on nodes whose detector does not report PSIDs. A label that
  is there with another value does deselect the card.
* ``psid`` and ``ps-id`` are the same word: manifests have the one, the detector writes the other.
* Keys of any other shape are ignored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from dpf.provisioning.cards import CARD_LABEL, Card, cards_of
from dpf.runtime.k8s import Node
from dpf.runtime.meta import LabelSelector
from dpf_api.names import FEATURE_PREFIX, label_card

DETECTED = f"{FEATURE_PREFIX}dpu-"
"""How labels begin that tell of a host's cards; of its bridge too, which is there without a card as well."""


@dataclass(frozen=True)
class Choice:
    """What a selector makes of one node: its cards that are selected, and those known that are not."""

    selected: tuple[Card, ...] = ()
    rejected: tuple[Card, ...] = ()


def choose(dpu_selector: Mapping[str, str] | None, node: Node) -> Choice:
    """Divides the node's cards into those that the selector selects and the others."""
    entries = _entries(dpu_selector or {})
    selected: list[Card] = []
    rejected: list[Card] = []
    for card in cards_of(node):
        wanted = _holds(entries.get(card.index, {}), card.index, node.labels) if dpu_selector else card.index == 0
        (selected if wanted else rejected).append(card)
    return Choice(tuple(selected), tuple(rejected))


def pick(node_selector: LabelSelector | None, dpu_selector: Mapping[str, str] | None, node: Node) -> Choice | None:
    """What both selectors make of a node; None if it is not selected. Of one of whose cards nothing is told, none is selected
    and none rejected."""
    if node_selector is None or node_selector.matches(node.labels):
        return choose(dpu_selector, node)
    return Choice() if untold(node_selector, node) else None


def untold(selector: LabelSelector, node: Node) -> bool:
    """Whether nothing is told of the node's cards, and it is selected apart from that: it may be again in a moment, as when node
    feature discovery is installed anew."""
    if cards_of(node):
        return False
    labels = {key: value for key, value in selector.match_labels.items() if not key.startswith(DETECTED)}
    expressions = [each for each in selector.match_expressions if not each.key.startswith(DETECTED)]
    return LabelSelector(match_labels=labels, match_expressions=expressions).matches(node.labels)


def _entries(dpu_selector: Mapping[str, str]) -> dict[int, dict[str, str]]:
    """The selector's entries by card: what is asked of it, and the value."""
    entries: defaultdict[int, dict[str, str]] = defaultdict(dict)
    for key, value in dpu_selector.items():
        if found := CARD_LABEL.match(key):
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
