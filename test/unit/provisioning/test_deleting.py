"""What a deletion waits for, and for how long."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dpf.provisioning.dpu import bfcfgfile, deleting, jointoken
from dpf.provisioning.dpu.controller import DPUReconciler
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.story import ATTENTION
from dpf.provisioning.metrics import Counts
from dpf.provisioning.settings import Settings
from dpf.provisioning.volume import Volume, VolumeSilent
from dpf.runtime.errors import ClusterUnavailable
from dpf.runtime.k8s import Pod
from dpf.runtime.meta import Key
from dpf_api import names
from dpf_api.dpu import DPU, DPUStatus, Install
from test.unit.provisioning.worlds import NOW, assigned, card_node, dpu, pod, see

AWAY: dict[str, Any] = {"away": "connection refused"}


def ending(name: str, ago: float) -> Pod:
    """A pod that was told to end some seconds ago."""
    made, told = pod(name), {"deletion_timestamp": NOW - timedelta(seconds=ago)}
    return made.model_copy(update={"metadata": made.metadata.model_copy(update=told)})


def leaving(ago: float, *, timeout: Any = 600.0, **around: Any) -> Seen:
    subject = assigned(status={"phase": "Deleting"})
    meta = subject.metadata.model_copy(update={"deletion_timestamp": NOW - timedelta(seconds=ago)})
    subject = subject.model_copy(update={"metadata": meta})
    return see(subject, settings=Settings(deletion_timeout=timeout), **around)


def test_what_is_all_gone_is_waited_for_no_more() -> None:
    assert deleting.unfinished(leaving(0)) is None
    assert deleting.left_behind(leaving(9999)) == ""


@pytest.mark.parametrize(
    ("ago", "around", "refused", "reason", "after"),
    [
        (0, AWAY, "", "DPUClusterUnreachable", 60),
        (570, AWAY, "", "DPUClusterUnreachable", 30),
        (0, {"dpu_node": card_node()}, "forbidden", "DPUClusterUnreachable", 60),
        (0, {"dpu_node": card_node()}, "", "DPUNodeEnding", 600),
        (0, {"dms_pod": pod("d1-dms")}, "", "PodsEnding", 300),
        (301, {"dms_pod": ending("d1-dms", 301)}, "", "PodsDoNotEnd", None),
        (601, AWAY | {"hostnetwork_pod": ending("d1-hostnetwork", 601)}, "", "PodsDoNotEnd", None),
    ],
)
def test_a_deletion_says_what_it_waits_for(
    ago: float, around: dict[str, Any], refused: str, reason: str, after: float | None
) -> None:
    hold = deleting.unfinished(leaving(ago, **around), refused)
    assert hold is not None
    assert (hold.condition.reason, hold.after) == (reason, after)
    assert after is not None or reason in ATTENTION


@pytest.mark.parametrize(
    ("around", "refused", "word"),
    [
        (AWAY, "", "connection refused"),
        ({"dpu_node": card_node()}, "nodes is forbidden", "nodes is forbidden"),
        ({"dpu_node": card_node()}, "", "waiting for node d1 to go"),
    ],
)
def test_a_node_that_can_not_be_removed_is_left_after_the_deadline(
    around: dict[str, Any], refused: str, word: str
) -> None:
    seen = leaving(600, **around)
    assert deleting.unfinished(seen, refused) is None
    assert word in deleting.left_behind(seen, refused)


def test_without_a_deadline_it_is_waited_for_ever() -> None:
    seen = leaving(1e6, timeout=0.0, **AWAY)
    hold = deleting.unfinished(seen)
    assert hold is not None
    assert "not given up" in hold.condition.message
    assert deleting.left_behind(seen) == ""


def test_a_cluster_that_does_not_exist_any_more_is_not_waited_for() -> None:
    assert deleting.unfinished(leaving(0, cluster=None, **AWAY)) is None
    assert deleting.left_behind(leaving(9999, cluster=None, **AWAY)) == ""


@pytest.mark.parametrize("begun", [True, False])
async def test_a_configuration_is_removed_only_if_this_dpu_had_one(tmp_path: Path, begun: bool) -> None:
    file = tmp_path / names.bfcfg_file("d1")
    file.write_text("a namesake in another namespace may be flashed with this")
    install = {"startedAt": NOW.isoformat()} if begun else {}
    subject = dpu(status={"phase": "Deleting", "install": install})
    hands = cast("Hands", SimpleNamespace(volume=Volume(tmp_path)))
    assert await deleting.remove_config(hands, see(subject)) == ""
    assert file.exists() != begun


async def test_a_configuration_that_the_volume_keeps_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / names.bfcfg_file("d1")).mkdir()  # can't be removed as a file
    hands = cast("Hands", SimpleNamespace(volume=Volume(tmp_path)))
    subject = dpu(status={"phase": "Deleting", "install": {"startedAt": NOW.isoformat()}})
    assert (await deleting.remove_config(hands, see(subject))).startswith(
        "d1.cfg can't be removed from the shared volume"
    )


@pytest.mark.parametrize("around", [{}, AWAY], ids=["the cluster answers", "the cluster is away too"])
def test_a_volume_that_keeps_a_configuration_is_told_of_and_not_waited_for_after_the_deadline(
    around: dict[str, Any],
) -> None:
    waiting = deleting.unfinished(leaving(570, **around), "", "d1.cfg can't be removed: it is silent")
    assert waiting is not None
    assert (waiting.condition.reason, waiting.after) == ("DeletionFailed", 30)
    assert "it is silent; it is tried again; given up 10m after" in waiting.condition.message
    assert deleting.unfinished(leaving(601, **around), "", "d1.cfg can't be removed: it is silent") is None


async def test_what_a_killed_dms_has_written_of_a_configuration_goes_with_it(tmp_path: Path) -> None:
    for name in ("d1.cfg", ".d1.cfg.new", "d2.cfg"):
        (tmp_path / name).write_text("kubeadm join --token secret")
    for _ in range(2):
        await bfcfgfile.remove(Volume(tmp_path), "d1")
        assert [path.name for path in tmp_path.iterdir()] == ["d2.cfg"]


class Leaving:
    """A DPU that is deleted, whose volume may be silent, and those who are told."""

    def __init__(self) -> None:
        self.seen = leaving(0)
        self.silent, self.asked, self.folder = False, 0, Path("/bfb")
        self.events: list[str] = []
        self.cancelled: list[Key] = []
        """Whose jobs were."""

    def look(self, _: DPU) -> Seen:
        return self.seen

    def current(self, _: Any) -> DPU:
        return self.seen.dpu

    def status(self, obj: DPU) -> Any:
        async def write(status: DPUStatus) -> DPU:
            return obj.model_copy(update={"status": status})

        return SimpleNamespace(set=write)

    async def delete(self, *_: Any) -> None:
        """Of pods and Secrets."""

    async def ask(self, *_: Any, **__: Any) -> None:
        self.asked += 1
        if self.silent:
            raise VolumeSilent(self.folder)

    def normal(self, *_: Any, **__: Any) -> None:
        """That it is being deleted."""

    def warning(self, _: Any, reason: str, *__: Any, **___: Any) -> None:
        self.events.append(reason)

    def reconciler(self) -> DPUReconciler:
        part, unused = cast("Any", self), cast("Any", None)
        jobs = cast("Any", SimpleNamespace(cancel=self.cancelled.append))
        hands = Hands(part, unused, unused, unused, unused, jobs, jobs, Settings(), part, part, Counts())
        return DPUReconciler(part, hands)


@pytest.mark.parametrize("dms", [None, pod("d1-dms")], ids=["its DMS is gone", "its DMS may write it again"])
async def test_a_configuration_that_was_removed_after_its_dms_is_not_said_to_be_left(dms: Pod | None) -> None:
    world = Leaving()
    reconciler = world.reconciler()
    install = {"startedAt": NOW.isoformat(), "joinTokenDeleted": True}
    for ago, network, left, silent in ((0, pod("d1-hostnetwork"), dms, False), (601, None, None, True)):
        world.silent = silent
        seen = leaving(ago, hostnetwork_pod=network, dms_pod=left)
        status = seen.dpu.status.model_copy(update={"install": Install.model_validate(install)})
        world.seen = replace(seen, dpu=seen.dpu.model_copy(update={"status": status}))
        await reconciler.finalize(world.seen.dpu)
    assert world.events == ([] if dms is None else ["ConfigLeftBehind"])
    await reconciler.finalize(world.seen.dpu)
    assert world.events == ([] if dms is None else ["ConfigLeftBehind"] * 2), "the finalizer was not taken off at once"
    world.silent, asked = False, world.asked
    await reconciler.gone(world.seen.dpu.key)
    await reconciler.finalize(world.seen.dpu)
    assert world.asked == asked + 1, "what was known of it is forgotten with it"


async def test_a_deletion_that_waits_for_a_cluster_goes_on_when_that_answers_or_in_time() -> None:
    world = Leaving()
    world.seen = leaving(590, hostnetwork_pod=ending("d1-hostnetwork", 590), **AWAY)
    with pytest.raises(ClusterUnavailable) as raised:
        await world.reconciler().finalize(world.seen.dpu)
    reference = world.seen.dpu.spec.cluster
    assert raised.value.cluster == f"{reference.namespace}/{reference.name}"
    assert raised.value.retry_after == pytest.approx(10)


async def test_nobody_is_at_work_for_a_dpu_whose_finalizer_somebody_took_off() -> None:
    world = Leaving()
    key = world.seen.dpu.key
    await world.reconciler().gone(key)
    assert world.cancelled == [key, key], "its installation, and the eye on its reboot"


@pytest.mark.parametrize(
    ("install", "asked"),
    [
        (None, [0, 1]),
        ({"attempt": 2, "startedAt": NOW.isoformat()}, [2, 3]),
        ({"attempt": 2}, [1, 2, 3]),
        ({"attempt": 2, "startedAt": NOW.isoformat(), "joinTokenDeleted": True}, []),
    ],
    ids=[
        "killed before it was on record",
        "not joined yet, or killed before its next attempt was on record",
        "tried again, not begun",
        "taken away when the card joined",
    ],
)
async def test_a_join_token_is_taken_away_unless_it_is_known_to_be_gone(
    install: dict[str, Any] | None, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[int] = []

    async def take_away(_: Any, __: Any, attempt: int) -> None:
        attempts.append(attempt)

    async def delete(_: Any) -> None:
        return

    monkeypatch.setattr(jointoken, "take_away", take_away)
    hands = cast("Hands", SimpleNamespace(settings=Settings(), client=SimpleNamespace(delete=delete)))
    await deleting.last(hands, assigned(status={"phase": "Deleting", "install": install}))
    assert attempts == asked
