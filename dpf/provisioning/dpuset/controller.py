"""The DPUSet controller: makes the DPUs of a set be as its selector and template say.

What a set selects is kept per node and worked out anew only for nodes whose labels changed; how its DPUs stand is counted by
indexes. So a DPU that moves on costs a few look-ups, however many DPUs and nodes there are. DPUs are made in batches, between
which those that were made get on.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dpf.provisioning.dpu import indexes
from dpf.provisioning.dpuset import members, rollout
from dpf.provisioning.dpuset.select import Card, Choice, choose
from dpf.provisioning.dpuset.status import summary
from dpf.runtime.cluster import Cluster
from dpf.runtime.conditions import find
from dpf.runtime.controller import Controller, Finalizing, For, Owns, Result, Watch
from dpf.runtime.errors import AlreadyExists, ApiError, NotFound
from dpf.runtime.events import EventRecorder
from dpf.runtime.k8s import Node
from dpf.runtime.meta import Key
from dpf.runtime.predicates import any_of, differs, generation_changed, labels_changed
from dpf_api.dpu import DPU, Phase
from dpf_api.dpuset import ConditionType, DPUSet, DPUSetStatus, StrategyType
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

ROLLOUT = {"BudgetUsedUp": "RolloutPaused", "Recreate": "RolloutPaused", "UpToDate": "RolloutFinished"}
"""What the event is called when a rollout has come to stand so; the other ways are told by what is done."""


@dataclass
class Selection:
    """What one set selects, node by node."""

    generation: int = -1
    choices: dict[str, Choice] = field(default_factory=dict)
    stale: set[str] = field(default_factory=set)
    """Nodes whose labels have changed since."""
    wanted: dict[str, Card] = field(default_factory=dict)
    """Cards that are selected, by the name of their DPU."""
    rejected: set[str] = field(default_factory=set)
    """Names of DPUs of cards that are known and not selected."""
    taken: dict[str, str] = field(default_factory=dict)
    """What is said of cards that another's DPU has, by the name that their DPU would have."""
    synced: object = None
    """The state of the set that its DPUs were last brought up to."""
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
        self._selections: defaultdict[str, Selection] = defaultdict(Selection)
        self.blocked: defaultdict[str, set[Key]] = defaultdict(set)
        """Sets that want a card that another's DPU has, by that card."""
        indexes.add(cluster)
        for index in members.INDEXES:
            self._dpus.add_index(index)

    def node_changed(self, dpuset: DPUSet, node: str) -> None:
        """Notes that a node's labels changed."""
        self._selections[dpuset.uid].stale.add(node)

    async def reconcile(self, dpuset: DPUSet) -> Result | None:
        selection = self._select(dpuset)
        have = {key.name for key in self._dpus.keys_by(members.OF_SET, dpuset.uid)}
        missing = [card for name, card in selection.wanted.items() if name not in have]
        pause = self._pause(dpuset, selection) if missing else 0.0
        errors = [] if pause > 0 else await self._create(dpuset, selection, missing[:BATCH])
        errors += await self._remove_deselected(dpuset, selection, have)
        errors += await self._sync(dpuset, selection)
        if dpuset.spec.strategy is not None and dpuset.spec.strategy.type is StrategyType.ROLLING_UPDATE:
            errors += await self._roll(dpuset, len(selection.wanted))
        wait = await self._write_status(dpuset, selection)
        if errors:
            raise errors[0]
        if len(missing) > BATCH or pause > 0:
            return Result(requeue_after=pause)
        return Result(requeue_after=wait) if wait > 0 else None

    async def finalize(self, dpuset: DPUSet) -> Result | None:
        """The DPUs go by garbage collection: the set is their controller."""
        self._selections.pop(dpuset.uid, None)
        return None

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
        selection = self._selections[dpuset.uid]
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
        if (before := selection.choices.pop(name, None)) is not None:
            for card in before.selected:
                selection.wanted.pop(card.name, None)
            selection.rejected.difference_update(card.name for card in before.rejected)
        node, selector = self._nodes.get(name), dpuset.spec.node_selector
        if node is None or not (selector is None or selector.matches(node.labels)):
            return
        choice = selection.choices[name] = choose(dpuset.spec.dpu_selector, node)
        selection.wanted.update((card.name, card) for card in choice.selected)
        selection.rejected.update(card.name for card in choice.rejected)

    # What is done about it

    async def _create(self, dpuset: DPUSet, selection: Selection, cards: list[Card]) -> list[ApiError]:
        return await _at_once(lambda card: self._create_one(dpuset, selection, card), cards)

    async def _create_one(self, dpuset: DPUSet, selection: Selection, card: Card) -> ApiError | None:
        place = indexes.card_of(card.node, card.pci)
        if others := [dpu for dpu in self._dpus.by(indexes.CARD, place) if not dpu.owned_by(dpuset)]:
            self.blocked[place].add(dpuset.key)
            message = f"card {card.pci} of node {card.node} has DPU {others[0].key} already, which is not of this set"
            if selection.taken.get(card.name) != message:
                self._events.warning(dpuset, "FailedCreate", message)
            selection.taken[card.name] = message
            return None
        self.blocked[place].discard(dpuset.key)
        selection.taken.pop(card.name, None)
        dpu = members.build(dpuset, card)
        try:
            await self._client.create(dpu)
        except AlreadyExists:
            # Ours, and not seen yet: its watch event comes.
            return None
        except ApiError as error:
            self._events.warning(dpuset, "FailedCreate", f"DPU {dpu.name}: {error.message}")
            return error
        self._events.normal(dpuset, "SuccessfulCreate", f"created DPU {dpu.name}")
        return None

    async def _sync(self, dpuset: DPUSet, selection: Selection) -> list[ApiError]:
        """Brings what needs no flash to the DPUs that there are, once for each edit of the set."""
        edit = dpuset.metadata.generation, dict(dpuset.labels)
        if selection.synced == edit:
            return []
        dpus = [dpu for dpu in self._dpus.by(members.OF_SET, dpuset.uid) if not dpu.deleting]
        drifting = [(dpu, patch) for dpu in dpus if (patch := members.drift(dpuset, dpu))]
        errors = await _at_once(lambda item: self._update(dpuset, *item), drifting)
        if not errors:
            selection.synced = edit
        return errors

    async def _update(self, dpuset: DPUSet, dpu: DPU, patch: dict[str, Any]) -> ApiError | None:
        try:
            await self._client.merge_patch(dpu, patch)
        except NotFound:
            return None
        except ApiError as error:
            self._events.warning(dpuset, "FailedUpdate", f"DPU {dpu.name}: {error.message}")
            return error
        self._events.normal(dpuset, "SuccessfulUpdate", f"DPU {dpu.name} was updated where it is")
        return None

    async def _remove_deselected(self, dpuset: DPUSet, selection: Selection, have: set[str]) -> list[ApiError]:
        """Deletes DPUs of nodes that are not selected any more, and of cards that are known and not selected. A card whose
        labels are just not there, as while the detector restarts, keeps its DPU."""
        errors = []
        for name in sorted(have - selection.wanted.keys()):
            dpu = self._dpus.get(name, dpuset.namespace)
            gone = dpu is not None and (name in selection.rejected or dpu.spec.node_name not in selection.choices)
            if dpu is not None and gone and (error := await self._delete(dpuset, dpu, "is not selected any more")):
                errors.append(error)
        return errors

    async def _roll(self, dpuset: DPUSet, wanted: int) -> list[ApiError]:
        """One round of a rolling update; nothing to look at if every DPU is as the template says."""
        total = self._dpus.count_by(members.OF_SET, dpuset.uid)
        if self._dpus.count_by(members.LIKE, members.template_of(dpuset)) == total:
            return []
        dpus = {dpu.name: dpu for dpu in self._dpus.by(members.OF_SET, dpuset.uid)}
        strategy = dpuset.spec.strategy.rolling_update if dpuset.spec.strategy is not None else None
        allowed = rollout.budget(strategy.max_unavailable if strategy is not None else None, wanted)
        states = [members.state(dpuset, dpu) for dpu in dpus.values()]
        names = rollout.replaceable(states, wanted=wanted, allowed=allowed)
        outcomes = [await self._delete(dpuset, dpus[name], "is replaced") for name in names if not dpus[name].deleting]
        return [error for error in outcomes if error is not None]

    async def _delete(self, dpuset: DPUSet, dpu: DPU, why: str) -> ApiError | None:
        if dpu.deleting:
            return None
        try:
            await self._client.delete(dpu)
        except ApiError as error:
            self._events.warning(dpuset, "FailedDelete", f"DPU {dpu.name}: {error.message}")
            return error
        self._events.normal(dpuset, "SuccessfulDelete", f"DPU {dpu.name} {why}")
        return None

    async def _write_status(self, dpuset: DPUSet, selection: Selection) -> float:
        """Writes the status, unless it was written a moment ago: seconds to wait then."""
        taken = [said for name, said in sorted(selection.taken.items()) if name in selection.wanted]
        status = summary(dpuset, len(selection.wanted), self._dpus, taken)
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
        """Says how the rollout stands, if it stands otherwise than before."""
        kind = ConditionType.PROGRESSING.value
        was, progress = find(dpuset.status.conditions, kind), find(status.conditions, kind)
        if was is None or progress is None or was.reason == progress.reason:
            return
        if (reason := ROLLOUT.get(progress.reason)) is not None:
            self._events.normal(dpuset, reason, progress.message, action="Rollout")


async def _at_once(do: Callable[[W], Awaitable[ApiError | None]], work: Iterable[W]) -> list[ApiError]:
    """Does it for all, some at a time; returns what failed."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(item: W) -> ApiError | None:
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
        for dpuset in sets.list():
            reconciler.node_changed(dpuset, node.name)
            yield dpuset.key

    def waiting_for(dpu: DPU) -> Iterable[Key]:
        return reconciler.blocked.get(indexes.place(dpu), ())

    return Controller(
        "dpuset",
        reconciler,
        watches=[
            For(DPUSet, when=any_of(generation_changed, labels_changed, differs(lambda each: each.deleting))),
            Owns(DPU, when=differs(members.stands)),
            Watch(DPU, to=waiting_for, when=lambda change: change.new is None),
            Watch(Node, to=selecting, when=labels_changed),
        ],
        workers=4,
        min_interval=INTERVAL,
    )
