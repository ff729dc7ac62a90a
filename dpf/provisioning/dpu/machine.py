"""Runs the phases of a DPU: looks, lets the phase decide, does what it decided, and again, until there is something to wait for.

Phases that wait for nothing outside follow each other in one pass, and the pass writes the status once. It knows no phase:
which module decides is a table's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dpf.provisioning.dpu import story
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.observe import Observer, Seen
from dpf.provisioning.dpu.steps import Act, Action, Advance, Changes, Hold, Remember, Step, waits
from dpf.runtime.conditions import find, set_condition
from dpf.runtime.controller import Result
from dpf.runtime.errors import ApiError, ClusterUnavailable, Conflict, DpfError, Terminal, Waiting
from dpf.runtime.meta import Condition
from dpf_api.dpu import DPU, ConditionType, DPUStatus, Phase

STEPS = 50
"""Decisions in one pass at most. More means that two phases send the DPU to and fro."""

SEEN_LATER = 0.5
"""Seconds after which the outcome of an action is looked for again."""

CLUSTER_AWAY = "DPUClusterClientGetError"
"""The reason of any step that fails because the DPU cluster can't be reached: neither card nor host is to blame."""

Decide = Callable[[Seen], Step]


class Pass:
    """One pass over one DPU: the status as it will be, and when it is written."""

    def __init__(self, dpu: DPU, observer: Observer, hands: Hands) -> None:
        self._dpu = dpu
        self._observer = observer
        self._hands = hands
        self._status: DPUStatus = dpu.status
        self._did: set[Action] = set()
        self._passed: list[Phase] = []
        """Phases entered since the last write."""
        self._seen: Seen | None = None
        """The latest look: while it is held, what has not changed since need not be decoded again for the next one."""

    @property
    def phase(self) -> Phase:
        return self._status.phase

    async def run(self, decide: Callable[[Phase], Decide]) -> Result | None:
        """Goes as far as it can.

        :raises DpfError: what an action failed with, after the status says so.
        """
        for _ in range(STEPS):
            step = decide(self.phase)(self._look())
            if isinstance(step, Act) and step.alone:
                async with self._hands.alone(self._dpu.spec.node_name):
                    # Another DPU of the host may have had its turn since.
                    step = decide(self.phase)(self._look())
                    if isinstance(step, Act):
                        await self._act(step)
                        continue
            match step:
                case Advance():
                    self._advance(step)
                case Act():
                    await self._act(step)
                case Hold(condition=condition, also=also, after=after, cluster=cluster, changes=changes):
                    self._change(changes)
                    for each in (*also, condition):
                        self._take(each)
                    await self.write()
                    if cluster:
                        raise ClusterUnavailable(cluster, condition.message, retry_after=after)
                    return Result(requeue_after=after) if after is not None else None
        raise RuntimeError(f"phase {self.phase} comes to no end")

    def enter(self, phase: Phase, changes: Changes) -> None:
        """Changes the phase, and what goes with it."""
        self._change({**changes, "phase": phase})

    def say(self, condition: Condition) -> None:
        """Sets a condition."""
        self._take(condition)

    async def write(self) -> None:
        """Writes the status, if it differs from what is stored.

        :raises Conflict: if the stored one is not what this pass began with; all is looked at again then.
        """
        dpu = self._current()
        if dpu.status != self._dpu.status:
            # What was decided here is not for that one: the leader before wrote last, or somebody's hand.
            raise Conflict(409, "Conflict", f"the status of DPU {dpu.key} was changed meanwhile")
        status = self._status
        if status != dpu.status and status.observed_generation != dpu.metadata.generation:
            status = status.model_copy(update={"observed_generation": dpu.metadata.generation})
        stored = await self._hands.client.status(dpu).set(status)
        story.tell(self._hands.events, self._dpu, stored, self._passed)
        story.count(self._hands.counts, self._dpu.status, stored.status)
        self._dpu, self._status = stored, stored.status
        self._passed.clear()

    def _current(self) -> DPU:
        found = self._observer.current(self._dpu.key)
        return found if found is not None and found.uid == self._dpu.uid else self._dpu

    def _look(self) -> Seen:
        self._seen = self._observer.look(self._current().model_copy(update={"status": self._status}))
        return self._seen

    def _advance(self, step: Advance) -> None:
        if step.phase is not self.phase:
            self._passed.append(step.phase)
        for condition in step.conditions:
            self._take(condition)
        self._change({**step.changes, "phase": step.phase})

    async def _act(self, step: Act) -> None:
        if step.do in self._did:
            # Done, and not seen yet: what was there already when it was done is still to come by the watch.
            raise Waiting(
                "NotSeenYet", f"waiting for the outcome of {step.do.__name__} to be seen", retry_after=SEEN_LATER
            )
        self._did.add(step.do)
        for condition in step.also:
            self._take(condition)
        seen = self._look()
        try:
            outcome = await step.do(self._hands, seen)
        except Terminal as error:
            self._advance(Advance(Phase.ERROR, (waits(step.condition, error.reason, error.message),)))
            return
        except Conflict:
            raise  # Somebody was faster: nothing to report.
        except (DpfError, OSError) as error:
            await self._report(step, error)
            raise
        if isinstance(outcome, Remember):
            self._change(outcome.changes)
            for condition in outcome.conditions:
                self._take(condition)
            await self.write()
            outcome.then()
        elif outcome:
            self._change(outcome)

    async def _report(self, step: Act, error: Exception) -> None:
        """Puts a failure into the condition, and into an event if it is not just a wait."""
        match error:
            case Waiting():
                reason = error.reason
            case ClusterUnavailable():
                reason = CLUSTER_AWAY
            case _:
                reason = step.reason
        message = str(error) or type(error).__name__
        before = find(self._status.conditions, step.condition.value)
        self._take(waits(ConditionType(step.condition), reason, message))
        if isinstance(error, ApiError | OSError) and (before is None or before.message != message):
            self._hands.events.warning(self._dpu, reason, message, action="Provision")
        await self.write()

    def _take(self, condition: Condition) -> None:
        # The present one: an action of this very pass may have changed the spec, and the next pass need not say the same again.
        condition = condition.model_copy(update={"observed_generation": self._current().metadata.generation})
        changes: dict[str, Any] = {"conditions": set_condition(self._status.conditions, condition)}
        waiting = condition.status != "True"
        changes |= {"reason": condition.reason if waiting else "", "message": condition.message if waiting else ""}
        self._change(changes)

    def _change(self, changes: Mapping[str, Any]) -> None:
        self._status = self._status.model_copy(update=dict(changes))
