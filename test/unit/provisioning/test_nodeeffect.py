"""What provisioning does to a host, and that it undoes just that."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpf.provisioning.dpu import deleting, effects, nodeeffect
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.phases import PHASES
from dpf.provisioning.dpu.steps import Act
from dpf.runtime.k8s import Node
from dpf.runtime.meta import to_wire
from dpf_api.dpu import DPU, Phase
from dpf_api.names import MAINTENANCE_OWNER, REQUESTOR
from dpf_api.nodeeffect import NodeEffect, Taint
from dpf_api.nodemaintenance import NodeMaintenance
from test.unit.provisioning.worlds import NOW, assigned, host, see


def node(labels: dict[str, str] | None = None, taints: list[dict[str, str]] | None = None) -> Node:
    body = {"metadata": {"name": "worker1", "labels": labels or {}}, "spec": {"taints": taints or []}}
    return Node.model_validate(body)


def patched(before: Node, patch: dict[str, Any] | None) -> Node:
    """The node after a merge patch."""

    def merge(target: Any, change: Any) -> Any:
        if not isinstance(change, dict):
            return change
        result = dict(target) if isinstance(target, dict) else {}
        for key, value in change.items():
            if value is None:
                result.pop(key, None)
            else:
                result[key] = merge(result.get(key), value)
        return result

    return Node.model_validate(merge(to_wire(before), patch or {}))


def look(of: Node) -> tuple[dict[str, str], set[tuple[str, str, str]]]:
    return of.labels, {(taint.key, taint.value, taint.effect) for taint in of.spec.taints}


words = st.sampled_from(["a", "b", "c"])
taints = st.builds(Taint, key=words, value=words, effect=st.sampled_from(["NoSchedule", "NoExecute"]))
node_effects = st.one_of(
    st.builds(NodeEffect, custom_label=st.dictionaries(words, words, min_size=1)),
    st.builds(NodeEffect, taint=taints),
)
nodes = st.builds(
    lambda labels, bare: node(labels, [to_wire(taint) for taint in bare]),
    st.dictionaries(words, words),
    st.lists(taints, max_size=2, unique_by=lambda taint: (taint.key, taint.effect)),
)


@given(nodes, node_effects)
def test_undoing_leaves_the_node_as_it_was(before: Node, effect: NodeEffect) -> None:
    marked = patched(before, nodeeffect.apply(before, "u1", effect))
    assert nodeeffect.marked(marked, "u1", effect)
    assert nodeeffect.held(marked, "u1")
    after = patched(marked, nodeeffect.undo(marked, "u1"))
    assert look(after) == look(before)
    assert not nodeeffect.held(after, "u1")
    assert nodeeffect.ANNOTATION not in after.annotations


@given(nodes, node_effects)
def test_the_last_of_two_dpus_undoes_it(before: Node, effect: NodeEffect) -> None:
    both = patched(before, nodeeffect.apply(before, "u1", effect))
    both = patched(both, nodeeffect.apply(both, "u2", effect))
    one = patched(both, nodeeffect.undo(both, "u1"))
    assert nodeeffect.marked(one, "u2", effect)
    assert look(patched(one, nodeeffect.undo(one, "u2"))) == look(before)


def test_a_taint_of_others_is_neither_ours_nor_taken_away() -> None:
    theirs = node(taints=[{"key": "k", "value": "theirs", "effect": "NoSchedule"}])
    effect = NodeEffect(taint=Taint(key="k", value="ours", effect="NoSchedule"))
    marked = patched(theirs, nodeeffect.apply(theirs, "u1", effect))
    assert look(patched(marked, nodeeffect.undo(marked, "u1"))) == look(theirs)


def test_an_annotation_that_cannot_be_read_counts_as_nothing() -> None:
    for text in ("{", "[]", '{"label/a": 1}', "null"):
        broken = Node.model_validate({"metadata": {"name": "n", "annotations": {nodeeffect.ANNOTATION: text}}})
        assert nodeeffect.ledger(broken) == {}


def test_a_holder_that_is_no_dpu_any_more_does_not_keep_the_mark() -> None:
    effect = NodeEffect(taint=Taint(key="k", value="v", effect="NoSchedule"))
    bare = node()
    both = patched(bare, nodeeffect.apply(bare, "gone", effect, "ns"))
    both = patched(both, nodeeffect.apply(both, "u1", effect, "ns"))
    lost = nodeeffect.lost(both, {"u1"}, "ns")
    assert lost == {"gone"}
    assert look(patched(both, nodeeffect.undo(both, "u1", *lost))) == look(bare)


@pytest.mark.parametrize(("watched", "lost"), [("", {"old", "new"}), ("ns", {"new"}), ("other", set())])
def test_of_dpus_in_namespaces_that_are_not_watched_nobody_knows_whether_they_are_gone(
    watched: str, lost: set[str]
) -> None:
    """An entry of an earlier version does not say of which namespace it is."""
    book = {"label/a": {"holders": ["old", "new"], "before": None, "namespaces": {"new": "ns"}}}
    marked = Node.model_validate(
        {"metadata": {"name": "n", "annotations": {nodeeffect.ANNOTATION: json.dumps(book)}, "labels": {"a": "b"}}}
    )
    assert nodeeffect.lost(marked, {"u1"}, watched) == lost
    assert nodeeffect.held(marked, "old")


def test_what_an_earlier_version_put_there_is_undone() -> None:
    book = {"label/a": {"holders": ["u1", "u2"], "before": None}}
    marked = Node.model_validate(
        {"metadata": {"name": "n", "annotations": {nodeeffect.ANNOTATION: json.dumps(book)}, "labels": {"a": "b"}}}
    )
    one = patched(marked, nodeeffect.undo(marked, "u1"))
    assert one.labels == {"a": "b"}
    assert patched(one, nodeeffect.undo(one, "u2")).labels == {}


def test_a_ready_dpu_gives_the_host_back_for_one_that_is_no_more() -> None:
    effect = NodeEffect(custom_label={"busy": "yes"})
    patch = nodeeffect.apply(host(), "uid-d2", effect, "ns")
    assert patch is not None
    marked = host(annotations=patch["metadata"]["annotations"], busy="yes")
    ready = in_phase("d1", "Ready")
    assert effects.to_undo(see(ready, node=marked))
    assert not effects.to_undo(see(ready, node=marked, siblings=(in_phase("d2", "OS Installing"),)))
    assert not effects.to_undo(see(ready, node=marked, watched="another"))


DRAIN = {"drain": {"automaticNodeReboot": True}}


def drain(*owners: str, requestors: tuple[str, ...] = (REQUESTOR,), by: str = MAINTENANCE_OWNER) -> NodeMaintenance:
    references = [
        {"apiVersion": "v1", "kind": "DPU", "name": uid.removeprefix("uid-"), "uid": uid, "controller": number == 0}
        for number, uid in enumerate(owners)
    ]
    return NodeMaintenance.model_validate(
        {
            "metadata": {"name": "worker1", "namespace": "ns", "ownerReferences": references},
            "spec": {"requestorID": by, "nodeName": "worker1", "additionalRequestors": list(requestors)},
        }
    )


def in_phase(name: str, phase: str, **spec: Any) -> DPU:
    return assigned(name, status={"phase": phase}, **({"nodeEffect": DRAIN} | spec))


def test_a_drain_is_kept_while_another_dpu_of_the_host_needs_it() -> None:
    busy, done = in_phase("d2", "OS Installing"), in_phase("d3", "Ready")
    assert nodeeffect.needed_by_others(drain("uid-d1"), [busy, done])
    assert not nodeeffect.needed_by_others(drain("uid-d1"), [done])
    fresh = in_phase("d4", "Initializing")
    assert not nodeeffect.needed_by_others(drain("uid-d1"), [fresh])
    assert nodeeffect.needed_by_others(drain("uid-d1", "uid-d4"), [fresh]), (
        "it asked, and its status is not written yet"
    )


def test_a_dpu_of_another_namespace_has_a_drain_of_its_own() -> None:
    busy = in_phase("d2", "OS Installing")
    elsewhere = busy.model_copy(update={"metadata": busy.metadata.model_copy(update={"namespace": "another"})})
    assert nodeeffect.needed_by_others(drain("uid-d1"), [busy])
    assert not nodeeffect.needed_by_others(drain("uid-d1"), [elsewhere])


def test_each_dpu_that_needs_a_drain_owns_it_beside_the_one_that_made_it() -> None:
    patch = nodeeffect.join(drain("uid-d1"), in_phase("d2", "Node Effect"))
    assert "spec" not in patch
    owners = patch["metadata"]["ownerReferences"]
    assert [(owner["uid"], owner.get("controller", False)) for owner in owners] == [("uid-d1", True), ("uid-d2", False)]
    assert nodeeffect.join(drain("uid-d1", "uid-d2"), in_phase("d2", "Node Effect")) == {}


def test_a_drain_of_others_is_joined_but_never_owned() -> None:
    theirs = drain(requestors=("them",), by="them")
    assert not nodeeffect.joined(theirs, "uid-d1")
    assert nodeeffect.join(theirs, in_phase("d1", "Node Effect")) == {
        "spec": {"additionalRequestors": ["them", REQUESTOR]}
    }
    assert nodeeffect.joined(drain(requestors=("them", REQUESTOR), by="them"), "uid-d1")


def test_the_last_dpu_to_let_go_gives_up_the_request_and_stays_owner_until_it_is_gone() -> None:
    busy, done = in_phase("d2", "OS Installing"), in_phase("d2", "Ready")
    [left] = nodeeffect.leave(drain("uid-d1", "uid-d2"), "uid-d1", [busy])["metadata"]["ownerReferences"]
    assert left["uid"] == "uid-d2"
    assert nodeeffect.leave(drain("uid-d2"), "uid-d1", [busy]) == {}
    last = nodeeffect.leave(drain("uid-d1", requestors=("them", REQUESTOR)), "uid-d1", [done])
    assert last == {"spec": {"additionalRequestors": ["them"]}}
    assert nodeeffect.leave(drain("uid-d1", requestors=()), "uid-d1", [done]) == {}, "what is left is to delete it"


def ending(of: NodeMaintenance) -> NodeMaintenance:
    """The drain, which somebody has deleted and which its maintenance operator keeps for as long as anybody needs it."""
    meta = of.metadata.model_copy(
        update={"deletion_timestamp": NOW, "finalizers": ["maintenance.nvidia.com/finalizer"]}
    )
    return of.model_copy(update={"metadata": meta})


class Api:
    """Keeps what is asked of it, by verb."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []

    async def merge_patch(self, obj: NodeMaintenance, patch: dict[str, Any], **_: object) -> NodeMaintenance:
        self.asked.append(("patch", patch))
        return obj

    async def delete(self, obj: NodeMaintenance, **_: object) -> None:
        self.asked.append(("delete", obj.name))


def at_hand(api: Api) -> Hands:
    nobody = SimpleNamespace(cancel=lambda _: None)
    events = SimpleNamespace(normal=lambda *_, **__: None)
    return cast("Hands", SimpleNamespace(client=api, events=events, jobs=nobody, reboots=nobody))


LET_GO = [("patch", {"spec": {"additionalRequestors": ["them"]}})]


@pytest.mark.parametrize("phase", ["Ready", "Error"])
@pytest.mark.parametrize(
    "found",
    [drain(requestors=("them", REQUESTOR), by="them"), drain("uid-d1", requestors=("them", REQUESTOR))],
    ids=["others made", "a DPU made"],
)
async def test_a_drain_that_others_delete_is_let_go_when_its_dpu_has_come_to_an_end(
    phase: str, found: NodeMaintenance
) -> None:
    """The maintenance operator waits for us, and keeps the host cordoned as long."""
    api, seen = Api(), see(in_phase("d1", phase), maintenance=ending(found))
    step = PHASES[Phase(phase)](seen)
    assert isinstance(step, Act)
    assert step.do is effects.undo
    await step.do(at_hand(api), seen)
    assert api.asked == LET_GO, "it is deleted already"


async def test_a_drain_that_others_delete_is_let_go_with_a_dpu_that_is_deleted() -> None:
    api, found = Api(), ending(drain(requestors=("them", REQUESTOR), by="them"))
    await deleting.take_back(at_hand(api), see(in_phase("d1", "Deleting"), maintenance=found))
    assert api.asked == LET_GO


def test_a_drain_that_others_delete_is_kept_while_another_dpu_needs_it_and_left_alone_once_let_go() -> None:
    asked, done = ending(drain("uid-d1")), in_phase("d1", "Ready")
    assert not effects.to_undo(see(done, maintenance=asked, siblings=(in_phase("d2", "OS Installing"),)))
    assert not effects.to_undo(see(done, maintenance=ending(drain("uid-d1", requestors=()))))


def test_a_drain_wakes_the_dpus_of_its_host_with_each_pod_that_is_still_in_its_way() -> None:
    def waiting_for(*pods: str) -> NodeMaintenance:
        status = {"drain": {"waitForEviction": list(pods), "drainProgress": 10}}
        return NodeMaintenance.model_validate(to_wire(drain("uid-d1")) | {"status": status})

    assert nodeeffect.stands(waiting_for("a/1", "a/2")) != nodeeffect.stands(waiting_for("a/2"))
    progress = waiting_for("a/1")
    assert progress.status.drain is not None
    progress.status.drain["drainProgress"] = 20
    assert nodeeffect.stands(progress) == nodeeffect.stands(waiting_for("a/1")), "nobody is told of it"
    asked = drain("uid-d1")
    assert nodeeffect.stands(asked) != nodeeffect.stands(ending(asked))
