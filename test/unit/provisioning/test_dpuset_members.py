"""What of an edited template reaches a DPU as it is, and what a set says of its DPUs."""

from __future__ import annotations

from collections.abc import Collection
from itertools import product
from typing import Any

import orjson
import pytest

from dpf.provisioning.cards import Card
from dpf.provisioning.dpuset.members import INDEXES, drift, stands, state
from dpf.provisioning.dpuset.rollout import replaceable
from dpf.provisioning.dpuset.status import Refusals, summary, tally
from dpf.runtime.conditions import find
from dpf.runtime.informer import Informer
from dpf.runtime.meta import to_wire
from dpf_api.dpu import DPU, Phase
from dpf_api.dpuset import DPUSet
from dpf_api.names import LABEL_DPU_HOST_IP, LABEL_DPU_PF_NAME, LABEL_DPUSET_NAME


def dpuset(*, strategy: dict[str, Any] | None = None, **template: Any) -> DPUSet:
    """A set of image ``image``."""
    meta = {"name": "set", "namespace": "ns", "uid": "s", "generation": 1, "labels": {"team": "blue"}}
    annotations = template.pop("annotations", {})
    body: dict[str, Any] = {"bfb": {"name": "image"}, "nodeEffect": {"noEffect": True}} | template
    spec = {"dpuTemplate": {"annotations": annotations, "spec": body}, "strategy": strategy}
    return DPUSet.model_validate({"metadata": meta, "spec": spec})


def dpu(name: str = "d1", phase: Phase = Phase.READY, *, going: bool = False, **spec: Any) -> DPU:
    """One of its DPUs."""
    going_since = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if going else {}
    owner = {"apiVersion": "v1", "kind": "DPUSet", "name": "set", "uid": "s", "controller": True}
    ready = [{"type": "Ready", "status": "True", "reason": "x"}] if phase is Phase.READY else []
    return DPU.model_validate(
        {
            "metadata": {
                "name": name,
                "namespace": "ns",
                "uid": name,
                "resourceVersion": "1",
                "labels": {"team": "blue", LABEL_DPUSET_NAME: "set"},
                "ownerReferences": [owner],
                **going_since,
            },
            "spec": {"nodeName": name, "bfb": "image", "nodeEffect": {"noEffect": True}} | spec,
            "status": {"phase": phase.value, "conditions": ready},
        }
    )


def test_a_dpu_that_is_as_the_template_says_has_no_drift() -> None:
    assert drift(dpuset(), dpu()) == {}


@pytest.mark.parametrize(
    ("template", "patch"),
    [
        ({"annotations": {"note": "x"}}, {"metadata": {"annotations": {"note": "x"}}}),
        ({"automaticNodeReboot": False}, {"spec": {"automaticNodeReboot": False}}),
        ({"cluster": {"nodeLabels": {"rack": "1"}}}, {"spec": {"cluster": {"nodeLabels": {"rack": "1"}}}}),
        ({"bfb": {"name": "other"}}, {}),
    ],
    ids=["annotations", "reboot", "node labels", "image: a flash, not a patch"],
)
def test_what_needs_no_flash_is_patched(template: dict[str, Any], patch: dict[str, Any]) -> None:
    assert drift(dpuset(**template), dpu()) == patch


def test_a_node_effect_replaces_the_other_kind() -> None:
    patch = drift(dpuset(nodeEffect={"taint": {"key": "dpu", "effect": "NoSchedule"}}), dpu())
    assert patch == {"spec": {"nodeEffect": {"noEffect": None, "taint": {"key": "dpu", "effect": "NoSchedule"}}}}


@pytest.mark.parametrize(
    ("old", "new", "patch"),
    [
        (
            {"taint": {"key": "dpu", "value": "old", "effect": "NoSchedule"}},
            {"taint": {"key": "dpu", "effect": "NoExecute"}},
            {"taint": {"key": "dpu", "value": None, "effect": "NoExecute"}},
        ),
        (
            {"customLabel": {"a": "1", "b": "2"}},
            {"customLabel": {"a": "1"}},
            {"customLabel": {"a": "1", "b": None}},
        ),
    ],
    ids=["the value of a taint", "one of two labels"],
)
def test_what_is_taken_out_of_a_node_effect_goes_from_the_dpu(
    old: dict[str, Any], new: dict[str, Any], patch: dict[str, Any]
) -> None:
    assert drift(dpuset(nodeEffect=new), dpu(nodeEffect=old)) == {"spec": {"nodeEffect": patch}}


def test_labels_that_place_a_dpu_are_never_the_users() -> None:
    forged = dpuset()
    meta = forged.metadata.model_copy(update={"labels": {LABEL_DPUSET_NAME: "forged", "team": "red"}})
    assert drift(forged.model_copy(update={"metadata": meta}), dpu()) == {"metadata": {"labels": {"team": "red"}}}


def test_what_a_host_tells_of_a_card_later_or_otherwise_reaches_its_dpu() -> None:
    card = Card("d1", 0, "0000-04-00", pf0="ens1f0np0", host_ip="10.0.0.2")
    labels = {LABEL_DPU_PF_NAME: "ens1f0np0", LABEL_DPU_HOST_IP: "10.0.0.2"}
    assert drift(dpuset(), dpu(), card) == {"metadata": {"labels": labels}}
    assert drift(dpuset(), dpu(), Card("d1", 0, "0000-04-00")) == {}, "what a host does not tell is no change"
    assert drift(dpuset(), dpu(), Card("d1", 0, "0000-04-00", host_ip="fd00::2")) == {}, "a label can have no colons"


def told(
    dpuset_: DPUSet,
    *dpus: DPU,
    wanted: int,
    taken: tuple[str, ...] = (),
    contested: tuple[str, ...] = (),
    lost: Collection[str] = (),
    refusals: Refusals | None = None,
) -> dict[str, tuple[str, str, str]]:
    """The conditions: status, reason and message by type. DPUs that are wanted and not there have numbers for names.

    :param lost: names of DPUs whose card the labels of their node do not tell of.
    """
    informer = Informer(DPU)
    for index in INDEXES:
        informer.add_index(index)
    for each in dpus:
        informer.apply("ADDED", orjson.dumps(to_wire(each)))
    absent = [str(number) for number in range(len(dpus), wanted)]
    names = [*(each.name for each in dpus if each.name not in lost), *absent]
    stand = tally(dpuset_, names, informer, absent[: len(taken)], refusals)
    status = summary(dpuset_, stand, informer, taken, contested)
    assert status.replicas == stand.total == len({*names, *(each.name for each in dpus if not each.deleting)})
    return {c.type: (c.status, c.reason, c.message) for c in status.conditions}


ROLLING = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}


def test_a_dpu_whose_owner_is_taken_off_wakes_its_set() -> None:
    had = dpu()
    alone = had.metadata.model_copy(update={"owner_references": []})
    assert stands(had) != stands(had.model_copy(update={"metadata": alone}))


def test_a_set_whose_dpus_are_all_ready_is_ready_and_up_to_date() -> None:
    said = told(dpuset(), dpu("a"), dpu("b"), wanted=2)
    assert [(status, reason) for status, reason, _ in said.values()] == [("True", "AllReady"), ("True", "UpToDate")]


def test_a_paused_rollout_says_why_it_pauses_and_what_it_waits_for() -> None:
    said = told(dpuset(strategy=ROLLING, bfb={"name": "new"}), dpu("a"), dpu("b", Phase.ERROR, bfb="new"), wanted=2)
    status, reason, message = said["Progressing"]
    assert (status, reason) == ("True", "BudgetUsedUp")
    assert "1 is unavailable (1 failed) and 1 may be" in message
    assert message.endswith("is Ready: b. In Error, to be retried or deleted: b")


def test_a_rollout_waits_for_what_is_being_deleted_or_not_made_yet() -> None:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}
    dpus = dpu("a"), dpu("b", Phase.DELETING, going=True)
    status, reason, message = told(dpuset(strategy=strategy, bfb={"name": "new"}), *dpus, wanted=3)["Progressing"]
    assert (status, reason) == ("True", "BudgetUsedUp")
    assert "is Ready: 2, b. Being deleted" in message
    assert message.endswith("tells how far: b")


def test_broken_dpus_of_the_old_template_do_not_make_a_rollout_pause() -> None:
    dpus = dpu("a", Phase.ERROR), dpu("b", Phase.ERROR), dpu("c")
    said = told(dpuset(strategy=ROLLING, bfb={"name": "new"}), *dpus, wanted=3)
    assert said["Progressing"][:2] == ("True", "RollingUpdate")


def test_a_card_that_another_has_does_not_hold_up_a_rollout() -> None:
    said = told(dpuset(strategy=ROLLING, bfb={"name": "new"}), dpu("a"), wanted=2, taken=("card x has DPU ns/y",))
    assert said["Progressing"][:2] == ("True", "RollingUpdate")


def test_a_share_of_the_dpus_is_one_of_those_that_the_set_can_have() -> None:
    half = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "50%"}}
    dpus = dpu("a"), dpu("b", Phase.REBOOTING, bfb="new")
    taken = tuple(f"card {number} has DPU ns/y" for number in range(8))
    said = told(dpuset(strategy=half, bfb={"name": "new"}), *dpus, wanted=10, taken=taken)
    status, reason, message = said["Progressing"]
    assert (status, reason) == ("True", "BudgetUsedUp")
    assert "1 is unavailable (0 failed) and 1 may be" in message


def test_a_rollout_that_has_room_goes_on() -> None:
    said = told(dpuset(strategy=ROLLING, bfb={"name": "new"}), dpu("a"), dpu("b", bfb="new"), wanted=2)
    assert said["Progressing"][:2] == ("True", "RollingUpdate")


NEW: dict[str, Any] = {"bfb": {"name": "new"}}
LOST = "node labels tell no more of the cards of {}: "


@pytest.mark.parametrize(
    ("room", "dpus", "lost", "refused", "expected", "words"),
    [
        (1, [dpu("a", Phase.ERROR), dpu("b")], "a", {}, ("False", "BudgetUsedUp"), ["1 may be", LOST, "delete these"]),
        (1, [dpu("a", Phase.ERROR), dpu("b", Phase.ERROR)], "a", {}, ("True", "RollingUpdate"), []),
        (2, [dpu("a", Phase.ERROR), dpu("b")], "a", {}, ("True", "RollingUpdate"), []),
        (
            2,
            [dpu("a", Phase.ERROR), dpu("b"), dpu("c", Phase.OS_INSTALLING, bfb="new")],
            "a",
            {},
            ("True", "BudgetUsedUp"),
            ["is Ready: c", LOST],
        ),
        (
            1,
            [dpu("a", Phase.ERROR), dpu("b"), dpu("c", Phase.OS_INSTALLING, bfb="new")],
            "a",
            {},
            ("False", "BudgetUsedUp"),
            ["held up by", LOST],
        ),
        (
            1,
            [dpu("a", Phase.REBOOTING, bfb="new"), dpu("b")],
            "a",
            {},
            ("True", "BudgetUsedUp"),
            ["is Ready: a", LOST],
        ),
        (1, [dpu("a"), dpu("b", bfb="new")], "a", {}, ("False", "CardNotFound"), ["1 of 2 DPUs are as", LOST]),
        (
            1,
            [dpu("a"), dpu("b")],
            "",
            {"b": "denied"},
            ("False", "DeletionFailed"),
            ["DPU b can't be deleted", "denied"],
        ),
        (
            1,
            [dpu("a", Phase.ERROR), dpu("b")],
            "a",
            {"a": "denied"},
            ("False", "BudgetUsedUp"),
            ["DPU a can't be deleted", "denied"],
        ),
        (1, [dpu("a", bfb="new"), dpu("b", bfb="new")], "a", {}, ("True", "UpToDate"), []),
    ],
    ids=[
        "it uses up the budget",
        "others that are down go on",
        "there is room for others",
        "one more is in flight, and is enough",
        "one more is in flight, and is not enough",
        "it is in flight itself",
        "all others are done",
        "the API server refuses",
        "it is not selected, and the API server refuses",
        "it is done",
    ],
)
def test_a_rollout_says_which_dpus_keep_it_and_why(
    room: int, dpus: list[DPU], lost: str, refused: dict[str, str], expected: tuple[str, str], words: list[str]
) -> None:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": room}}
    refusals = Refusals(deleted=refused)
    said = told(dpuset(strategy=strategy, **NEW), *dpus, wanted=len(dpus), lost={lost}, refusals=refusals)
    status, reason, message = said["Progressing"]
    assert (status, reason) == expected
    for word in words:
        assert word.format("a") in message
    assert words or "labels" not in message


KINDS: dict[str, Any] = {
    "fresh": {"bfb": "new"},
    "fresh, down": {"bfb": "new", "phase": Phase.OS_INSTALLING},
    "outdated": {},
    "outdated, down": {"phase": Phase.ERROR},
    "outdated, going": {"phase": Phase.DELETING, "going": True},
}


@pytest.mark.parametrize("room", [1, 2])
def test_what_a_set_says_of_its_rollout_is_what_the_rollout_does(room: int) -> None:
    """Every mix of three DPUs, with their cards and without."""
    set_ = dpuset(strategy={"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": room}}, **NEW)
    for kinds in product(product(KINDS, (True, False)), repeat=3):
        if not any(selected for _, selected in kinds):
            continue
        dpus = [dpu(name, **KINDS[kind]) for name, (kind, _) in zip("abc", kinds, strict=True)]
        lost = {name for name, (_, selected) in zip("abc", kinds, strict=True) if not selected}
        status, reason, message = told(set_, *dpus, wanted=3, lost=lost)["Progressing"]
        have = [
            state(set_, each, selected=each.name not in lost)
            for each in dpus
            if not each.deleting or each.name not in lost
        ]
        goes_on = bool(replaceable(have, missing=0, allowed=min(room, len(have))))
        assert goes_on is (reason == "RollingUpdate"), (kinds, reason)
        if status == "False":
            named = {each.name for each in have if each.outdated and not each.selected}
            assert any(name in message.partition("cards of ")[2].partition(":")[0] for name in named), (kinds, message)


@pytest.mark.parametrize(
    ("dpus", "lost", "expected", "words"),
    [
        ([dpu("a"), dpu("b")], "a", ("True", "AllReady"), ""),
        ([dpu("a", Phase.ERROR), dpu("b")], "a", ("False", "CardNotFound"), "1 of 2 DPUs are ready, 1 failed; " + LOST),
        ([dpu("a", Phase.REBOOTING), dpu("b")], "a", ("False", "CardNotFound"), LOST),
        ([dpu("a"), dpu("b", Phase.REBOOTING)], "a", ("False", "Provisioning"), "1 of 2 DPUs are ready, 0 failed"),
        ([dpu("a", Phase.REBOOTING), dpu("b", Phase.ERROR)], "a", ("False", "Failed"), LOST),
        ([dpu("a", Phase.REBOOTING)], "a", ("False", "CardNotFound"), LOST),
        ([dpu("a")], "a", ("True", "AllReady"), LOST),
        ([dpu("a", Phase.DELETING, going=True), dpu("b")], "a", ("True", "AllReady"), ""),
    ],
    ids=[
        "it serves",
        "in Error",
        "down",
        "another is down",
        "another is in Error",
        "it is the only one",
        "it is the only one and serves",
        "it is going",
    ],
)
def test_a_set_is_ready_if_all_its_dpus_are_those_too_whose_card_no_label_tells_of(
    dpus: list[DPU], lost: str, expected: tuple[str, str], words: str
) -> None:
    status, reason, message = told(dpuset(), *dpus, wanted=len(dpus), lost={lost})["Ready"]
    assert (status, reason) == expected
    assert words.format("a") in message


def test_a_dpu_that_the_api_server_does_not_let_be_made_is_named_with_its_answer() -> None:
    refusals = Refusals(made={"1": "quota", "gone": "old news"})
    said = told(dpuset(strategy=ROLLING, **NEW), dpu("a"), wanted=2, refusals=refusals)
    assert said["Ready"][1] == "Provisioning"
    assert said["Progressing"][:2] == ("True", "BudgetUsedUp")
    for _, _, message in said.values():
        assert "DPU 1 can't be made, which is tried again: quota" in message
    assert told(dpuset(), dpu("a"), wanted=2, refusals=refusals)["Progressing"][1] == "Creating"


def test_a_set_whose_name_fits_no_label_says_what_to_do() -> None:
    meta = dpuset().metadata.model_copy(update={"name": "s" * 64})
    named = dpuset(strategy=ROLLING).model_copy(update={"metadata": meta})
    refusals = Refusals(made={"1": "must be no more than 63 bytes"})
    for wanted in (0, 1):
        for status, reason, message in told(named, wanted=wanted, refusals=refusals).values():
            assert (status, reason) == ("False", "NameTooLong")
            assert "may have 63 characters, and has 64; delete the DPUSet and make one with a shorter name" in message
            assert "tried again" not in message


def test_recreate_says_which_dpus_would_not_be_made_anew() -> None:
    status, reason, message = told(dpuset(**NEW), dpu("a"), dpu("b"), wanted=2, lost={"a"})["Progressing"]
    assert (status, reason) == ("False", "Recreate")
    assert LOST.format("a") in message


def test_recreate_says_that_somebody_must_delete() -> None:
    status, reason, message = told(dpuset(bfb={"name": "new"}), dpu("a"), wanted=1)["Progressing"]
    assert (status, reason) == ("False", "Recreate")
    assert "delete the other 1 to" in message


def test_a_card_that_another_set_has_is_told_in_a_condition() -> None:
    taken = ("card x has DPU ns/y already, which is not of this set", "card z has DPU ns/z already")
    said = told(dpuset(), dpu("a"), wanted=3, taken=taken)
    assert said["Ready"][:2] == ("False", "CardTaken")
    assert said["Ready"][2].endswith(f"{taken[0]} (other cards like it: 1)")


def test_a_set_whose_card_another_set_wants_too_is_told_and_stays_ready() -> None:
    said = told(dpuset(), dpu("a"), wanted=1, contested=("card x is selected by DPUSet ns/other too",))
    assert said["Ready"] == ("True", "AllReady", "card x is selected by DPUSet ns/other too")


def test_every_phase_is_counted() -> None:
    informer = Informer(DPU)
    for index in INDEXES:
        informer.add_index(index)
    for phase in Phase:
        informer.apply("ADDED", orjson.dumps(to_wire(dpu(phase.name.lower(), phase))))
    status = summary(dpuset(), tally(dpuset(), [phase.name.lower() for phase in Phase], informer), informer)
    assert status.dpu_statistics == {phase.value: 1 for phase in Phase}
    assert find(status.conditions, "Ready") is not None
