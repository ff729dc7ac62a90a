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


def outdated(name: str, *, available: bool = True, **more: bool) -> Member:
    return Member(name, available=available, outdated=True, **more)


def fresh(name: str, *, available: bool = True, **more: bool) -> Member:
    return Member(name, available=available, outdated=False, **more)


def test_unavailable_ones_are_replaced_first_and_in_order_of_name() -> None:
    have = [outdated("c"), outdated("b", available=False), outdated("a"), fresh("d")]
    assert replaceable(have, missing=0, allowed=2) == ["b", "a"]


def test_of_the_unavailable_ones_those_in_error_go_first() -> None:
    have = [outdated("a", available=False), outdated("b", available=False, failed=True)]
    assert replaceable(have, missing=0, allowed=1) == ["b"]


def test_an_outage_of_a_dpu_cluster_does_not_let_all_its_dpus_be_replaced_at_once() -> None:
    have = [outdated(f"d{number}", available=False) for number in range(10)]
    assert replaceable(have, missing=0, allowed=3) == ["d0", "d1", "d2"]
    under_way = [fresh(f"d{number}", available=False) for number in range(3)]
    assert replaceable(under_way + have[3:], missing=0, allowed=3) == []


def test_more_broken_ones_than_the_budget_are_replaced_a_budget_at_a_time() -> None:
    have = {name: outdated(name, available=False) for name in ("a", "b", "c", "d", "e")}
    rounds = []
    while names := replaceable(have.values(), missing=0, allowed=2):
        rounds.append(names)
        have |= {name: fresh(name) for name in names}
    assert rounds == [["a", "b"], ["c", "d"], ["e"]]


def test_a_dpu_that_is_being_deleted_is_in_flight_and_not_deleted_again() -> None:
    have = [outdated("a", available=False, leaving=True), outdated("b", available=False), outdated("c")]
    assert replaceable(have, missing=0, allowed=1) == []
    assert replaceable(have, missing=0, allowed=2) == ["b"]


def test_a_dpu_that_is_missing_uses_up_the_budget() -> None:
    assert replaceable([outdated("a")], missing=1, allowed=1) == []


def test_what_is_up_to_date_is_left_alone() -> None:
    assert replaceable([fresh("a", available=False)], missing=0, allowed=1) == []


def test_a_dpu_that_would_not_be_made_anew_is_left_alone() -> None:
    assert replaceable([outdated("a", selected=False), outdated("b")], missing=0, allowed=1) == ["b"]


@pytest.mark.parametrize(
    ("member", "held"),
    [
        (outdated("a", available=False, selected=False), True),
        (outdated("a", available=False, selected=False, failed=True), True),
        (outdated("a", selected=False), False),
        (outdated("a", available=False), False),
        (outdated("a", available=False, selected=False, leaving=True), False),
        (fresh("a", available=False, selected=False), False),
    ],
    ids=["no card", "no card, in Error", "still of use", "can be replaced", "is going", "in flight"],
)
def test_a_dpu_that_is_of_no_use_and_cannot_be_replaced_holds_its_place_in_the_budget(
    member: Member, held: bool
) -> None:
    assert member.held is held
    assert bool(replaceable([member, outdated("b")], missing=0, allowed=1)) is (member.available or member.selected)


def test_what_holds_a_place_leaves_the_others_to_the_rollout() -> None:
    have = [outdated("a", available=False, selected=False), outdated("b"), outdated("c")]
    assert replaceable(have, missing=0, allowed=1) == []
    assert replaceable(have, missing=0, allowed=2) == ["b"]


names = st.text("abc", min_size=1, max_size=4)
_any = st.builds(
    Member, names, available=st.booleans(), outdated=st.booleans(), failed=st.booleans(), leaving=st.booleans()
)
members = st.lists(
    _any.filter(lambda member: not (member.available and member.leaving)), unique_by=lambda member: member.name
)


@given(members, st.integers(1, 10), st.integers(0, 5))
def test_no_more_available_dpus_go_than_the_budget_allows(have: list[Member], allowed: int, missing: int) -> None:
    chosen = replaceable(have, missing=missing, allowed=allowed)
    by_name = {member.name: member for member in have}
    assert all(by_name[name].outdated for name in chosen)
    lost = [name for name in chosen if by_name[name].available]
    unavailable = missing + sum(not member.available for member in have)
    assert len(lost) <= max(0, allowed - unavailable)


@given(members, st.integers(1, 10), st.integers(0, 5))
def test_no_more_are_in_flight_than_the_budget_allows(have: list[Member], allowed: int, missing: int) -> None:
    chosen = replaceable(have, missing=missing, allowed=allowed)
    in_flight = missing + sum(member.in_flight for member in have)
    assert len(chosen) <= max(0, allowed - in_flight)
    assert not [member.name for member in have if member.name in chosen and member.leaving]


@given(members, st.integers(1, 10))
def test_a_rollout_with_nothing_in_flight_makes_progress(have: list[Member], allowed: int) -> None:
    have = [member for member in have if not member.in_flight]
    if any(member.outdated for member in have):
        assert replaceable(have, missing=0, allowed=allowed)


def test_a_percentage_with_thousands_of_zeros_before_it_is_one_all_the_same() -> None:
    """Found by fuzzing: the CRD's rule lets it through, and Python makes no number of so many digits."""
    assert budget("0" * 5000 + "9%", 100) == 9


@pytest.mark.parametrize("text", ["", "10", "%", "-1%", "1e1%", "٣%", " 5%"])
def test_a_text_that_is_no_percentage_is_named_with_its_field(text: str) -> None:
    with pytest.raises(Terminal, match=r"spec\.strategy\.rollingUpdate\.maxUnavailable"):
        budget(text, 100)
