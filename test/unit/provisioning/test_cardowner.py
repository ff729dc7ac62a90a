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
from dpf.runtime.k8s import Node
from dpf.runtime.meta import Object
from dpf_api.dpu import DPU, Phase
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


class Deleting:
    """Notes what is deleted and how Nodes are patched."""

    def __init__(self) -> None:
        self.did: list[Any] = []

    async def delete(self, obj: Object) -> None:
        self.did.append(obj.name)

    async def merge_patch(self, _: Node, patch: dict[str, Any], *, resource_version: str) -> None:
        self.did.append(patch["metadata"]["labels"])


async def test_who_steps_back_takes_away_its_pods_and_its_mark_of_the_host() -> None:
    subject = assigned(nodeEffect={"customLabel": {"busy": "yes"}}, status=status(Phase.DMS_DEPLOYMENT))
    patch = nodeeffect.apply(host(), subject.uid, subject.spec.node_effect)
    assert patch is not None
    marked = host(annotations=patch["metadata"]["annotations"], busy="yes")
    seen = see(subject, siblings=(dpu("d0", made=EARLIER),), node=marked, dms_pod=pod("d1-dms"))
    assert isinstance(yielded(seen), Act)
    client = Deleting()
    await step_back(cast("Hands", SimpleNamespace(client=client)), seen)
    assert client.did == ["d1-dms", {"busy": None}]
