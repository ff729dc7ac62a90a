"""Cards that more than one wants: which sets wait for them, and what those that wait and those that have them are told.

It is what each set's last look came to, so after a restart it is known again as soon as all have been looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from dpf.provisioning import indexes
from dpf.provisioning.cards import Card
from dpf.runtime.informer import Informer
from dpf.runtime.meta import Key
from dpf_api.dpu import DPU
from dpf_api.dpuset import DPUSet


class Claims:
    """The cards that sets want and do not get."""

    def __init__(self, dpus: Informer[DPU], dpusets: Informer[DPUSet]) -> None:
        self._dpus = dpus
        self._dpusets = dpusets
        self._refused: dict[Key, dict[str, Card]] = {}
        """By set: the cards, by the name that their DPU would have."""
        self._waiting: defaultdict[str | Key, set[Key]] = defaultdict(set)
        """Sets by what they wait for: a card, or a DPU's name."""

    def obstacle(self, dpuset: DPUSet, card: Card) -> str:
        """Why the set can't make its DPU of a card, and what to do about it; empty if nothing is in the way."""
        others = (dpu for dpu in self._dpus.by(indexes.CARD, place(card)) if not dpu.owned_by(dpuset))
        if (other := next(others, None)) is not None:
            return taken(card, other)
        name = Key(dpuset.namespace, card.name)
        namesake = self._dpus.get(card.name, dpuset.namespace)
        if namesake is not None and not namesake.owned_by(dpuset):
            return taken(card, namesake)
        if namesake is None and name in self._dpus:
            return f"{_title(card)}: there is a DPU {name} already, which can't be read; mend or delete it"
        return ""

    def settle(self, dpuset: Key, refused: Iterable[Card]) -> set[Key]:
        """Notes which cards the set wants and does not get, all of them; returns the sets that are to be told."""
        before, now = self._refused.pop(dpuset, {}), {card.name: card for card in refused}
        came = [card for name, card in now.items() if name not in before]
        went = [card for name, card in before.items() if name not in now]
        for card in went:
            self._stop_waiting(dpuset, card)
        if now:
            self._refused[dpuset] = now
        for card in came:
            self.wait(dpuset, card)
        owners = {owner_of(dpu) for card in came + went for dpu in self._in_the_way(dpuset.namespace, card)}
        return {owner for owner in owners if owner is not None and owner != dpuset}

    def wait(self, dpuset: Key, card: Card) -> None:
        """Has the set woken when a DPU of the card, or one of that name, comes or goes; until it is settled again."""
        self._refused.setdefault(dpuset, {})[card.name] = card
        for what in (place(card), Key(dpuset.namespace, card.name)):
            self._waiting[what].add(dpuset)

    def _stop_waiting(self, dpuset: Key, card: Card) -> None:
        for what in (place(card), Key(dpuset.namespace, card.name)):
            self._waiting[what].discard(dpuset)
            if not self._waiting[what]:
                del self._waiting[what]

    def waiting_for(self, dpu: DPU) -> set[Key]:
        """The sets that wait for what the DPU has."""
        return {key for what in (held_by(dpu), dpu.key) for key in self._waiting.get(what, ())}

    def waiting_for_name(self, dpu: Key) -> set[Key]:
        """The sets that wait for a DPU's name, of one that can't be read."""
        return set(self._waiting.get(dpu, ()))

    def refused(self, dpuset: DPUSet) -> dict[str, str]:
        """What the set is told of the cards that it does not get, by the name that their DPU would have."""
        cards = sorted(self._refused.get(dpuset.key, {}).items())
        return {name: said for name, card in cards if (said := self.obstacle(dpuset, card))}

    def contested(self, dpuset: DPUSet) -> list[str]:
        """What the set is told of the cards that it has and other sets want too."""
        return [
            f"{_title(card)} is selected by DPUSet {other} too, which waits for it: narrow one of the two"
            for other, cards in sorted(self._refused.items())
            for _, card in sorted(cards.items())
            if other in self._dpusets and any(dpu.owned_by(dpuset) for dpu in self._in_the_way(other.namespace, card))
        ]

    def _in_the_way(self, namespace: str, card: Card) -> list[DPU]:
        namesake = self._dpus.get(card.name, namespace)
        return self._dpus.by(indexes.CARD, place(card)) + ([namesake] if namesake is not None else [])


def taken(card: Card, holder: DPU) -> str:
    """What is said of a card that another's DPU keeps a set from, and what to do about it."""
    owner = owner_of(holder)
    todo = f"DPUSet {owner} selects it too: narrow one of the two" if owner else "delete it or select other cards"
    if held_by(holder) == place(card):
        return f"{_title(card)} has DPU {holder.key} already, which is not of this set; {todo}"
    return f"{_title(card)}: DPU {holder.key} has the name that its DPU would get, and is not of this set; {todo}"


def place(card: Card) -> str:
    """The value of :data:`indexes.CARD` for the card."""
    return indexes.card_of(card.node, card.pci)


def held_by(dpu: DPU) -> str:
    """The same for the card that a DPU has."""
    return indexes.place(dpu)


def owner_of(dpu: DPU) -> Key | None:
    """The DPUSet that the DPU is of."""
    owner = dpu.controller
    return Key(dpu.namespace, owner.name) if owner is not None and owner.kind == "DPUSet" else None


def _title(card: Card) -> str:
    return f"card {card.pci} of node {card.node}"
