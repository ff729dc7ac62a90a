"""What an edited DPUSet would do: the controller's own selection and rollout, run on copies. Pure; nothing is written.
Which hosts need no reboot is decided as the controller of DPUs decides it.

At once: DPUs for cards that are selected and have none are made, DPUs of cards that are not selected any more are deleted, and
what needs no flash (labels, annotations, node effect) is brought up to date. After that a rolling update replaces outdated DPUs
in batches; each batch is what the rollout would take if the DPUs of the ones before had become Ready. With ``Recreate`` outdated
DPUs stay until somebody deletes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from dpf.provisioning.cards import Card
from dpf.provisioning.dpu.rebootpolicy import policy
from dpf.provisioning.dpuset import claims, members, rollout
from dpf.provisioning.dpuset.select import pick
from dpf.provisioning.dpuset.status import allowed, lost, named
from dpf.runtime.k8s import Node
from dpf.runtime.meta import ObjectMeta
from dpf_api.dpu import DPU
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.dpuset import DPUSet, Strategy
from dpf_api.nodeeffect import NodeEffect


class Action(StrEnum):
    """What happens to a DPU."""

    CREATE = "create"
    DELETE = "delete"
    REPROVISION = "reprovision"
    UPDATE = "update"
    OUTDATED = "stays outdated"
    BLOCKED = "blocked"


@dataclass(frozen=True)
class Change:
    """One DPU's part in it. ``batch`` counts from 1; 0 stands for at once, -1 for never by itself."""

    action: Action
    dpu: str
    node: str
    why: str
    batch: int = 0

    @property
    def step(self) -> str:
        """When, in words."""
        return f"batch {self.batch}" if self.batch > 0 else "at once" if self.batch == 0 else "-"


@dataclass
class Rehearsal:
    """What comes of one DPUSet's edit."""

    dpuset: DPUSet
    created: bool
    strategy: str
    allowed: int
    """DPUs that may be in flight in a rolling update; 0 with Recreate."""
    selected: int
    """Cards that are selected, and DPUs that are kept though their node just tells no more of their card."""
    changes: list[Change] = field(default_factory=list)
    skipping: list[str] = field(default_factory=list)
    """Of :attr:`hosts` those that are not rebooted, as their annotations say."""
    notes: list[str] = field(default_factory=list)

    @property
    def attainable(self) -> int:
        """How many of these the set can have: the others' cards are another's."""
        return self.selected - self.count(Action.BLOCKED)

    @property
    def batches(self) -> int:
        """How many batches the rolling update takes."""
        return max((each.batch for each in self.changes), default=0)

    @property
    def hosts(self) -> set[str]:
        """Hosts whose cards are flashed."""
        return {each.node for each in self.changes if each.action in (Action.CREATE, Action.REPROVISION)}

    def count(self, action: Action) -> int:
        """How many DPUs it happens to."""
        return sum(each.action is action for each in self.changes)

    def plain(self) -> dict[str, Any]:
        """For programs."""
        return {
            "kind": "DPUSet",
            "namespace": self.dpuset.namespace,
            "name": self.dpuset.name,
            "created": self.created,
            "strategy": self.strategy,
            "maxUnavailable": self.allowed,
            "selected": self.selected,
            "batches": self.batches,
            "rebootSkipped": self.skipping,
            "changes": [
                {"action": e.action.value, "step": e.step, "dpu": e.dpu, "node": e.node, "why": e.why}
                for e in self.changes
            ],
            "notes": self.notes,
        }


def rehearse(old: DPUSet | None, new: DPUSet, nodes: Iterable[Node], dpus: Sequence[DPU]) -> Rehearsal:
    """Runs the edit through.

    :param old: the set as it is; None if it is a new one.
    :param dpus: all there are, whoever made them.
    """
    new = edited(old, new)
    strategy = new.spec.strategy or Strategy()
    wanted, rejected, chosen = _select(new, nodes)
    dpus = list(dpus)
    own = {each.name: each for each in dpus if old is not None and each.owned_by(old) and not each.deleting}
    own |= {each.name: each for each in dpus if each.name in wanted and members.left(new, each)}
    leaving = {each.name for each in dpus if old is not None and each.owned_by(old) and each.deleting}
    gone = {n for n, dpu in own.items() if n not in wanted and (n in rejected or dpu.spec.node_name not in chosen)}
    kept = [dpu for name, dpu in sorted(own.items()) if name not in gone]
    total = len(wanted.keys() | {dpu.name for dpu in kept})
    result = Rehearsal(new, old is None, strategy.type.value, 0, total)

    made = _create(result, new, [card for name, card in wanted.items() if name not in own], leaving, dpus)
    room = allowed(new, result.attainable)
    rolling, result.allowed = room is not None, room or 0
    for name in sorted(gone):
        result.changes.append(Change(Action.DELETE, name, own[name].spec.node_name, "is not selected any more"))
    outdated = [dpu for dpu in kept if members.outdated(new, dpu)]
    _update(result, new, wanted, [dpu for dpu in kept if not (rolling and members.outdated(new, dpu))])
    if rolling:
        _roll(result, new, wanted, kept, made)
    else:
        why = "with Recreate it is provisioned anew when you delete it"
        result.changes += [
            Change(Action.OUTDATED, dpu.name, dpu.spec.node_name, f"{_difference(new, dpu)}; {why}", -1)
            for dpu in outdated
        ]
    if own and not wanted and len(gone) == len(own):
        result.notes.append("no card is selected any more: all DPUs of the set go")
    elif not wanted:
        result.notes.append("no card is selected: look at nodeSelector, dpuSelector and the labels of the nodes")
    if old is not None and old.deleting:
        result.notes.append("the set is being deleted: an edit does nothing any more")
    return result


def edited(old: DPUSet | None, new: DPUSet) -> DPUSet:
    """The set after the edit: the old one's identity, and its strategy if the manifest says nothing of it."""
    if old is None:
        return new
    spec = new.spec if new.spec.strategy is not None else new.spec.model_copy(update={"strategy": old.spec.strategy})
    meta = old.metadata.model_copy(update={"labels": {**old.labels, **new.labels}})
    return new.model_copy(update={"metadata": meta, "spec": spec})


def _select(dpuset: DPUSet, nodes: Iterable[Node]) -> tuple[dict[str, Card], set[str], set[str]]:
    """Selected cards by the name of their DPU; DPUs of known cards that are not; nodes that are selected."""
    wanted: dict[str, Card] = {}
    rejected: set[str] = set()
    chosen: set[str] = set()
    for node in sorted(nodes, key=lambda each: each.name):
        if (choice := pick(dpuset.spec.node_selector, dpuset.spec.dpu_selector, node)) is not None:
            chosen.add(node.name)
            wanted.update((card.name, card) for card in choice.selected)
            rejected.update(card.name for card in choice.rejected)
    return wanted, rejected, chosen


def _create(result: Rehearsal, new: DPUSet, cards: Sequence[Card], leaving: set[str], dpus: Iterable[DPU]) -> int:
    """Plans what is made; returns how many the rollout will see missing."""
    others = [each for each in dpus if not each.owned_by(new)]
    places = {claims.held_by(each): each for each in others}
    names = {each.name: each for each in others if each.namespace == new.namespace}
    made = 0
    for card in cards:
        if (other := places.get(claims.place(card)) or names.get(card.name)) is not None:
            result.changes.append(Change(Action.BLOCKED, card.name, card.node, claims.taken(card, other), -1))
            continue
        why = "once the one that is being deleted has gone" if card.name in leaving else "is selected"
        result.changes.append(Change(Action.CREATE, card.name, card.node, why))
        made += 1
    return made


def _update(result: Rehearsal, new: DPUSet, wanted: Mapping[str, Card], dpus: Iterable[DPU]) -> None:
    """What the controller brings to DPUs that there are, without a flash."""
    for dpu in dpus:
        if patch := members.drift(new, dpu, wanted.get(dpu.name)):
            result.changes.append(Change(Action.UPDATE, dpu.name, dpu.spec.node_name, ", ".join(_words(patch))))


def _words(patch: dict[str, Any]) -> Iterable[str]:
    spec, metadata = patch.get("spec", {}), patch.get("metadata", {})
    entries = (
        ("labels", metadata.get("labels", {})),
        ("annotations", metadata.get("annotations", {})),
        ("node labels", spec.get("cluster", {}).get("nodeLabels", {})),
    )
    for what, values in entries:
        if values:
            yield f"{what} " + " ".join(f"{key}={value}" for key, value in sorted(values.items()))
    if "nodeEffect" in spec:
        yield "node effect " + " ".join(key for key, value in spec["nodeEffect"].items() if value is not None)
    if "automaticNodeReboot" in spec:
        yield f"automaticNodeReboot {str(spec['automaticNodeReboot']).lower()}"


def _roll(result: Rehearsal, new: DPUSet, wanted: Mapping[str, Card], kept: Sequence[DPU], made: int) -> None:
    """Batch after batch until nothing is outdated, or nothing more may be taken.

    :param made: DPUs that are made at once; the first batch has to wait for them.
    """
    by_name = {dpu.name: dpu for dpu in kept}
    states = [members.state(new, dpu, selected=dpu.name in wanted) for dpu in kept]
    missing, batch = made, 0
    while any(each.outdated and each.selected for each in states):
        names = set(rollout.replaceable(states, missing=missing, allowed=result.allowed))
        if not names and not missing:
            _left(
                result,
                [by_name[each.name] for each in states if each.outdated and each.selected],
                "the budget is used up",
            )
            result.notes.append(_stop(states, result.allowed))
            break
        if names:
            batch += 1
        for name in sorted(names):
            why = _difference(new, by_name[name])
            result.changes.append(Change(Action.REPROVISION, name, by_name[name].spec.node_name, why, batch))
        # What is done is Ready from now on and counts neither way, so it need not be looked at again.
        missing = 0
        states = [each for each in states if each.name not in names]
    untold = [by_name[each.name] for each in states if each.outdated and not each.selected]
    _left(result, untold, "the labels of its node tell of no such card")


def _stop(states: Sequence[rollout.Member], allowed: int) -> str:
    """Why nothing more may be taken, and what to do about it."""
    down = [each for each in states if not each.available]
    they_are = "1 DPU is" if len(down) == 1 else f"{len(down)} DPUs are"
    words = f"the rolling update stops: {they_are} unavailable and only {allowed} may be"
    if awaited := [each.name for each in down if each.in_flight]:
        words += f"; goes on when one of these is Ready: {named(awaited)}"
    held = [each.name for each in down if each.held]
    return f"{words}; {lost(held)}" if held else words


def _left(result: Rehearsal, dpus: Iterable[DPU], why: str) -> None:
    result.changes += [Change(Action.OUTDATED, dpu.name, dpu.spec.node_name, why, -1) for dpu in dpus]


def look_at_reboots(result: Rehearsal, nodes: Iterable[Node], flavor: DPUFlavor | None) -> None:
    """Notes which hosts are left alone when their cards are flashed, and which have an annotation that holds their DPUs up.

    :param flavor: that which the set names, if it is there.
    """
    # What decides of a DPU comes from the template, so it is the same for all.
    dpu = DPU(metadata=ObjectMeta(annotations=result.dpuset.spec.dpu_template.annotations))
    hosts = result.hosts
    for node in sorted((each for each in nodes if each.name in hosts), key=lambda each: each.name):
        try:
            if policy(dpu, node, flavor).skip:
                result.skipping.append(node.name)
        except ValueError as error:
            result.notes.append(f"{error}: until then its DPUs wait")


def meanwhile(result: Rehearsal) -> str:
    """What happens to the hosts whose cards are flashed, as the end of a sentence."""
    template = members.template_spec(result.dpuset)
    drain = template.node_effect.drain
    reboot = template.automatic_node_reboot or bool(drain and drain.automatic_node_reboot)
    if not result.skipping:
        return effect(template.node_effect, reboot=reboot)
    if len(result.skipping) == len(result.hosts):
        return f"{effect(template.node_effect, reboot=None)}; none is rebooted, as their annotations say skip"
    return f"{effect(template.node_effect, reboot=reboot)}; not rebooted, as their annotations say skip: {named(result.skipping)}"


def _difference(new: DPUSet, dpu: DPU) -> str:
    """What of the template the DPU must be provisioned anew for."""
    template = members.template_spec(new)
    pairs = (("BFB", dpu.spec.bfb, template.bfb.name), ("DPUFlavor", dpu.spec.dpu_flavor, template.dpu_flavor))
    return ", ".join(
        f"{what} {before or 'none'} -> {after or 'none'}" for what, before, after in pairs if before != after
    )


def effect(chosen: NodeEffect, *, reboot: bool | None) -> str:
    """What happens to a host meanwhile, as the end of a sentence.

    :param reboot: whether it may be rebooted; None if it need not be.
    """
    if chosen.drain is not None and not chosen.no_effect:
        what = "drained"
    elif chosen.taint is not None and not chosen.no_effect:
        what = f"tainted {chosen.taint.key}={chosen.taint.value}:{chosen.taint.effect}"
    elif chosen.custom_label and not chosen.no_effect:
        what = "labelled " + ",".join(f"{key}={value}" for key, value in chosen.custom_label.items())
    else:
        what = ""
    words = [what] * bool(what) + (["rebooted"] if reboot else [])
    return " and ".join(words) or f"left as they are{'' if reboot is None else '; you are asked to reboot them'}"


def tally(rehearsals: Iterable[Rehearsal]) -> Counter[Action]:
    """How many DPUs what happens to, in all."""
    return Counter(change.action for each in rehearsals for change in each.changes)
