"""An installation in its turn: what is said while it waits, runs, or can't be reached, and what of it is kept."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dpf.provisioning.dpu import jointoken, story
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.install import NoRoom, Order, Unreachable
from dpf.provisioning.dpu.outcome import Outcome, Progress
from dpf.provisioning.dpu.phases import os_installing, rebooting
from dpf.provisioning.dpu.steps import Act, Hold, Step
from dpf.provisioning.volume import VolumeSilent
from dpf.runtime.errors import Waiting
from dpf.runtime.meta import Key
from dpf_api.dpu import DPU, ConditionType
from test.unit.provisioning.worlds import BOOT, IMAGE, NOW, assigned, condition, pod, see

DMS = pod("d1-dms")


def installing(**install: Any) -> DPU:
    conditions = [condition(ConditionType.DMS_RUNNING, True)]
    return assigned(status={"phase": "OS Installing", "conditions": conditions, "install": install})


def held(step: Step) -> str:
    assert isinstance(step, Hold)
    return step.condition.reason


class Begun:
    """A card that takes its order and remembers since when its time runs."""

    def __init__(self) -> None:
        self.since: list[Any] = []

    async def prepare(self, seen: Any, attempt: int) -> Order:
        return Order("d1", "image.bfb", IMAGE, f"attempt {attempt}".encode())

    def start(self, dpu: DPU, order: Order, activated: Any) -> None:
        self.since.append(activated)


async def test_the_time_of_a_card_runs_from_its_activation_and_a_manager_that_takes_over_knows_it() -> None:
    card = Begun()

    async def merge_patch(*_: Any) -> None:
        """The DPU's labels for its Node."""

    hands = cast("Hands", SimpleNamespace(card=card, client=SimpleNamespace(merge_patch=merge_patch)))
    order = await card.prepare(None, 0)
    long_ago = (NOW - timedelta(hours=9)).isoformat()
    known = {"version": order.version, "configSHA256": order.sha256, "startedAt": long_ago}
    for install in (
        known,
        known | {"activatedAt": NOW.isoformat()},
        known | {"activatedAt": NOW.isoformat(), "version": "x"},
    ):
        remember = await os_installing.begin(hands, see(installing(**install)))
        remember.then()
        assert remember.changes["install"].started_at == NOW - timedelta(hours=9)
    assert card.since == [None, NOW, None], "not from when it was begun; another image has time of its own"


async def test_a_card_that_had_joined_is_given_a_token_of_its_own_when_it_is_flashed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    removed: list[int] = []

    async def take_away(_: Any, __: Any, attempt: int) -> None:
        removed.append(attempt)

    monkeypatch.setattr(jointoken, "take_away", take_away)
    card = Begun()

    async def merge_patch(*_: Any) -> None:
        """The DPU's labels for its Node."""

    hands = cast("Hands", SimpleNamespace(card=card, client=SimpleNamespace(merge_patch=merge_patch)))
    order = await card.prepare(None, 0)
    joined = {"version": order.version, "configSHA256": order.sha256, "startedAt": NOW.isoformat()}
    remember = await os_installing.begin(hands, see(installing(**joined, joinTokenDeleted=True)))
    install = remember.changes["install"]
    assert (install.attempt, install.join_token_deleted, install.config_sha256 != order.sha256) == (1, False, True)
    assert removed == [0]


def test_a_card_waits_for_its_turn_under_a_reason_of_its_own() -> None:
    around: dict[str, Any] = {"dms_pod": DMS}
    begun = os_installing.decide(see(installing(), full=True, **around))
    waiting = os_installing.decide(see(installing(), job=Outcome(queued=True), **around))
    its_turn = os_installing.decide(see(installing(), full=True, job=Outcome(), **around))
    assert isinstance(begun, Act)
    assert isinstance(waiting, Hold)
    assert begun.also == (waiting.condition,), "so that it is one write"
    assert (waiting.condition.reason, "--installs" in waiting.condition.message) == ("Queued", True)
    assert held(its_turn) == "Installing"


def test_when_the_card_was_asked_is_kept_with_the_progress() -> None:
    job = Outcome(progress=Progress("installing", activated_at=NOW))
    step = os_installing.decide(see(installing(percent=7), job=job, dms_pod=DMS))
    assert isinstance(step, Hold)
    assert (step.changes["install"].activated_at, step.changes["install"].percent) == (NOW, 7)
    known = os_installing.decide(see(installing(activatedAt=NOW.isoformat()), job=job, dms_pod=DMS))
    assert isinstance(known, Hold)
    assert known.changes == {}


def test_a_dms_that_does_not_answer_is_a_wait_of_its_own_until_it_does() -> None:
    lost = Outcome(progress=Progress("DMS does not answer: refused", lost=True))
    said = os_installing.decide(see(installing(), job=lost, dms_pod=DMS))
    assert isinstance(said, Hold)
    assert said.condition.reason == "DMSUnreachable"
    subject = installing()
    status = subject.status.model_copy(update={"conditions": [*subject.status.conditions, said.condition]})
    subject = subject.model_copy(update={"status": status})
    anew = os_installing.decide(see(subject, full=True, dms_pod=DMS))
    queued = os_installing.decide(see(subject, job=Outcome(queued=True), dms_pod=DMS))
    heard = os_installing.decide(see(subject, job=Outcome(progress=Progress("pushing")), dms_pod=DMS))
    assert isinstance(anew, Act)
    assert isinstance(queued, Hold)
    assert anew.also == (queued.condition,) == (said.condition,), "trying again writes nothing"
    assert held(heard) == "Installing"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Unreachable("refused"), "DMSUnreachable"),
        (NoRoom("no space left on device"), "VolumeFull"),
        (VolumeSilent(Path("/bfb")), "VolumeSilent"),
        (RuntimeError("what this waited for was cancelled"), "DMSUnreachable"),
    ],
)
@pytest.mark.parametrize(("waited", "pause"), [(0, 10), (100, 25), (9999, 300)])
async def test_what_has_lost_its_turn_gets_another_the_later_the_longer_it_lasts(
    error: Exception, reason: str, waited: float, pause: float
) -> None:
    conditions = [condition(ConditionType.OS_INSTALLED, False, ago=waited)]
    subject = assigned(status={"phase": "OS Installing", "conditions": conditions})
    jobs: list[Key] = []
    hands = cast("Hands", SimpleNamespace(jobs=SimpleNamespace(cancel=jobs.append)))
    with pytest.raises(Waiting) as info:
        await os_installing.try_again(hands, see(subject, job=Outcome(done=True, error=error)))
    assert (info.value.reason, info.value.retry_after, jobs) == (reason, pause, [subject.key])
    assert reason in story.ATTENTION


@pytest.mark.parametrize("error", [RuntimeError("cancelled"), Unreachable("refused"), OSError("no route")])
async def test_an_eye_on_a_reboot_that_is_closed_by_something_else_is_no_failed_reboot(error: Exception) -> None:
    record = {"id": f"uid-d1/{BOOT}", "method": "WARM", "issuedAt": NOW.isoformat()}
    install = {"version": "x", "bootID": BOOT}
    subject = assigned(status={"phase": "Rebooting", "install": install, "reboot": record}, automaticNodeReboot=True)
    seen = see(subject, dms_pod=DMS, reboot_job=Outcome(done=True, error=error))
    step = rebooting.decide(seen)
    assert isinstance(step, Act)
    reboots: list[Key] = []
    hands = cast("Hands", SimpleNamespace(reboots=SimpleNamespace(cancel=reboots.append)))
    with pytest.raises(Waiting) as info:
        await step.do(hands, seen)
    quiet = rebooting.decide(see(subject, dms_pod=DMS, reboot_job=Outcome()))
    assert isinstance(quiet, Hold)
    assert info.value.message == quiet.condition.message, "the wait goes on as it was"
    assert (info.value.retry_after, reboots) == (60, [seen.dpu.key])
