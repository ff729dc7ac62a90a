"""What a DPUSet replaces, and when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpf.provisioning.dpuset.rollout import Member, budget, replaceable
from dpf.runtime.errors import Terminal


@pytest.mark.parametrize(
    ("max_unavailable", "total", "amount"),
    [
        (None, 10, 1),
        (3, 10, 3),
        (30, 10, 10),
        ("10%", 10, 1),
        ("15%", 10, 2),
        ("100%", 7, 7),
        ("1%", 1000, 10),
        (1, 0, 1),
    ],
)
def test_the_budget_is_rounded_up_and_kept_in_bounds(
    max_unavailable: int | str | None, total: int, amount: int
) -> None:
    assert budget(max_unavailable, total) == amount


def test_unavailable_ones_are_replaced_first_and_in_order_of_name() -> None:
    members = [Member("c", True, True), Member("b", False, True), Member("a", True, True), Member("d", True, False)]
    assert replaceable(members, wanted=4, allowed=2) == ["b", "a"]


def test_a_dpu_that_is_missing_uses_up_the_budget() -> None:
    assert replaceable([Member("a", True, True)], wanted=2, allowed=1) == []


def test_what_is_up_to_date_is_left_alone() -> None:
    assert replaceable([Member("a", False, False)], wanted=1, allowed=1) == []


names = st.text("abc", min_size=1, max_size=4)
members = st.lists(st.builds(Member, names, st.booleans(), st.booleans()), unique_by=lambda member: member.name)


@given(members, st.integers(1, 10), st.integers(0, 5))
def test_no_more_available_dpus_go_than_the_budget_allows(have: list[Member], allowed: int, missing: int) -> None:
    chosen = replaceable(have, wanted=len(have) + missing, allowed=allowed)
    by_name = {member.name: member for member in have}
    assert all(by_name[name].outdated for name in chosen)
    lost = [name for name in chosen if by_name[name].available]
    unavailable = missing + sum(not member.available for member in have)
    assert len(lost) <= max(0, allowed - unavailable)


@given(members, st.integers(1, 10))
def test_a_rollout_with_room_makes_progress(have: list[Member], allowed: int) -> None:
    if any(member.outdated for member in have) and all(member.available for member in have):
        assert replaceable(have, wanted=len(have), allowed=allowed)


def test_a_percentage_with_thousands_of_zeros_before_it_is_one_all_the_same() -> None:
    """Found by fuzzing: the CRD's rule lets it through, and Python makes no number of so many digits."""
    assert budget("0" * 5000 + "9%", 100) == 9


@pytest.mark.parametrize("text", ["", "10", "%", "-1%", "1e1%", "٣%", " 5%"])
def test_a_text_that_is_no_percentage_is_named_with_its_field(text: str) -> None:
    with pytest.raises(Terminal, match=r"spec\.strategy\.rollingUpdate\.maxUnavailable"):
        budget(text, 100)
