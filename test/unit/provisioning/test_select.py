"""Which cards a DPUSet selects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpf.provisioning.cards import Card, index_of
from dpf.provisioning.dpuset.select import Choice, choose, pick
from dpf.runtime.k8s import Node
from dpf.runtime.meta import LabelSelector, ObjectMeta
from dpf_api.names import FEATURE_PREFIX as FEATURE
from test.spec import spec

PCI = "0000-04-00"


def node(labels: dict[str, str], name: str = "worker1") -> Node:
    return Node(metadata=ObjectMeta(name=name, labels={FEATURE + key: value for key, value in labels.items()}))


def two_cards(**more: str) -> Node:
    return node({"dpu-0-pci-address": PCI, "dpu-1-pci-address": "0000-05-00", "dpu-1-pf0-name": "ens2f0np0", **more})


def selected(selector: dict[str, str] | None, of: Node) -> list[int]:
    entries = {FEATURE + key: value for key, value in selector.items()} if selector is not None else None
    return [card.index for card in choose(entries, of).selected]


@spec("provisioning:71")
def test_two_entries_of_one_card_select_it_once() -> None:
    labels = {"dpu-0-psid": "MT_0", "dpu-0-pci-address": PCI, "dpu-enabled": "true"}
    assert selected({"dpu-0-psid": "MT_0", "dpu-0-pci-address": PCI}, node(labels)) == [0]


@pytest.mark.parametrize(
    ("selector", "indices"),
    [
        (None, [0]),
        ({}, [0]),
        ({"dpu-1-pci-address": "0000-05-00"}, [1]),
        ({"dpu-0-pci-address": PCI, "dpu-1-pci-address": "0000-05-00"}, [0, 1]),
        ({"dpu-0-pci-address": "0000-99-00"}, []),
        ({"dpu-0-ps-id": "MT_1", "dpu-0-pci-address": "0000-99-00"}, []),
        ({"dpu-0-psid": "MT_1", "dpu-0-pci-address": PCI}, [0]),
        ({"dpu-0-psid": "MT_2", "dpu-0-pci-address": PCI}, []),
        ({"dpu-1-ps-id": "MT_1", "dpu-1-pci-address": "0000-05-00"}, [1]),
        ({"dpu-1-ps-id": "MT_1"}, []),
        ({"dpu-enabled": "true"}, []),
        ({"dpu-7-pci-address": PCI}, []),
    ],
)
def test_entries_hold_together_within_a_card(selector: dict[str, str] | None, indices: list[int]) -> None:
    assert selected(selector, two_cards(**{"dpu-0-ps-id": "MT_1"})) == indices


def test_a_card_without_address_is_no_card() -> None:
    assert choose(None, node({"dpu-0-pf0-name": "ens1f0np0", "dpu-0-pci-address": ""})).selected == ()


def test_what_is_known_and_not_selected_is_rejected() -> None:
    assert [card.index for card in choose(None, two_cards()).rejected] == [1]


@pytest.mark.parametrize(
    ("labels", "choice"),
    [
        ({}, Choice()),
        ({"dpu-oob-bridge-configured": ""}, Choice()),
        ({"dpu-oob-bridge-configured": "", "dpu-0-psid": "MT_0"}, Choice()),
        ({"dpu-0-pci-address": PCI}, None),
    ],
    ids=["no label is left", "the bridge is still there", "a card's address is gone", "the card is still told of"],
)
def test_a_host_is_left_alone_as_long_as_nothing_is_told_of_its_cards(
    labels: dict[str, str], choice: Choice | None
) -> None:
    enabled = LabelSelector(match_labels={FEATURE + "dpu-enabled": "true"})
    assert pick(enabled, None, node(labels)) == choice


def test_a_card_carries_what_its_labels_say() -> None:
    card = choose({FEATURE + "dpu-1-pci-address": "0000-05-00"}, two_cards()).selected[0]
    assert card == Card("worker1", 1, "0000-05-00", "ens2f0np0")
    assert card.name == "worker1-0000-05-00"


def test_the_index_is_found_by_address() -> None:
    assert index_of(two_cards(), "0000-05-00") == 1
    assert index_of(None, "0000-05-00") == 0


@given(st.text(alphabet="abcdefgh.-XYZ", min_size=1, max_size=253))
def test_names_fit_and_are_lower_case(name: str) -> None:
    made = Card(name, 0, PCI).name
    assert len(made) <= 63
    assert made == made.lower()


def test_long_names_stay_apart() -> None:
    long = "a" * 100
    assert Card(long + "1", 0, PCI).name != Card(long + "2", 0, PCI).name


@pytest.mark.parametrize("index", ["9" * 5000, "٣", "-1", ""])
def test_a_key_that_numbers_no_card_is_ignored(index: str) -> None:
    """Found by fuzzing: Python makes no number of so many digits."""
    node = Node(metadata=ObjectMeta(name="n", labels={f"{FEATURE}dpu-0-pci-address": "0000-04-00"}))
    assert choose({f"{FEATURE}dpu-{index}-pci-address": "0000-04-00"}, node).selected == ()
