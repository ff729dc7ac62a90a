"""The feature file as text, and which card has which index."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dpf.detector.features import Card, features, indices, label_form, read, render

FOUR, FIVE, SIX = "0000:04:00", "0000:05:00", "0000:06:00"
SLOTS = st.lists(st.sampled_from([f"0000:{bus:02x}:00" for bus in range(12)]), unique=True).map(sorted)


def test_the_lines_are_those_that_manifests_select_by() -> None:
    cards = [Card(FOUR, {"pf0-name": "ens1f0np0", "ps-id": "MT_0000000375"}), Card(FIVE, {"pf0-name": "ens2f0np0"})]
    assert render(features(cards, {}, bridge=True)) == (
        "dpu-0-pci-address=0000-04-00\ndpu-0-pf0-name=ens1f0np0\ndpu-0-ps-id=MT_0000000375\n"
        "dpu-1-pci-address=0000-05-00\ndpu-1-pf0-name=ens2f0np0\n"
        "dpu-oob-bridge-configured=\n"
    )


def test_a_host_without_cards_and_bridge_has_no_lines() -> None:
    assert render(features([], {"dpu-0-pci-address": "0000-04-00"}, bridge=False)) == ""


def test_a_new_host_counts_in_order_of_addresses() -> None:
    assert indices([FOUR, FIVE], {}) == {FOUR: 0, FIVE: 1}


def test_a_card_keeps_its_index_while_another_is_gone() -> None:
    both = features([Card(FOUR, {}), Card(FIVE, {})], {}, bridge=False)
    alone = features([Card(FIVE, {})], both, bridge=False)
    assert alone == {"dpu-1-pci-address": "0000-05-00"}
    assert features([Card(FOUR, {}), Card(FIVE, {})], alone, bridge=False) == both


def test_a_new_card_takes_the_lowest_index_that_is_free() -> None:
    before = {"dpu-1-pci-address": "0000-05-00"}
    assert indices([FOUR, FIVE, SIX], before) == {FOUR: 0, FIVE: 1, SIX: 2}


@given(SLOTS, SLOTS)
def test_indices_are_unique_and_those_of_cards_that_stay_stay(first: list[str], second: list[str]) -> None:
    before = indices(first, {})
    lines = {f"dpu-{number}-pci-address": label_form(slot) for slot, number in before.items()}
    after = indices(second, lines)
    assert sorted(after) == second
    assert len(set(after.values())) == len(second)
    assert all(after[slot] == before[slot] for slot in second if slot in before)


@given(SLOTS)
def test_a_file_that_two_lines_of_garbage_spoil_is_still_read(slots: list[str]) -> None:
    lines = features([Card(slot, {"pf0-name": "eth0"}) for slot in slots], {}, bridge=True)
    assert read(render(lines)) == lines
    assert read("# a comment\r\n\r\n=\n" + render(lines).replace("\n", "\r\n")) == lines


def test_an_index_that_two_cards_claim_is_given_to_one() -> None:
    before = {"dpu-3-pci-address": "0000-04-00", "dpu-7-pci-address": "0000-04-00"}
    assert indices([FOUR], before) == {FOUR: 3}
