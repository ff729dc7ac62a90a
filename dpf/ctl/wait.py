"""``dpfctl wait``: returns when objects are as they should be, and shows meanwhile how far they are.

| exit status | meaning |
|---|---|
| 0 | all are |
| 1 | the command could not do its work |
| 3 | one is in Error, or a DPU of one is, so waiting is no use (``--through-errors`` waits on) |
| 124 | the deadline came first |
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing

from dpf.ctl import connect, output
from dpf.ctl.connect import Session
from dpf.ctl.kinds import CONDITIONS, PHASES, of_one_kind
from dpf.ctl.tree import stated
from dpf.provisioning.dpuset.members import outdated
from dpf.runtime import wire
from dpf.runtime.client import decode
from dpf.runtime.conditions import find
from dpf.runtime.errors import ConfigError, Gone, Unavailable
from dpf.runtime.meta import Key, Object
from dpf.runtime.options import duration
from dpf_api.bfb import BFB
from dpf_api.dpu import DPU, Phase
from dpf_api.dpucluster import DPUCluster
from dpf_api.dpuset import DPUSet, StrategyType
from dpf_api.names import ANNOTATION_RETRY, LABEL_DPUSET_NAME

IN_ERROR = 3
DEADLINE = 124
"""As of timeout(1)."""
PAUSE = 1.0
"""Seconds until a server that went away is asked again."""
LOOK = 10.0
"""Seconds until sets are looked at anew: a DPU that is tried again and fails again may leave its set's status as it was."""

STATUSES = ("True", "False", "Unknown")
"""What a condition can be."""

Goal = Callable[[Object], bool]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of ``dpfctl wait``."""
    parser.add_argument("kind", metavar="KIND", help="dpu, dpuset, bfb or dpucluster")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="objects, which KIND/NAME names too; all that there are now if none is named",
    )
    parser.add_argument(
        "--for",
        dest="goal",
        default="ready",
        metavar="WHAT",
        help="ready (default), deleted, phase=PHASE or condition=TYPE[=STATUS]",
    )
    parser.add_argument("--timeout", type=seconds, default=1800.0, metavar="TIME", help="90s, 30m (default), 2h")
    parser.add_argument(
        "--through-errors", action="store_true", help="wait on when an object is in Error, or a DPU of a set"
    )
    parser.add_argument("-l", "--selector", default="", metavar="LABELS", help="only objects with these labels")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    connect.add_flags(parser)
    parser.set_defaults(run=lambda arguments: connect.run(arguments, lambda session: wait(session, arguments)))


def seconds(text: str) -> float:
    """Seconds that ``1h30m``, ``90s`` or ``90`` mean.

    :raises argparse.ArgumentTypeError: if it means nothing.
    """
    try:
        return duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def goal_of(text: str, kind: type[Object], *, vendors: bool = False) -> Goal | None:
    """What is waited for; None for deletion.

    :param vendors: objects of the kind may have conditions that DPF does not know.
    :raises ConfigError: if the words mean nothing, or what the kind never comes to.
    """
    what, _, value = text.partition("=")
    if text == "deleted":
        return None
    if text == "ready":
        return ready
    if what == "phase" and value:
        phase = _one_of(value, PHASES.get(kind, ()), f"a {kind.RESOURCE.kind} has no phase {value!r}")
        return lambda obj: _phase(obj) == phase
    if what == "condition" and value:
        name, equals, status = value.partition("=")
        if not vendors:
            name = _one_of(name, CONDITIONS.get(kind, ()), f"a {kind.RESOURCE.kind} has no condition {name!r}")
        status = _one_of(status, STATUSES, f"no condition is {status!r}") if equals else "True"
        return lambda obj: _condition(obj, name) == status
    raise ConfigError(f"--for={text} means nothing: write ready, deleted, phase=PHASE or condition=TYPE[=STATUS]")


def _one_of(word: str, known: Iterable[str], wrong: str) -> str:
    """The word as it is among those known, in whatever case it was written.

    :raises ConfigError: if it is not; the message lists them.
    """
    by_word = {str(each).lower(): str(each) for each in known}
    if word.lower() in by_word:
        return by_word[word.lower()]
    raise ConfigError(f"{wrong}; choose from {', '.join(by_word.values())}" if by_word else wrong)


def ready(obj: Object) -> bool:
    """Whether the object is Ready; a DPUSet as it is specified now and not as it was."""
    if isinstance(obj, DPUSet) and obj.status.observed_generation < obj.metadata.generation:
        return False
    return _condition(obj, "Ready") == "True" and not obj.deleting


def _condition(obj: Object, kind: str) -> str:
    found = find(getattr(getattr(obj, "status", None), "conditions", ()), kind)
    return found.status if found is not None else ""


def tried_again(obj: Object) -> bool:
    """Whether an object in Error was asked to try again, or has decided to, and has not begun yet. Controllers take away the
    annotation when the try is on record, so at no time it looks as if nobody had asked."""
    retry = obj.status.retry if isinstance(obj, DPU) else None
    return ANNOTATION_RETRY in obj.annotations or (retry is not None and retry.pending)


def may_have_failed(obj: Object) -> bool:
    """Whether a set's status counts DPUs in Error, so that these are worth a look."""
    if not isinstance(obj, DPUSet) or obj.deleting or obj.status.observed_generation < obj.metadata.generation:
        return False
    return obj.status.dpu_statistics.get(Phase.ERROR.value, 0) > 0


def failures(dpuset: DPUSet, dpus: Iterable[DPU]) -> list[str]:
    """Of a set's DPUs those in Error that stay so until somebody does something, each with what it says.

    One that is deleted or tried again is under way, and one that is not as the template says is made anew by a rolling update.
    """
    strategy = dpuset.spec.strategy
    rolling = strategy is not None and strategy.type is StrategyType.ROLLING_UPDATE
    return [
        f"DPU {dpu.name}: {state_of(dpu)}"
        for dpu in sorted(dpus, key=lambda each: each.key)
        if dpu.owned_by(dpuset)
        and dpu.status.phase is Phase.ERROR
        and not (dpu.deleting or tried_again(dpu) or (rolling and outdated(dpuset, dpu)))
    ]


def _phase(obj: Object) -> str:
    return str(getattr(getattr(obj, "status", None), "phase", ""))


class Progress:
    """What is known of the objects that are waited for."""

    def __init__(self, targets: Sequence[Key], goal: Goal | None) -> None:
        self._goal = goal
        self._open = set(targets)
        self._said: dict[Key, str] = {}
        self.total = len(self._open)
        self.failed: dict[Key, str] = {}
        """Objects in Error, or with DPUs in Error, and why."""
        self.gone: list[Key] = []
        """Objects that were deleted, which was not what is waited for."""

    @property
    def left(self) -> int:
        """How many are not as they should be."""
        return len(self._open)

    def open_keys(self) -> list[Key]:
        """Those that are not as they should be."""
        return sorted(self._open)

    def seen(self, obj: Object, broken: Sequence[str] = ()) -> str:
        """Takes note of an object; returns a line of news, or nothing.

        :param broken: what :func:`failures` found of a set.
        """
        key = obj.key
        if key not in self._open:
            return ""
        if self._goal is not None and self._goal(obj):
            self._open.discard(key)
            self.failed.pop(key, None)
            return self._news(key, "done")
        state = state_of(obj)
        self.failed.pop(key, None)
        if _phase(obj) == "Error" and not obj.deleting and not tried_again(obj):
            self.failed[key] = state
        if broken:
            more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
            self.failed[key] = f"{state}; {broken[0]}{more}"
        return self._news(key, state)

    def vanished(self, key: Key) -> str:
        """Takes note that there is no such object any more."""
        if key not in self._open:
            return ""
        self._open.discard(key)
        self.failed.pop(key, None)
        if self._goal is not None:
            self.gone.append(key)
        return self._news(key, "deleted")

    def _news(self, key: Key, state: str) -> str:
        if self._said.get(key) == state:
            return ""
        self._said[key] = state
        return f"[{self.total - self.left}/{self.total}] {key.name}: {state}"


def state_of(obj: Object) -> str:
    """How far an object is, in a line."""
    status = getattr(obj, "status", None)
    if obj.deleting:
        why = " ".join(_held_by(obj).split())
        return f"Deleting{f': {why}' if why else ''}"
    if isinstance(obj, DPUSet):
        failed = obj.status.dpu_statistics.get("Error", 0)
        told = f", {failed} failed" if failed else ""
        return f"{obj.status.ready_replicas} of {obj.status.replicas} DPUs are ready{told}"
    percent = obj.status.install.percent if isinstance(obj, DPU) and obj.status.install is not None else 0
    installing = f" {percent} %" if percent and _phase(obj) == "OS Installing" else ""
    message = " ".join(str(getattr(status, "message", "")).split())
    if _phase(obj) == "Error" and tried_again(obj):
        return f"is tried again; was in Error{f': {message}' if message else ''}"
    return f"{_phase(obj) or 'no status yet'}{installing}{f': {message}' if message else ''}"


def _held_by(obj: Object) -> str:
    """What the deletion of an object waits for, as the tree tells it; empty until its controller has looked at it."""
    if not isinstance(obj, BFB | DPU | DPUCluster | DPUSet):
        return ""
    if isinstance(obj, BFB | DPU) and _phase(obj) != "Deleting":
        return ""  # What it says is of before.
    item = stated(obj)
    return item.message or item.reason


async def wait(session: Session, arguments: argparse.Namespace) -> int:
    """Waits; returns the exit status."""
    kind, names = of_one_kind(arguments.kind, arguments.names)
    if arguments.goal != "deleted" and "status" not in kind.model_fields:
        raise ConfigError(f"a {kind.RESOURCE.kind} has no status: there is nothing to wait for")
    # Somebody else's cluster manager may set conditions of its own.
    vendors = kind is DPUCluster and any("/" in each.spec.type for each in await session.find(DPUCluster))
    goal = goal_of(arguments.goal, kind, vendors=vendors)
    found = await _targets(session, kind, names, arguments.selector, absent=goal is None)
    if not found and goal is None:
        # What is gone already is what was waited for.
        return 0
    if not found:
        raise ConfigError(f"there is no {kind.RESOURCE.kind} to wait for")
    progress = Progress([each.key for each in found], goal)
    screen = Screen(quiet=arguments.quiet)
    try:
        async with asyncio.timeout(arguments.timeout):
            while True:
                if await _followed(session, kind, progress, screen, through=arguments.through_errors):
                    break
                await asyncio.sleep(PAUSE)
    except TimeoutError:
        screen.end()
        shown = ", ".join(key.name for key in progress.open_keys()[:5])
        output.complain(f"error: {progress.left} of {progress.total} were not done in {arguments.timeout:g} s: {shown}")
        return DEADLINE
    screen.end()
    if progress.failed and not arguments.through_errors:
        for key, state in progress.failed.items():
            output.complain(f"error: {key.name}: {state}")
        return IN_ERROR
    if progress.gone:
        output.complain(f"error: deleted meanwhile: {', '.join(key.name for key in progress.gone)}")
        return connect.FAILED
    return 0


async def _targets(
    session: Session, kind: type[Object], names: Sequence[str], labels: str, *, absent: bool
) -> list[Object]:
    """What is waited for.

    :param absent: one that is not there is left out.
    :raises ConfigError: if one is named that is not there, or names and labels are given together.
    """
    connect.either(names, labels)
    if not names:
        return await session.find(kind, labels=labels)
    if not absent:
        return [await session.one(kind, name) for name in names]
    found = [await session.named(kind, name) for name in names]
    return [each for each in found if each is not None]


async def _followed(session: Session, kind: type[Object], progress: Progress, screen: Screen, *, through: bool) -> bool:
    """Follows the objects by one list and one watch from there; False if the server ended it and it must begin anew."""

    def over() -> bool:
        return progress.left == 0 or (bool(progress.failed) and not through)

    async def seen(obj: Object) -> str:
        if not isinstance(obj, DPUSet) or not may_have_failed(obj):
            return progress.seen(obj)
        dpus = await session.client.list(DPU, obj.namespace, labels=f"{LABEL_DPUSET_NAME}={obj.name}")
        return progress.seen(obj, failures(obj, dpus))

    try:
        body = await session.client.request("GET", kind.RESOURCE.path(session.namespace))
        items, version, _ = wire.split_list(body)
        there = {obj.key: obj for obj in (decode(kind, wire.slim(item)) for item in items)}
        for key in progress.open_keys():
            screen.tell(await seen(there[key]) if key in there else progress.vanished(key))
        if over():
            return True
        watch = session.client.watch(kind, session.namespace, resource_version=version)
        async with asyncio.timeout(LOOK if kind is DPUSet else None), aclosing(watch) as events:
            async for event, obj in events:
                screen.tell(progress.vanished(obj.key) if event == "DELETED" else await seen(obj))
                if over():
                    return True
    except (Gone, TimeoutError):
        return False
    except Unavailable as error:
        screen.tell(f"trying again: {error.message}")
    return False


class Screen:
    """Where progress is shown: on a terminal one line that changes, and those that say that an object is done."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty()

    def tell(self, line: str) -> None:
        """Shows news, if there is any."""
        if not line or self._quiet:
            return
        if not self._live:
            output.complain(line)
            return
        lasting = line.endswith((": done", ": deleted"))
        sys.stderr.write(f"\r\x1b[2K{line[:200]}" + ("\n" if lasting else ""))
        sys.stderr.flush()

    def end(self) -> None:
        """Leaves the line that changes."""
        if self._live and not self._quiet:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
