"""What is done about what was seen, as a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dpf.host.network import Link
from dpf.hostnetwork.decide import (
    Action,
    Attach,
    MakeFunctions,
    Physical,
    Problem,
    Seen,
    SetMtu,
    SetUp,
    Wanted,
    decide,
)

WANTED = Wanted("0000:90:00", functions=16, mtu=9000)
PF0, PF1 = Physical("0000:90:00.0", 16, 127), Physical("0000:90:00.1", 16, 127)
BRIDGE = Link(7, "br-dpu", "bridge", up=True)
VF0 = Link(9, "ens1f0v0", master=7, mtu=9000, up=True)
GOOD = Seen(None, (PF0, PF1), VF0, BRIDGE, bridge_has_address=True)


def test_nothing_is_done_about_what_is_as_it_should_be() -> None:
    decision = decide(WANTED, GOOD)
    assert (decision.actions, decision.problem) == ((), None)


@pytest.mark.parametrize(
    ("seen", "actions"),
    [
        (replace(GOOD, physical=(replace(PF0, functions=0),), vf0=None), [MakeFunctions("0000:90:00.0", 16)]),
        (replace(GOOD, physical=(PF0, replace(PF1, functions=0))), [MakeFunctions("0000:90:00.1", 16)]),
        (
            replace(GOOD, physical=(replace(PF0, functions=8), PF1)),
            [MakeFunctions("0000:90:00.0", 16, anew=True)],
        ),
        (replace(GOOD, vf0=replace(VF0, master=0)), [Attach(replace(VF0, master=0), BRIDGE)]),
        (replace(GOOD, vf0=replace(VF0, master=3)), [Attach(replace(VF0, master=3), BRIDGE)]),
        (replace(GOOD, vf0=replace(VF0, mtu=1500)), [SetMtu(replace(VF0, mtu=1500), 9000)]),
        (replace(GOOD, vf0=replace(VF0, up=False)), [SetUp(replace(VF0, up=False))]),
    ],
)
def test_what_is_undone_is_done_again(seen: Seen, actions: list[Action]) -> None:
    decision = decide(WANTED, seen)
    assert list(decision.actions) == actions
    assert decision.problem is None


def test_more_functions_than_are_wanted_do_no_harm() -> None:
    assert decide(WANTED, replace(GOOD, physical=(replace(PF0, functions=64, in_use="x"), PF1))).actions == ()


def test_an_mtu_of_0_is_left_as_it_is() -> None:
    assert decide(replace(WANTED, mtu=0), replace(GOOD, vf0=replace(VF0, mtu=1400))).actions == ()


@pytest.mark.parametrize(
    ("seen", "reason", "message"),
    [
        (Seen(Problem("CardMissing", "x")), "CardMissing", "x"),
        (replace(GOOD, physical=(replace(PF0, functions=None), PF1)), "NoSRIOV", "0000:90:00.0"),
        (replace(GOOD, physical=(PF0, replace(PF1, functions=0, offered=8))), "TooFewFunctionsOffered", "offers 8"),
        (
            replace(GOOD, physical=(replace(PF0, functions=8, in_use="eth7 is in a bridge"), PF1)),
            "FunctionsInUse",
            "eth7 is in a bridge; drain the host",
        ),
        (replace(GOOD, bridge=None, vf0=replace(VF0, master=0)), "BridgeMissing", "make it"),
        (replace(GOOD, bridge=replace(BRIDGE, kind="")), "NotABridge", "a network card"),
        (replace(GOOD, bridge_has_address=False), "BridgeWithoutAddress", "give it one"),
        (replace(GOOD, vf0=None), "FunctionWithoutDevice", "sriov_drivers_autoprobe"),
    ],
)
def test_what_can_not_be_mended_here_has_a_reason_and_a_next_step(seen: Seen, reason: str, message: str) -> None:
    decision = decide(WANTED, seen)
    assert decision.actions == ()
    assert decision.problem is not None
    assert decision.problem.reason == reason
    assert message in decision.problem.message


def test_a_second_port_in_trouble_does_not_keep_the_first_from_the_bridge() -> None:
    seen = replace(GOOD, physical=(PF0, replace(PF1, functions=None)), vf0=replace(VF0, master=0))
    decision = decide(WANTED, seen)
    assert decision.actions == (Attach(replace(VF0, master=0), BRIDGE),)
    assert decision.problem is not None
    assert decision.problem.reason == "NoSRIOV"


def test_the_bridge_is_waited_for_until_it_has_an_address() -> None:
    decision = decide(WANTED, replace(GOOD, bridge_has_address=False, vf0=replace(VF0, master=0)))
    assert decision.actions == ()
    assert decision.problem is not None
    assert decision.problem.reason == "BridgeWithoutAddress"
