"""Work that takes longer than a reconcile should: downloads, transfers, calls to devices.

A job runs beside the workers and wakes its object when it ends, so that the next reconcile finds the outcome. It is only a hand
that does something: what has been done must be readable from the API or the device, because a job does not outlive its process.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Generic, TypeVar

from dpf.runtime.controller import Controller, being_cancelled, cut_short
from dpf.runtime.holder import TaskHolder
from dpf.runtime.informer import ORIGIN
from dpf.runtime.meta import Key
from dpf.runtime.places import PLACES

R = TypeVar("R")


class Job(Generic[R]):
    """One piece of work. ``progress`` is whatever the work puts there for the reconciler to read; ``queued`` says that it waits
    for others to end, and has not begun."""

    def __init__(self, uid: str) -> None:
        self.uid = uid
        self.progress: Any = None
        self.queued = False
        self.done = False
        self._task: asyncio.Task[None] | None = None
        self._value: R | None = None
        self._error: Exception | None = None

    def result(self) -> R:
        """What the work returned.

        :raises Exception: what the work raised.
        :raises asyncio.InvalidStateError: if it is not done.
        """
        if not self.done:
            raise asyncio.InvalidStateError("the job is not done")
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    async def perform(self, slots: asyncio.Semaphore, work: Callable[[Job[R]], Awaitable[R]]) -> None:
        """Does the work in its turn and keeps the outcome, error or value."""
        self.queued = slots.locked()
        async with slots:
            self.queued = False
            try:
                self._value = await work(self)
            except asyncio.CancelledError as error:
                if being_cancelled():
                    raise
                self._error = cut_short(error)
            except Exception as error:  # noqa: BLE001  (handed to the reconciler by result())
                self._error = error
        self.done = True


class Jobs(Generic[R]):
    """The jobs of one controller, at most one per object, at most ``limit`` running at once. A runnable of the manager."""

    def __init__(self, *, limit: int) -> None:
        self._slots = asyncio.Semaphore(limit)
        self._jobs: dict[Key, Job[R]] = {}
        self._tasks: defaultdict[Key, set[asyncio.Task[None]]] = defaultdict(set)
        """All of a key that have not ended: a job that was cancelled takes its time."""
        self._controller: Controller[Any] | None = None
        self._holder = TaskHolder("jobs")

    @property
    def queued(self) -> int:
        """How many wait for a running one to end."""
        return sum(job.queued for job in self._jobs.values())

    def bind(self, controller: Controller[Any]) -> None:
        """The controller to wake when a job ends."""
        self._controller = controller

    @property
    def full(self) -> bool:
        """Whether a job that is started now has to wait for another to end."""
        return self._slots.locked()

    async def run(self) -> None:
        """Holds the jobs; cancelling it cancels them."""
        await self._holder.run()

    def get(self, key: Key, uid: str) -> Job[R] | None:
        """The object's job, running or done; a job of an earlier namesake is not found."""
        job = self._jobs.get(key)
        return job if job is not None and job.uid == uid else None

    def start(self, key: Key, uid: str, work: Callable[[Job[R]], Awaitable[R]]) -> Job[R]:
        """Starts ``work`` for the object, unless it has a job; it begins when a cancelled one of before has ended.

        :param uid: of the object; a job of an earlier namesake is cancelled.
        :raises RuntimeError: if the jobs are not being run.
        """
        if (job := self.get(key, uid)) is not None:
            return job
        group = self._holder.group
        self.cancel(key)
        job = self._jobs[key] = Job(uid)
        job.queued = self.full
        perform = self._perform(key, job, work, set(self._tasks[key]))
        task = job._task = group.create_task(perform, name=f"job {key}")  # noqa: SLF001
        self._tasks[key].add(task)
        task.add_done_callback(partial(self._ended, key))
        return job

    def take(self, key: Key, uid: str) -> Job[R] | None:
        """As :meth:`get`, and forgets a job that is done: its outcome is being dealt with."""
        job = self.get(key, uid)
        if job is not None and job.done:
            del self._jobs[key]
        return job

    def cancel(self, key: Key) -> None:
        """Stops and forgets the object's job, if it has one."""
        job = self._jobs.pop(key, None)
        if job is not None and job._task is not None:  # noqa: SLF001
            job._task.cancel()  # noqa: SLF001

    def _ended(self, key: Key, task: asyncio.Task[None]) -> None:
        self._tasks[key].discard(task)
        if not self._tasks[key]:
            del self._tasks[key]

    async def _perform(
        self, key: Key, job: Job[R], work: Callable[[Job[R]], Awaitable[R]], before: set[asyncio.Task[None]]
    ) -> None:
        # What a job writes wakes its object like what anybody writes: no reconcile knows of it. Nor has it a worker's place.
        ORIGIN.set(None)
        PLACES.set(None)
        if before:
            await asyncio.wait(before)
        await job.perform(self._slots, work)
        if self._controller is not None:
            self._controller.enqueue(key)
