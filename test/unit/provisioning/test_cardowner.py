"""Of several DPUs that name one card one has it; the others wait and touch nothing."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dpf.provisioning.dpu import nodeeffect
from dpf.provisioning.dpu.cardowner import owner_of, step_back, yielded
from dpf.provisioning.dpu.deciding import deciding
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.steps import Act, Advance, Hold
from dpf.runtime.meta import Object
from dpf_api.dpu import DPU, Phase
from dpf_api.names import MAINTENANCE_OWNER, REQUESTOR
from dpf_api.nodemaintenance import NodeMaintenance
from test.unit.provisioning.worlds import NOW, assigned, dpu, host, pod, see

EARLIER = NOW - timedelta(seconds=1)
FLASHING = {"phase": "OS Installing", "install": {"startedAt": NOW.isoformat()}}


def status(phase: Phase) -> dict[str, Any]:
    return {"phase": phase.value}


@pytest.mark.parametrize(
    ("mine", "other"),
    [
        (dpu(made=NOW), dpu("d2", made=EARLIER)),
        (dpu(uid="b"), dpu("d2", uid="a")),
        (dpu(made=EARLIER), dpu("d2", made=NOW, status=FLASHING)),
        (dpu(made=EARLIER), dpu("d2", made=NOW, status=status(Phase.READY))),
        (dpu(uid="b"), dpu("d1", namespace="other", uid="a")),
    ],
    ids=["older", "same second", "flashing", "ready", "another namespace"],
)
def test_one_of_two_has_the_card_whoever_looks(mine: DPU, other: DPU) -> None:
    assert owner_of(see(mine, siblings=(other,))) == other
    assert owner_of(see(other, siblings=(mine,))) is None


def test_another_card_of_the_host_is_nobodys_business() -> None:
    other = dpu("d2", made=EARLIER)
    elsewhere = other.model_copy(update={"metadata": other.metadata.model_copy(update={"labels": {}})})
    elsewhere = elsewhere.model_copy(update={"spec": elsewhere.spec.model_copy(update={"pci_address": "0000:85:00"})})
    assert owner_of(see(dpu(), siblings=(elsewhere,))) is None


def test_the_one_that_waits_names_the_owner_and_is_given_no_cluster() -> None:
    step = deciding(Phase.INITIALIZING)(see(dpu(), siblings=(dpu("d0", made=EARLIER),)))
    assert isinstance(step, Hold)
    assert (step.condition.type, step.condition.reason) == ("Initialized", "CardTaken")
    assert "DPU ns/d0" in step.condition.message


@pytest.mark.parametrize("phase", [Phase.NODE_EFFECT, Phase.PENDING, Phase.DMS_DEPLOYMENT, Phase.OS_INSTALLING])
def test_one_that_went_on_too_early_steps_back_before_it_flashes(phase: Phase) -> None:
    subject, owner = assigned(status=status(phase)), dpu("d0", made=EARLIER)
    cleaning = deciding(phase)(see(subject, siblings=(owner,), dms_pod=pod("d1-dms")))
    assert isinstance(cleaning, Act)
    assert cleaning.do is step_back
    back = deciding(phase)(see(subject, siblings=(owner,)))
    assert isinstance(back, Advance)
    assert back.phase is Phase.INITIALIZING


@pytest.mark.parametrize("phase", [Phase.REBOOTING, Phase.READY, Phase.ERROR])
def test_one_that_has_flashed_the_card_keeps_it(phase: Phase) -> None:
    assert yielded(see(assigned(status=status(phase)), siblings=(dpu("d0", made=EARLIER),))) is None


def test_it_goes_on_when_the_owner_is_gone() -> None:
    assert yielded(see(dpu(), siblings=())) is None


def test_a_dpu_that_does_not_know_its_card_takes_nobodys() -> None:
    bare = dpu(pciAddress="")
    bare = bare.model_copy(update={"metadata": bare.metadata.model_copy(update={"labels": {}})})
    assert owner_of(see(bare, siblings=(dpu("d0", made=EARLIER),), node=host())) is None


class Api:
    """Notes what is deleted and how objects are patched."""

    def __init__(self) -> None:
        self.did: list[Any] = []

    async def delete(self, obj: Object, **_: Any) -> None:
        self.did.append(obj.name)

    async def merge_patch(self, obj: Any, patch: dict[str, Any], *, resource_version: str) -> Any:
        self.did.append(patch)
        return obj

    @property
    def hands(self) -> Hands:
        events = SimpleNamespace(normal=lambda *_, **__: None)
        return cast("Hands", SimpleNamespace(client=self, events=events))


async def test_who_steps_back_takes_away_its_pods_and_its_mark_of_the_host() -> None:
    subject = assigned(nodeEffect={"customLabel": {"busy": "yes"}}, status=status(Phase.DMS_DEPLOYMENT))
    patch = nodeeffect.apply(host(), subject.uid, subject.spec.node_effect)
    assert patch is not None
    marked = host(annotations=patch["metadata"]["annotations"], busy="yes")
    seen = see(subject, siblings=(dpu("d0", made=EARLIER),), node=marked, dms_pod=pod("d1-dms"))
    assert isinstance(yielded(seen), Act)
    api = Api()
    await step_back(api.hands, seen)
    assert [api.did[0], api.did[1]["metadata"]["labels"]] == ["d1-dms", {"busy": None}]


def drained(*names: str) -> NodeMaintenance:
    owners = [{"apiVersion": "v1", "kind": "DPU", "name": name, "uid": f"uid-{name}"} for name in names]
    wanted = {"requestorID": MAINTENANCE_OWNER, "nodeName": "worker1", "additionalRequestors": [REQUESTOR]}
    return NodeMaintenance.model_validate(
        {"metadata": {"name": "worker1", "namespace": "ns", "ownerReferences": owners}, "spec": wanted}
    )


@pytest.mark.parametrize("phase", [Phase.INITIALIZING, Phase.NODE_EFFECT, Phase.DMS_DEPLOYMENT])
async def test_who_steps_back_leaves_the_drain_to_the_owner_who_can_end_it_then(phase: Phase) -> None:
    """An earlier version went back to Initializing and kept its part in the drain."""
    drain: dict[str, Any] = {"drain": {}}
    subject = assigned(nodeEffect=drain, status=status(phase))
    owner = assigned("d0", nodeEffect=drain, status=FLASHING)
    both = drained("d0", "d1")
    seen = see(subject, siblings=(owner,), maintenance=both)
    step = yielded(seen)
    assert isinstance(step, Act)
    assert step.do is step_back
    api = Api()
    await step_back(api.hands, seen)
    [patch] = api.did
    assert [each["name"] for each in patch["metadata"]["ownerReferences"]] == ["d0"]
    waiting = assigned(nodeEffect=drain, status=status(Phase.INITIALIZING))
    assert isinstance(yielded(see(waiting, siblings=(owner,), maintenance=drained("d0"))), Hold)
    assert not nodeeffect.needed_by_others(drained("d0"), [waiting]), "and so the owner ends it when it is Ready"


async def test_who_steps_back_leaves_a_drain_that_others_made_unless_another_dpu_of_its_namespace_needs_it() -> None:
    """The card's owner is of another namespace: nobody else would take our part out of it."""
    drain: dict[str, Any] = {"drain": {}}
    subject = assigned(nodeEffect=drain, status=status(Phase.NODE_EFFECT))
    owner = dpu("d0", namespace="other", made=EARLIER, nodeEffect=drain, status=FLASHING)
    wanted = {"requestorID": "admin", "nodeName": "worker1", "additionalRequestors": ["backup", REQUESTOR]}
    joined = drained().model_copy(update={"spec": drained().spec.model_validate(wanted)})
    seen = see(subject, siblings=(owner,), maintenance=joined)
    step = yielded(seen)
    assert isinstance(step, Act)
    assert step.do is step_back
    api = Api()
    await step_back(api.hands, seen)
    assert api.did == [{"spec": {"additionalRequestors": ["backup"]}}]
    left = joined.model_copy(update={"spec": joined.spec.model_copy(update={"additional_requestors": ["backup"]})})
    for siblings, maintenance in (
        ((owner,), left),
        ((owner, assigned("d2", nodeEffect=drain, status=FLASHING, pciAddress="0000-05-00")), joined),
    ):
        assert isinstance(yielded(see(subject, siblings=siblings, maintenance=maintenance)), Advance)


async def test_who_steps_back_ends_a_drain_that_nobody_else_needs() -> None:
    subject = assigned(nodeEffect={"drain": {}}, status=status(Phase.NODE_EFFECT))
    owner = assigned("d0", status=status(Phase.READY))
    api = Api()
    await step_back(api.hands, see(subject, siblings=(owner,), maintenance=drained("d1")))
    assert api.did == [{"spec": {"additionalRequestors": []}}, "worker1"]
