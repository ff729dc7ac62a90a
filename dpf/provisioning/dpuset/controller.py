"""The DPUSet controller: makes the DPUs of a set be as its selector and template say.

What a set selects is kept per node and worked out anew only for nodes whose labels or address changed; how its DPUs stand is
counted by indexes. So a DPU that moves on costs a few look-ups, however many DPUs and nodes there are. DPUs are made in batches,
between which those that were made get on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dpf.provisioning import indexes
from dpf.provisioning.cards import Card
from dpf.provisioning.dpuset import members, rollout
from dpf.provisioning.dpuset.claims import Claims
from dpf.provisioning.dpuset.select import Choice, pick
from dpf.provisioning.dpuset.status import Refusals, Tally, allowed, count_outdated, summary, tally, unlabelled
from dpf.runtime.cluster import Cluster
from dpf.runtime.conditions import find
from dpf.runtime.controller import Controller, Finalizing, For, Owns, Result, Watch
from dpf.runtime.errors import AlreadyExists, Conflict, DpfError, NotFound
from dpf.runtime.events import EventRecorder
from dpf.runtime.informer import Change
from dpf.runtime.k8s import Node
from dpf.runtime.meta import Key, owner_reference, to_wire
from dpf.runtime.predicates import any_of, differs, generation_changed, labels_changed
from dpf_api.dpu import DPU, Phase
from dpf_api.dpuset import ConditionType, DPUSet, DPUSetStatus
from dpf_api.names import FINALIZER_DPUSET

W = TypeVar("W")

BATCH = 50
"""DPUs made in one go."""
PACE = 1.0
"""Seconds between batches while most of the last one are still on their first steps: of a thousand DPUs the first should not
queue behind the pods of the last."""
FIRST_STEPS = (Phase.INITIALIZING, Phase.NODE_EFFECT, Phase.PENDING, Phase.DMS_DEPLOYMENT)
AT_ONCE = 16
"""Requests of one set under way at once."""
INTERVAL = 0.25
"""Seconds between looks at one set: what changes faster is taken together."""
STATUS_INTERVAL = 1.0
"""Seconds between status writes of one set while things move."""

ROLLOUT = {
    "BudgetUsedUp": "RolloutPaused",
    "CardNotFound": "RolloutPaused",
    "DeletionFailed": "RolloutPaused",
    "Recreate": "RolloutPaused",
    "UpToDate": "RolloutFinished",
}
"""What the event is called when a rollout has come to stand so; the other ways are told by what is done."""


@dataclass
class Selection:
    """What one set selects, node by node."""

    uid: str
    """The set's: one of the same name selects anew."""
    generation: int = -1
    choices: dict[str, Choice] = field(default_factory=dict)
    stale: set[str] = field(default_factory=set)
    """Nodes whose labels or address have changed since."""
    wanted: dict[str, Card] = field(default_factory=dict)
    """Cards that are selected, by the name of their DPU."""
    rejected: set[str] = field(default_factory=set)
    """Names of DPUs of cards that are known and not selected."""
    refused: set[str] = field(default_factory=set)
    """Names of DPUs that can't be made, and of which that was told."""
    refusals: Refusals = field(default_factory=Refusals)
    """What the API server did not let be done."""
    synced: object = None
    """The state of the set that its DPUs were last brought up to."""
    moved: set[str] = field(default_factory=set)
    """Names of DPUs that were taken over since, or of whose cards otherwise is told."""
    made_at: float = float("-inf")
    """When the last batch of DPUs was made."""
    written_at: float = float("-inf")


class DPUSetReconciler(Finalizing[DPUSet]):
    """Makes the DPUs of one set match."""

    finalizer = FINALIZER_DPUSET

    def __init__(self, cluster: Cluster, events: EventRecorder) -> None:
        self._client = cluster.client
        self._nodes = cluster.cache[Node]
        self._dpus = cluster.cache[DPU]
        self._events = events
        self._selections: dict[Key, Selection] = {}
        self.claims = Claims(self._dpus, cluster.cache[DPUSet])
        self.wake: Callable[[Key], None] = lambda _: None
        """Has another set looked at; the controller's."""
        indexes.add(cluster)
        for index in members.INDEXES:
            self._dpus.add_index(index)

    def node_changed(self, node: str) -> None:
        """Notes that a node's labels or address changed, for sets that can't be read at present too. A set that was not looked
        at yet looks at all nodes."""
        for selection in self._selections.values():
            selection.stale.add(node)

    async def reconcile(self, dpuset: DPUSet) -> Result | None:
        selection = self._select(dpuset)
        errors = await self._adopt(dpuset, selection, selection.wanted.keys() - self._members(dpuset))
        have = self._members(dpuset)
        without = [] if unlabelled(dpuset) else [c for name, c in selection.wanted.items() if name not in have]
        missing = self._settle(dpuset, selection, without)
        pause = self._pause(dpuset, selection) if missing else 0.0
        # What is still to be done is tried again now, so an answer of before is not kept.
        selection.refusals.deleted.clear()
        if pause <= 0:
            selection.refusals.made.clear()
            errors += await _at_once(lambda card: self._create(dpuset, selection, card), missing[:BATCH])
        errors += await self._remove_deselected(dpuset, selection, have)
        errors += await self._sync(dpuset, selection)
        errors += await self._roll(dpuset, selection)
        wait = await self._write_status(dpuset, selection)
        if errors:
            raise errors[0]
        if len(missing) > BATCH or pause > 0:
            return Result(requeue_after=pause)
        return Result(requeue_after=wait) if wait > 0 else None

    async def finalize(self, dpuset: DPUSet) -> Result | None:
        """The DPUs go by garbage collection: the set is their controller."""
        await self.gone(dpuset.key)
        return None

    async def gone(self, key: Key) -> None:
        """Lets go of it, also if somebody took its finalizer off."""
        self._selections.pop(key, None)
        for owner in self.claims.settle(key, ()):
            self.wake(owner)

    def _pause(self, dpuset: DPUSet, selection: Selection) -> float:
        """Seconds until the next batch may be made; 0 if it may be now. Then the time is noted."""
        now = asyncio.get_running_loop().time()
        starting = sum(self._dpus.count_by(members.PHASE, members.in_phase(dpuset.uid, p)) for p in FIRST_STEPS)
        wait = selection.made_at + PACE - now
        if starting >= BATCH and wait > 0:
            return wait
        selection.made_at = now
        return 0.0

    # What is selected

    def _select(self, dpuset: DPUSet) -> Selection:
        selection = self._selections.get(dpuset.key)
        if selection is None or selection.uid != dpuset.uid:
            selection = self._selections[dpuset.key] = Selection(dpuset.uid)
        if selection.generation != dpuset.metadata.generation:
            selection.generation = dpuset.metadata.generation
            selection.choices.clear()
            selection.stale = {key.name for key in self._nodes.keys()}  # noqa: SIM118 (an informer is no mapping)
            selection.wanted.clear()
            selection.rejected.clear()
        for name in sorted(selection.stale):
            self._select_node(dpuset, selection, name)
        selection.stale.clear()
        return selection

    def _select_node(self, dpuset: DPUSet, selection: Selection, name: str) -> None:
        before = selection.choices.pop(name, Choice())
        for card in before.selected:
            selection.wanted.pop(card.name, None)
        selection.rejected.difference_update(card.name for card in before.rejected)
        node = self._nodes.get(name)
        choice = pick(dpuset.spec.node_selector, dpuset.spec.dpu_selector, node) if node is not None else None
        if choice is None:
            return
        selection.choices[name] = choice
        selection.wanted.update((card.name, card) for card in choice.selected)
        selection.rejected.update(card.name for card in choice.rejected)
        selection.moved.update(card.name for card in choice.selected if card not in before.selected)

    # What is done about it

    def _settle(self, dpuset: DPUSet, selection: Selection, cards: list[Card]) -> list[Card]:
        """Of the cards without a DPU those that can get one. Of the others their owners are told, and the set itself."""
        refused = {card.name: said for card in cards if (said := self.claims.obstacle(dpuset, card))}
        for owner in self.claims.settle(dpuset.key, [card for card in cards if card.name in refused]):
            self.wake(owner)
        if fresh := [said for name, said in refused.items() if name not in selection.refused]:
            more = f" (other cards like it: {len(fresh) - 1})" if len(fresh) > 1 else ""
            self._events.warning(dpuset, "FailedCreate", fresh[0] + more)
        selection.refused = set(refused)
        return [card for card in cards if card.name not in refused]

    def _members(self, dpuset: DPUSet) -> set[str]:
        return {key.name for key in self._dpus.keys_by(members.OF_SET, dpuset.uid)}

    async def _adopt(self, dpuset: DPUSet, selection: Selection, missing: Iterable[str]) -> list[DpfError]:
        """Takes over the DPUs of selected cards that a set of that name has left behind."""
        found = (self._dpus.get(name, dpuset.namespace) for name in missing)
        orphans = [dpu for dpu in found if dpu is not None and members.left(dpuset, dpu)]
        # The cache may not know yet that the set is being deleted, and leaves its DPUs on purpose.
        if not orphans or (await self._client.get(DPUSet, dpuset.name, dpuset.namespace)).deleting:
            return []
        return await _at_once(lambda dpu: self._take_over(dpuset, selection, dpu), orphans)

    async def _take_over(self, dpuset: DPUSet, selection: Selection, dpu: DPU) -> DpfError | None:
        owners = [*dpu.metadata.owner_references, owner_reference(dpuset)]
        patch = {"metadata": {"ownerReferences": [to_wire(owner) for owner in owners]}}
        try:
            await self._client.merge_patch(dpu, patch, resource_version=dpu.metadata.resource_version)
        except (Conflict, NotFound) as error:
            return error
        except DpfError as error:
            self._events.warning(dpuset, "FailedAdopt", f"DPU {dpu.name}: {error}")
            return error
        # The set's template may have reached all others before.
        selection.moved.add(dpu.name)
        self._events.normal(
            dpuset, "SuccessfulAdopt", f"DPU {dpu.name}, which a set of this name had left, is taken over"
        )
        return None

    async def _create(self, dpuset: DPUSet, selection: Selection, card: Card) -> DpfError | None:
        dpu = members.build(dpuset, card)
        try:
            await self._client.create(dpu)
        except AlreadyExists:
            # Not known here yet, or it would not have been tried: the set is looked at again when it is.
            self.claims.wait(dpuset.key, card)
            if self.claims.obstacle(dpuset, card):
                self.wake(dpuset.key)
            return None
        except DpfError as error:
            selection.refusals.made[dpu.name] = str(error)
            self._events.warning(dpuset, "FailedCreate", f"DPU {dpu.name}: {error}")
            return error
        self._events.normal(dpuset, "SuccessfulCreate", f"created DPU {dpu.name}")
        return None

    async def _sync(self, dpuset: DPUSet, selection: Selection) -> list[DpfError]:
        """Brings what needs no flash to the DPUs that there are, once for each edit of the set; and to one that was taken
        over since, or whose card is told of otherwise than before."""
        edit = dpuset.metadata.generation, dict(dpuset.labels)
        moved, selection.moved = selection.moved, set()
        if selection.synced != edit:
            dpus = self._dpus.by(members.OF_SET, dpuset.uid)
        else:
            known = (self._dpus.get(name, dpuset.namespace) for name in sorted(moved))
            dpus = [dpu for dpu in known if dpu is not None and dpu.owned_by(dpuset)]
        drifting = [dpu.key for dpu in dpus if self._drift(dpuset, selection, dpu)]
        errors = await _at_once(lambda key: self._update(dpuset, selection, key), drifting)
        if errors:
            selection.moved |= moved
        else:
            selection.synced = edit
        return errors

    def _drift(self, dpuset: DPUSet, selection: Selection, dpu: DPU) -> dict[str, Any] | None:
        return None if dpu.deleting else members.drift(dpuset, dpu, selection.wanted.get(dpu.name))

    async def _update(self, dpuset: DPUSet, selection: Selection, key: Key) -> DpfError | None:
        # As it is by now: of many DPUs that are on their way some have been written while others had their turn.
        dpu = self._dpus.get(key.name, key.namespace)
        if dpu is None or not dpu.owned_by(dpuset) or not (patch := self._drift(dpuset, selection, dpu)):
            return None
        try:
            # Locked: an earlier edit's, sent by a leader that has ended since, must not come after this one.
            await self._client.merge_patch(dpu, patch, resource_version=dpu.metadata.resource_version)
        except NotFound:
            return None
        except Conflict as error:
            return error
        except DpfError as error:
            self._events.warning(dpuset, "FailedUpdate", f"DPU {dpu.name}: {error}")
            return error
        self._events.normal(dpuset, "SuccessfulUpdate", f"DPU {dpu.name} was updated where it is")
        return None

    async def _remove_deselected(self, dpuset: DPUSet, selection: Selection, have: set[str]) -> list[DpfError]:
        """Deletes DPUs of nodes that are not selected any more, and of cards that are known and not selected. A card whose
        labels are just not there, as while the detector restarts, keeps its DPU."""
        errors: list[DpfError | None] = []
        for name in sorted(have - selection.wanted.keys()):
            dpu = self._dpus.get(name, dpuset.namespace)
            gone = dpu is not None and (name in selection.rejected or dpu.spec.node_name not in selection.choices)
            if dpu is not None and gone:
                errors.append(await self._delete(dpuset, selection, dpu, "is not selected any more"))
        return [error for error in errors if error is not None]

    async def _roll(self, dpuset: DPUSet, selection: Selection) -> list[DpfError]:
        """One round of a rolling update. The DPUs are only looked at if one may go."""
        if not count_outdated(dpuset, self._dpus):
            return []
        stand = self._tally(dpuset, selection)
        room = allowed(dpuset, stand.attainable)
        if room is None or stand.in_flight >= room:
            return []
        dpus = {
            dpu.name: dpu
            for dpu in self._dpus.by(members.OF_SET, dpuset.uid)
            if not dpu.deleting or dpu.name in selection.wanted
        }
        states = [members.state(dpuset, dpu, selected=name in selection.wanted) for name, dpu in dpus.items()]
        names = rollout.replaceable(states, missing=len(stand.missing), allowed=room)
        outcomes = [await self._delete(dpuset, selection, dpus[name], "is replaced") for name in names]
        return [error for error in outcomes if error is not None]

    def _tally(self, dpuset: DPUSet, selection: Selection) -> Tally:
        return tally(dpuset, selection.wanted.keys(), self._dpus, selection.refused, selection.refusals)

    async def _delete(self, dpuset: DPUSet, selection: Selection, dpu: DPU, why: str) -> DpfError | None:
        if dpu.deleting:
            return None
        try:
            await self._client.delete(dpu)
        except DpfError as error:
            selection.refusals.deleted[dpu.name] = str(error)
            self._events.warning(dpuset, "FailedDelete", f"DPU {dpu.name}: {error}")
            return error
        self._events.normal(dpuset, "SuccessfulDelete", f"DPU {dpu.name} {why}")
        return None

    async def _write_status(self, dpuset: DPUSet, selection: Selection) -> float:
        """Writes the status, unless it was written a moment ago: seconds to wait then."""
        refused, contested = self.claims.refused(dpuset), self.claims.contested(dpuset)
        status = summary(dpuset, self._tally(dpuset, selection), self._dpus, list(refused.values()), contested)
        if status == dpuset.status:
            return 0.0
        now = asyncio.get_running_loop().time()
        wait = selection.written_at + STATUS_INTERVAL - now
        if wait > 0:
            return wait
        selection.written_at = now
        await self._client.status(dpuset).set(status)
        self._tell(dpuset, status)
        return 0.0

    def _tell(self, dpuset: DPUSet, status: DPUSetStatus) -> None:
        """Says how the rollout stands, if it stands otherwise than before; as a warning if something must be mended first."""
        kind = ConditionType.PROGRESSING.value
        was, progress = find(dpuset.status.conditions, kind), find(status.conditions, kind)
        if was is None or progress is None or (was.status, was.reason) == (progress.status, progress.reason):
            return
        if (reason := ROLLOUT.get(progress.reason)) is not None:
            stopped = progress.status == "False" and progress.reason != "Recreate"
            tell = self._events.warning if stopped else self._events.normal
            tell(dpuset, reason, progress.message, action="Rollout")


async def _at_once(do: Callable[[W], Awaitable[DpfError | None]], work: Iterable[W]) -> list[DpfError]:
    """Does it for all, some at a time; returns what failed."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(item: W) -> DpfError | None:
        async with slots:
            return await do(item)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(item)) for item in work]
    return [error for task in tasks if (error := task.result()) is not None]


def dpuset_controller(cluster: Cluster, events: EventRecorder) -> Controller[DPUSet]:
    """The controller of DPUSets."""
    reconciler = DPUSetReconciler(cluster, events)
    sets = cluster.cache[DPUSet]

    def selecting(node: Node) -> Iterable[Key]:
        reconciler.node_changed(node.name)
        return sets.keys()

    controller = Controller(
        "dpuset",
        reconciler,
        watches=[
            # Its status too: one that somebody else wrote is put right.
            For(
                DPUSet,
                when=any_of(generation_changed, labels_changed, differs(lambda each: (each.deleting, each.status))),
            ),
            Owns(DPU, when=differs(members.stands)),
            Watch(
                DPU, to=reconciler.claims.waiting_for, when=differs(lambda dpu: (indexes.place(dpu), dpu.controller))
            ),
            Watch(Node, to=selecting, when=differs(lambda node: (node.labels, node.internal_ip))),
        ],
        workers=4,
        min_interval=INTERVAL,
    )
    reconciler.wake = controller.enqueue

    def unreadable_went(change: Change[DPU]) -> None:
        """A Watch is told nothing of what can't be read, but it may be what has the name of a set's DPU."""
        if change.type == "DELETED" and change.old is None:
            for key in reconciler.claims.waiting_for_name(change.key):
                controller.enqueue(key)

    cluster.cache[DPU].add_handler(unreadable_went)
    return controller
