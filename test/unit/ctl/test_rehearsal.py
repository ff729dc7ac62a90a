"""What an edit of a DPUSet would do, worked out on objects in memory."""

from __future__ import annotations

from typing import Any

from dpf.ctl.rehearsal import Action, Rehearsal, effect, look_at_reboots, meanwhile, rehearse
from dpf.runtime.k8s import Node
from dpf_api.dpu import DPU
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.names import (
    ANNOTATION_HOST_POWER_CYCLE_REQUIRED,
    ANNOTATION_POWERCYCLE_COMMAND,
    ANNOTATION_REBOOT_COMMAND,
    LABEL_DPUSET_NAME,
    LABEL_DPUSET_NAMESPACE,
)
from dpf_api.nodeeffect import NodeEffect, default_node_effect
from test.unit.ctl.objects import PCI, dpu, dpuset, node

HOSTS = ("a", "b", "c", "d")
NODES = [node(name) for name in HOSTS]
DPUS = [dpu(name) for name in HOSTS]
TWO = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}


def steps(result: Rehearsal, action: Action) -> list[tuple[str, int]]:
    return [(each.node, each.batch) for each in result.changes if each.action is action]


def test_an_edit_that_changes_nothing_touches_no_dpu() -> None:
    assert rehearse(dpuset(), dpuset(), NODES, DPUS).changes == []


def test_a_new_set_makes_a_dpu_for_each_card() -> None:
    result = rehearse(None, dpuset(uid=""), NODES, [])
    assert steps(result, Action.CREATE) == [(host, 0) for host in HOSTS]
    assert (result.created, result.selected) == (True, 4)


def test_another_image_is_rolled_out_in_batches_within_the_budget() -> None:
    result = rehearse(dpuset(), dpuset(bfb="new", strategy=TWO), NODES, DPUS)
    assert steps(result, Action.REPROVISION) == [("a", 1), ("b", 1), ("c", 2), ("d", 2)]
    assert {each.why for each in result.changes} == {"BFB old -> new"}
    assert result.allowed == 2


def test_broken_dpus_go_first() -> None:
    dpus = [*DPUS[:3], dpu("d", ready=False)]
    result = rehearse(dpuset(), dpuset(bfb="new"), NODES, dpus)
    assert steps(result, Action.REPROVISION) == [("d", 1), ("a", 2), ("b", 3), ("c", 4)]


def test_a_rollout_that_cannot_go_on_says_why() -> None:
    dpus = [dpu("a", bfb="new", ready=False), *DPUS[1:]]
    result = rehearse(dpuset(), dpuset(bfb="new"), NODES, dpus)
    assert result.count(Action.REPROVISION) == 0
    assert result.count(Action.OUTDATED) == 3
    assert result.notes == [
        f"the rolling update stops: 1 DPU is unavailable and only 1 may be; goes on when one of these is Ready: a-{PCI}"
    ]


def test_dpus_that_are_made_use_up_the_budget_until_they_are_ready() -> None:
    result = rehearse(dpuset(), dpuset(bfb="new"), [*NODES, node("e")], DPUS)
    assert steps(result, Action.CREATE) == [("e", 0)]
    assert steps(result, Action.REPROVISION) == [("a", 1), ("b", 2), ("c", 3), ("d", 4)]


def test_recreate_leaves_outdated_dpus_to_their_user() -> None:
    result = rehearse(dpuset(), dpuset(bfb="new", strategy={"type": "Recreate"}), NODES, DPUS)
    assert steps(result, Action.OUTDATED) == [(host, -1) for host in HOSTS]


def test_a_manifest_without_strategy_keeps_the_one_of_the_set() -> None:
    result = rehearse(dpuset(strategy=TWO), dpuset(bfb="new", strategy=None), NODES, DPUS)
    assert (result.strategy, result.allowed) == ("RollingUpdate", 2)


def test_a_narrowed_selector_deletes_at_once_what_no_longer_matches() -> None:
    nodes = [node("a", rack="1"), node("b", rack="2")]
    narrowed = dpuset(nodeSelector={"matchLabels": {"rack": "1"}})
    result = rehearse(dpuset(), narrowed, nodes, DPUS[:2])
    assert [(each.action, each.node) for each in result.changes] == [(Action.DELETE, "b")]


def test_a_card_that_the_labels_do_not_tell_of_keeps_its_dpu() -> None:
    bare = node("a").model_copy(update={"metadata": node("a").metadata.model_copy(update={"labels": {}})})
    assert rehearse(dpuset(), dpuset(), [bare, node("b")], DPUS[:2]).changes == []


def test_a_host_of_whose_cards_nothing_is_told_keeps_its_dpus_and_nobody_says_otherwise() -> None:
    selector = {"matchLabels": {"feature.node.kubernetes.io/dpu-enabled": "true"}}
    bare = node("a").model_copy(update={"metadata": node("a").metadata.model_copy(update={"labels": {}})})
    result = rehearse(dpuset(nodeSelector=selector), dpuset(nodeSelector=selector), [bare], DPUS[:1])
    assert result.changes == []
    assert not [note for note in result.notes if "go" in note.split()]


def test_dpus_that_a_set_of_that_name_had_left_are_taken_over_as_they_are() -> None:
    orphan = dpu("a", owner="")
    names = {LABEL_DPUSET_NAME: dpuset().name, LABEL_DPUSET_NAMESPACE: dpuset().namespace}
    meta = orphan.metadata.model_copy(update={"owner_references": [], "labels": {**orphan.labels, **names}})
    result = rehearse(None, dpuset(uid=""), NODES[:1], [orphan.model_copy(update={"metadata": meta})])
    assert result.changes == []


def test_labels_reach_dpus_without_a_flash() -> None:
    result = rehearse(dpuset(), dpuset(labels={"rack": "1"}), NODES[:2], [dpu("a", labels={"rack": "1"}), dpu("b")])
    assert [(each.action, each.node, each.why) for each in result.changes] == [
        (Action.UPDATE, "b", "node labels rack=1")
    ]


def test_a_card_of_another_set_is_left_to_it() -> None:
    result = rehearse(None, dpuset(uid=""), NODES[:1], [dpu("a", owner="other")])
    assert [(each.action, each.batch) for each in result.changes] == [(Action.BLOCKED, -1)]
    assert f"ns/a-{PCI}" in result.changes[0].why


def test_a_foreign_dpu_of_the_name_that_a_card_would_give_is_told_of() -> None:
    foreign = dpu("a", owner="")
    foreign = foreign.model_copy(update={"spec": foreign.spec.model_copy(update={"node_name": "elsewhere"})})
    result = rehearse(None, dpuset(uid=""), NODES[:1], [foreign])
    assert [each.action for each in result.changes] == [Action.BLOCKED]
    assert f"DPU ns/a-{PCI} has the name" in result.changes[0].why


def test_a_card_of_another_set_does_not_hold_up_the_rollout_of_the_rest() -> None:
    dpus = [dpu("a", owner="other"), *DPUS[1:2]]
    result = rehearse(dpuset(), dpuset(bfb="new"), NODES[:2], dpus)
    assert steps(result, Action.REPROVISION) == [("b", 1)]


def test_a_share_of_the_dpus_is_one_of_those_whose_cards_no_other_set_has() -> None:
    half = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "50%"}}
    dpus = [*(dpu(host, owner="other") for host in HOSTS[:2]), *DPUS[2:]]
    result = rehearse(dpuset(), dpuset(bfb="new", strategy=half), NODES, dpus)
    assert (result.selected, result.attainable, result.allowed) == (4, 2, 1)
    assert steps(result, Action.REPROVISION) == [("c", 1), ("d", 2)]


def test_dpus_that_are_all_down_are_replaced_a_budget_at_a_time() -> None:
    result = rehearse(dpuset(), dpuset(bfb="new", strategy=TWO), NODES, [dpu(host, ready=False) for host in HOSTS])
    assert steps(result, Action.REPROVISION) == [("a", 1), ("b", 1), ("c", 2), ("d", 2)]


def test_a_rolling_update_leaves_a_dpu_whose_card_the_labels_have_lost() -> None:
    bare = node("a").model_copy(update={"metadata": node("a").metadata.model_copy(update={"labels": {}})})
    result = rehearse(dpuset(), dpuset(bfb="new"), [bare, node("b")], DPUS[:2])
    assert steps(result, Action.REPROVISION) == [("b", 1)]
    assert steps(result, Action.OUTDATED) == [("a", -1)]
    assert result.notes == []


def test_a_rollout_that_a_lost_card_holds_up_names_its_dpu_and_what_to_do() -> None:
    bare = node("a").model_copy(update={"metadata": node("a").metadata.model_copy(update={"labels": {}})})
    result = rehearse(dpuset(), dpuset(bfb="new"), [bare, *NODES[1:]], [dpu("a", ready=False), *DPUS[1:]])
    assert steps(result, Action.REPROVISION) == []
    assert steps(result, Action.OUTDATED) == [("b", -1), ("c", -1), ("d", -1), ("a", -1)]
    (note,) = result.notes
    assert note.startswith("the rolling update stops: 1 DPU is unavailable and only 1 may be; node labels tell no more")
    assert f"the cards of a-{PCI}: " in note
    assert "delete these DPUs" in note


def test_a_lost_card_costs_a_rollout_with_more_room_one_place() -> None:
    bare = node("a").model_copy(update={"metadata": node("a").metadata.model_copy(update={"labels": {}})})
    result = rehearse(dpuset(), dpuset(bfb="new", strategy=TWO), [bare, *NODES[1:]], [dpu("a", ready=False), *DPUS[1:]])
    assert steps(result, Action.REPROVISION) == [("b", 1), ("c", 2), ("d", 3)]
    assert result.notes == []


def test_a_share_of_the_dpus_is_one_of_those_too_whose_card_no_label_tells_of() -> None:
    bare = node("a").model_copy(update={"metadata": node("a").metadata.model_copy(update={"labels": {}})})
    all_of_them = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}}
    result = rehearse(
        dpuset(), dpuset(bfb="new", strategy=all_of_them), [bare, NODES[1]], [dpu("a", ready=False), DPUS[1]]
    )
    assert (result.allowed, result.selected) == (2, 2)
    assert steps(result, Action.REPROVISION) == [("b", 1)]


def test_what_a_node_tells_of_a_card_since_is_brought_to_its_dpu() -> None:
    told = node("a", **{"feature.node.kubernetes.io/dpu-0-pf0-name": "ens1f0np0"})
    result = rehearse(dpuset(), dpuset(), [told], DPUS[:1])
    assert [(each.action, each.why) for each in result.changes] == [
        (Action.UPDATE, "labels provisioning.dpu.nvidia.com/dpu-pf-name=ens1f0np0")
    ]


def test_a_dpu_that_is_going_is_made_anew() -> None:
    going: DPU = dpu("a", deletionTimestamp="2026-01-01T00:00:00Z")
    result = rehearse(dpuset(), dpuset(), NODES[:1], [going])
    assert [(each.action, each.why) for each in result.changes] == [
        (Action.CREATE, "once the one that is being deleted has gone")
    ]


def told_to(command: str, host: str, annotation: str = ANNOTATION_REBOOT_COMMAND) -> Node:
    bare = node(host)
    return bare.model_copy(update={"metadata": bare.metadata.model_copy(update={"annotations": {annotation: command}})})


def looked_at(nodes: list[Node], flavor: DPUFlavor | None = None, **spec: Any) -> Rehearsal:
    new = dpuset(bfb="new", **spec)
    result = rehearse(dpuset(**spec), new, nodes, DPUS)
    look_at_reboots(result, nodes, flavor)
    return result


def test_hosts_whose_annotations_say_skip_are_not_said_to_be_rebooted() -> None:
    assert meanwhile(looked_at(NODES)) == "drained and rebooted"
    some = looked_at([told_to("skip", "a"), told_to("cycle", "b"), *NODES[2:]])
    assert some.plain()["rebootSkipped"] == ["a"]
    assert meanwhile(some) == "drained and rebooted; not rebooted, as their annotations say skip: a"
    every = looked_at([told_to("skip", host) for host in HOSTS])
    assert meanwhile(every) == "drained; none is rebooted, as their annotations say skip"


def test_a_host_of_which_nothing_is_flashed_does_not_count() -> None:
    nodes = [told_to("skip", "a"), told_to("skip", "e")]
    result = rehearse(dpuset(), dpuset(bfb="new"), nodes, [DPUS[0], dpu("e", bfb="new")])
    look_at_reboots(result, nodes, None)
    assert result.skipping == ["a"]
    assert meanwhile(result) == "drained; none is rebooted, as their annotations say skip"


def test_a_power_cycle_that_template_or_flavor_ask_for_has_its_own_annotation() -> None:
    nodes = [told_to("skip", host) for host in HOSTS]
    cycled = DPUFlavor.model_validate(
        {"metadata": {"name": "flavor"}, "spec": {"nvconfig": [{"hostPowerCycleRequired": True}]}}
    )
    assert looked_at(nodes, cycled).skipping == []
    spec = {"bfb": {"name": "new"}, "dpuFlavor": "flavor"}
    template = {"annotations": {ANNOTATION_HOST_POWER_CYCLE_REQUIRED: "true"}, "spec": spec}
    new = dpuset(dpuTemplate=template)
    for annotation, found in ((ANNOTATION_REBOOT_COMMAND, []), (ANNOTATION_POWERCYCLE_COMMAND, ["a"])):
        hosts = [told_to("skip", "a", annotation)]
        result = rehearse(dpuset(), new, hosts, DPUS[:1])
        look_at_reboots(result, hosts, None)
        assert result.skipping == found


def test_an_annotation_that_means_nothing_is_told_of_before_it_holds_a_dpu_up() -> None:
    (note,) = looked_at([told_to("never", "a"), *NODES[1:]]).notes
    assert note == (
        f"annotation {ANNOTATION_REBOOT_COMMAND} of node a is 'never'; write cycle, reset or skip: until then its DPUs wait"
    )


def test_what_happens_to_hosts_is_said() -> None:
    assert effect(default_node_effect(), reboot=True) == "drained and rebooted"
    assert effect(NodeEffect(custom_label={"a": "b"}), reboot=False) == "labelled a=b"
    assert effect(NodeEffect(no_effect=True), reboot=True) == "rebooted"
    assert "asked" in effect(NodeEffect(no_effect=True), reboot=False)
    assert effect(NodeEffect(no_effect=True), reboot=None) == "left as they are"
