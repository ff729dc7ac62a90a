"""The life of a card, step by step, without a clock."""

from __future__ import annotations

from dpf.sandbox.fleet.cardstate import (
    OLD_VERSION,
    Durations,
    Record,
    State,
    advance,
    begin_install,
    percent,
    reset,
)
from dpf.sandbox.fleet.faults import Fault
from test.unit.sandbox.samples import bf_cfg

SLOW = Durations(install=10.0, boot=5.0)
NONE = Durations()


def flashed(config: str = "", at: float = 0.0) -> Record:
    return begin_install(Record(), "new.bfb", config or bf_cfg(), "id-1", at)


def test_install_takes_its_time_and_then_boots() -> None:
    record, due = advance(flashed(), 4.0, SLOW, None)
    assert (record.state, due, percent(record, 4.0, SLOW, None)) == (State.INSTALLING, 10.0, 40)
    record, due = advance(record, 10.0, SLOW, None)
    assert (record.state, due) == (State.BOOTING, 15.0)
    record, due = advance(record, 15.0, SLOW, None)
    assert (record.state, due, record.version) == (State.UP, None, "new.bfb")
    assert (record.counters.activates, record.counters.installs, record.counters.boots) == (1, 1, 1)


def test_without_delays_a_card_is_up_at_once() -> None:
    assert advance(flashed(), 0.0, NONE, None)[0].state is State.UP


def test_same_request_again_changes_nothing() -> None:
    running, _ = advance(flashed(), 4.0, SLOW, None)
    assert begin_install(running, "new.bfb", bf_cfg(), "id-1", 5.0) is running
    done, _ = advance(flashed(), 0.0, NONE, None)
    assert begin_install(done, "new.bfb", bf_cfg(), "id-1", 5.0) is done


def test_another_configuration_flashes_again() -> None:
    done, _ = advance(flashed(), 0.0, NONE, None)
    again = begin_install(done, "new.bfb", bf_cfg(name="other"), "id-2", 5.0)
    assert (again.state, again.counters.activates, again.configuration) == (State.INSTALLING, 2, None)


def test_joining_begins_with_the_second_boot() -> None:
    first, _ = advance(flashed(), 0.0, NONE, None)
    assert not first.runs_kubelet
    second, _ = advance(reset(first, 1.0), 1.0, NONE, None)
    assert second.runs_kubelet
    assert second.counters.boots == 2


def test_configuration_that_reboots_the_card_needs_no_reset() -> None:
    record, _ = advance(flashed(bf_cfg(reboot=True)), 0.0, NONE, None)
    assert record.runs_kubelet
    assert record.counters.boots == 2


def test_reset_does_not_disturb_an_install() -> None:
    running, _ = advance(flashed(), 4.0, SLOW, None)
    assert reset(running, 5.0) is running


def test_card_with_an_unreadable_configuration_fails_with_the_reason() -> None:
    record, _ = advance(flashed("no heredoc"), 0.0, NONE, None)
    assert record.state is State.FAILED
    assert "nothing writes" in record.message


def test_failing_install_stops_short() -> None:
    record, due = advance(flashed(), 5.0, SLOW, Fault.INSTALL_FAILS)
    assert (record.state, due) == (State.INSTALLING, 6.0)
    record, _ = advance(record, 6.0, SLOW, Fault.INSTALL_FAILS)
    assert (record.state, percent(record, 6.0, SLOW, Fault.INSTALL_FAILS)) == (State.FAILED, 60)
    assert record.counters.installs == 0


def test_failed_install_can_be_tried_again() -> None:
    failed, _ = advance(flashed(), 6.0, SLOW, Fault.INSTALL_FAILS)
    again = begin_install(failed, "new.bfb", bf_cfg(), "id-1", 7.0)
    assert advance(again, 22.0, SLOW, None)[0].counters.activates == 2


def test_hanging_install_goes_on_when_the_fault_is_cleared() -> None:
    record, due = advance(flashed(), 100.0, SLOW, Fault.INSTALL_HANGS)
    assert (record.state, due, percent(record, 100.0, SLOW, Fault.INSTALL_HANGS)) == (State.INSTALLING, None, 40)
    assert advance(record, 100.0, SLOW, None)[0].state is State.BOOTING


def test_wrong_version_comes_up() -> None:
    record, _ = advance(flashed(), 0.0, NONE, Fault.WRONG_VERSION)
    assert (record.state, record.version, record.runs_kubelet) == (State.UP, OLD_VERSION, False)


def test_faults_of_other_stages_do_not_touch_an_install() -> None:
    assert advance(flashed(), 5.0, SLOW, Fault.NEVER_JOINS) == advance(flashed(), 5.0, SLOW, None)
