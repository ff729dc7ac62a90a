"""A card's join token is kept alive while the card may still join, and no longer."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dpf.provisioning.bfcfg import join
from dpf.provisioning.dpu import jointoken
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.install import Order
from dpf.provisioning.dpu.phases import PHASES, dpu_cluster_config, error, os_installing
from dpf.provisioning.dpu.steps import Act, Advance, Hold, Step
from dpf.runtime.k8s import Secret, encoded
from dpf.runtime.meta import Object, ObjectMeta
from dpf_api.dpu import DPU, ConditionType, Install, Phase
from test.unit.provisioning.worlds import IMAGE, NOW, assigned, card_node, condition, pod, see

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
    joined = decided(flashed(20), dpu_node=card_node(a="1"))
    assert isinstance(joined, Act)
    assert joined.do is dpu_cluster_config.label
    assert decided(flashed(20), dpu_node=card_node()) != decided(flashed(20))


@pytest.mark.parametrize(
    ("hours", "after"), [(15, HOUR), (16, 60.0), (20, 60.0), (7 * 24.0, 60.0)], ids=["later", "due", "over", "the last"]
)
def test_a_cluster_that_is_away_is_not_asked_but_looked_for_once_the_token_is_due(hours: float, after: float) -> None:
    """A DPU that waits for its host is not woken when the cluster is connected, as after each start of a manager."""
    away = decided(flashed(hours, phase=Phase.REBOOTING), away="not connected")
    assert isinstance(away, Hold)
    assert away.after == pytest.approx(after)


def test_a_cluster_that_does_not_exist_is_not_looked_for_as_one_that_is_made_wakes_the_dpu() -> None:
    gone = decided(flashed(20, phase=Phase.REBOOTING), away="not connected", cluster=None)
    assert isinstance(gone, Hold)
    assert gone.after is None


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


class Cluster:
    """A DPU cluster that remembers what was asked of it.

    :param owner: the DPU whose tokens are there.
    """

    def __init__(self, owner: str = "d1") -> None:
        self.asked: list[str] = []
        self.owner = owner

    async def get(self, kind: type[Secret], name: str, namespace: str) -> Secret:
        data: dict[str, bytes | str] = {
            "description": f"lets DPU {self.owner} join; made by the DPF provisioning manager"
        }
        return Secret(metadata=ObjectMeta(name=name, namespace=namespace), data=encoded(data))

    async def delete(self, obj: Object) -> None:
        self.asked.append(f"delete {obj.name}")

    async def merge_patch(self, obj: Object, patch: dict[str, Any]) -> None:
        self.asked.append(f"patch {obj.name} {patch.get('metadata', {}).get('labels')}")


def at_hand(cluster: Cluster, **more: Any) -> Hands:
    remotes = SimpleNamespace(get=lambda _: SimpleNamespace(client=cluster))
    return cast("Hands", SimpleNamespace(remotes=remotes, **more))


def token(attempt: int) -> str:
    return f"bootstrap-token-{join.token_id('uid-d1', attempt)}"


@pytest.mark.parametrize("labels", [{}, {"a": "1"}], ids=["new node", "node of an earlier life"])
async def test_a_card_that_has_joined_is_ready_only_when_its_token_is_gone(labels: dict[str, Any]) -> None:
    cluster, subject = Cluster(), flashed(1.0)
    seen = see(subject, dpu_node=card_node(**labels))
    step = dpu_cluster_config.decide(seen)
    assert isinstance(step, Act)
    changes = await step.do(at_hand(cluster), seen)
    assert cluster.asked[0] == f"delete {token(0)}", "before the labels, which tell that all is done"
    assert len(cluster.asked) == (1 if labels else 2)
    assert isinstance(changes, dict)
    status = subject.status.model_copy(update=changes)
    after = see(subject.model_copy(update={"status": status}), dpu_node=card_node(a="1"))
    assert isinstance(dpu_cluster_config.decide(after), Advance)


async def test_labels_that_drift_later_leave_the_token_alone() -> None:
    cluster = Cluster()
    subject = assigned(
        status={"phase": "DPU Cluster Config", "install": {"joinTokenDeleted": True, "startedAt": NOW.isoformat()}}
    )
    assert await dpu_cluster_config.label(at_hand(cluster), see(subject, dpu_node=card_node())) is None
    assert cluster.asked == ["patch d1 {'a': '1'}"]


async def test_another_attempt_takes_the_token_of_the_one_before_away() -> None:
    async def prepare(seen: Any, attempt: int) -> Order:
        return Order("d1", "image.bfb", IMAGE, b"")

    cluster, others = Cluster(), Cluster("d2")
    for around in (cluster, others):
        hands = at_hand(around, card=SimpleNamespace(prepare=prepare), client=Cluster())
        await begun(hands, {}, {"attempt": 2}, {"attempt": 2, "startedAt": NOW.isoformat()})
    assert cluster.asked == [f"delete {token(1)}"], "once, and the first attempt has none before it"
    assert others.asked == [], "of the same id, by chance"


async def test_an_attempt_whose_token_would_be_anothers_becomes_the_next_one() -> None:
    async def prepare(seen: Any, attempt: int) -> Order:
        if attempt == 0:
            raise join.TokenUnusable("JoinTokenTaken", "it is another's")
        return Order("d1", "image.bfb", IMAGE, b"")

    cluster = Cluster("d2")
    (install,) = await begun(at_hand(cluster, card=SimpleNamespace(prepare=prepare), client=Cluster()), {})
    assert install.attempt == 1
    assert cluster.asked == []


async def begun(hands: Hands, *installs: dict[str, Any]) -> list[Install]:
    """What is on record after installations were begun from these."""
    found = []
    for install in installs:
        subject = assigned(status={"phase": "OS Installing", "install": install})
        remember = await os_installing.begin(hands, see(subject, dms_pod=pod("d1-dms")))
        found.append(remember.changes["install"])
    return found
