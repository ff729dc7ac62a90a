"""A card's join token is kept alive while the card may still join, and no longer."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from dpf.provisioning.dpu import jointoken
from dpf.provisioning.dpu.phases import PHASES, error
from dpf.provisioning.dpu.steps import Act, Advance, Hold, Step
from dpf_api.dpu import DPU, ConditionType, Phase
from test.unit.provisioning.worlds import NOW, assigned, card_node, condition, pod, see

HOUR = 3600.0


def flashed(hours: float, *, phase: Phase = Phase.DPU_CLUSTER_CONFIG, until: float | None = None) -> DPU:
    """A DPU whose card was asked to install so many hours ago; its token holds for ``until`` hours more, if it was renewed."""
    install: dict[str, Any] = {"startedAt": (NOW - timedelta(hours=hours)).isoformat(), "bootID": "boot-1"}
    if until is not None:
        install["joinTokenExpiresAt"] = (NOW + timedelta(hours=until)).isoformat()
    kinds = {
        Phase.REBOOTING: ConditionType.REBOOTED,
        Phase.HOST_NETWORK_CONFIGURATION: ConditionType.HOST_NETWORK_READY,
    }
    conditions = [condition(kinds.get(phase, ConditionType.READY), False, ago=hours * HOUR)]
    status = {"phase": phase.value, "install": install, "conditions": conditions}
    return assigned(status=status, automaticNodeReboot=False)


def decided(subject: DPU, **around: Any) -> Step:
    starting = pod("d1-hostnetwork", ready=False)
    return PHASES[subject.status.phase](see(subject, **({"hostnetwork_pod": starting} | around)))


@pytest.mark.parametrize("phase", [Phase.REBOOTING, Phase.HOST_NETWORK_CONFIGURATION, Phase.DPU_CLUSTER_CONFIG])
def test_it_is_renewed_before_it_ends_in_every_phase_that_may_take_long(phase: Phase) -> None:
    early = decided(flashed(15, phase=phase))
    assert isinstance(early, Hold)
    assert early.after == pytest.approx(HOUR)
    due = decided(flashed(16, phase=phase))
    assert isinstance(due, Act)
    assert due.do is jointoken.renew
    assert due.condition.value == early.condition.type
    again = decided(flashed(16, phase=phase, until=24))
    assert isinstance(again, Hold)
    assert again.after == pytest.approx(16 * HOUR)


def test_an_earlier_deadline_of_the_phase_comes_first() -> None:
    step = decided(flashed(0.1))
    assert isinstance(step, Hold)
    assert step.after == pytest.approx(1800 - 360)


def test_what_there_is_to_do_goes_before_it() -> None:
    assert isinstance(decided(flashed(20), dpu_node=card_node(a="1")), Advance)
    assert decided(flashed(20), dpu_node=card_node()) != decided(flashed(20))


def test_a_cluster_that_is_away_is_not_asked() -> None:
    away = decided(flashed(20, phase=Phase.REBOOTING), away="refused")
    assert isinstance(away, Hold)
    assert away.after is None


def test_a_card_that_has_joined_needs_it_no_more_but_a_node_of_its_earlier_life_says_nothing() -> None:
    node = card_node(ready=False)
    young = node.metadata.model_copy(update={"creation_timestamp": NOW})
    old = node.metadata.model_copy(update={"creation_timestamp": NOW - timedelta(hours=99)})
    assert isinstance(decided(flashed(20), dpu_node=node.model_copy(update={"metadata": young})), Hold)
    assert isinstance(decided(flashed(20), dpu_node=node.model_copy(update={"metadata": old})), Act)


def test_after_a_week_it_is_left_to_end_and_then_the_dpu_gives_up() -> None:
    week = 7 * 24.0
    last = decided(flashed(week, until=5))
    assert isinstance(last, Hold)
    assert last.after == pytest.approx(5 * HOUR)
    over = decided(flashed(week + 5, until=0))
    assert isinstance(over, Advance)
    assert (over.phase, over.conditions[0].reason) == (Phase.ERROR, "JoinTokenExpired")


def test_a_card_of_another_system_is_waited_for_as_it_is() -> None:
    subject = assigned(status={"phase": "DPU Cluster Config", "conditions": [condition(ConditionType.READY, False)]})
    step = decided(subject)
    assert isinstance(step, Hold)
    assert step.after == 1800.0


@pytest.mark.parametrize("kind", [ConditionType.READY, ConditionType.REBOOTED, ConditionType.HOST_NETWORK_READY])
def test_a_retry_then_is_a_new_flash_with_a_new_token(kind: ConditionType) -> None:
    failed = condition(kind, False) | {"reason": "JoinTokenExpired"}
    conditions = [condition(ConditionType.OS_INSTALLED, True), failed]
    if kind is not ConditionType.REBOOTED:
        conditions.insert(1, condition(ConditionType.REBOOTED, True))
    install = {"attempt": 2, "bootID": "boot-1"}
    status = {"phase": "Error", "conditions": conditions, "install": install, "retry": {"pending": True}}
    step = error.decide(see(assigned(status=status)))
    assert isinstance(step, Advance)
    assert step.phase is Phase.INITIALIZING
    assert step.changes["install"].attempt == 3
    assert step.changes["install"].join_token_expires_at is None
