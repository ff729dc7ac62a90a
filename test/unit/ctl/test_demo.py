"""What the demo understands of the DPUs that it watches."""

from __future__ import annotations

from typing import Any

import pytest

from dpf.ctl.demo import DemoFailed, Journey, check, requests
from dpf.ctl.output import Clock


def dpu(name: str, phase: str, message: str = "") -> dict[str, Any]:
    condition = {"type": "Ready", "status": "False", "message": message}
    status = {"phase": phase, "conditions": [condition] if message else []}
    return {"metadata": {"name": name}, "spec": {"nodeName": "worker1"}, "status": status}


def test_only_new_phases_are_news() -> None:
    journey = Journey(Clock())
    assert journey.observe(dpu("a", "Pending"))
    assert not journey.observe(dpu("a", "Pending"))
    assert journey.observe(dpu("a", "Ready"))
    assert journey.ready == 1


def test_row_says_what_a_dpu_waits_for() -> None:
    journey = Journey(Clock())
    journey.observe(dpu("a", "Pending", "waiting for BFB x"))
    assert journey.rows()[0]["waits for"] == "waiting for BFB x"


def test_dpu_in_error_is_an_error_with_its_reason() -> None:
    journey = Journey(Clock())
    journey.observe(dpu("a", "Error", "write failed"))
    assert journey.errors == ["a: write failed"]


def test_summary_has_the_time_per_phase() -> None:
    journey = Journey(Clock())
    for phase in ("Pending", "OS Installing", "Ready"):
        journey.observe(dpu("a", phase))
    assert "1 DPUs are Ready " in journey.summary()
    assert "OS Installing" in journey.summary()


def test_all_lines_have_the_time_of_one_clock_and_the_summary_says_how_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = iter([0.0, 10.0, 12.5, 14.0])
    monkeypatch.setattr("dpf.ctl.output.monotonic", lambda: next(times))
    journey = Journey(Clock())
    for phase in ("Pending", "Ready"):
        journey.observe(dpu("a", phase))
        journey.tell(dpu("a", phase))
    assert capsys.readouterr().out == "   12.5 s  a  Pending\n   14.0 s  a  Ready\n"
    assert "1 DPUs are Ready 4.0 s after the DPUSet was applied." in journey.summary()
    assert journey.rows()[0]["at"] == "14.0 s"


def card(**other: Any) -> dict[str, Any]:
    return {"dpu": "a", "installs": 1, "activates": 1, "hostReboots": 1, "joins": 1} | other


def test_everything_is_as_it_should_be_when_all_was_done_once() -> None:
    check([card()], [{"name": "fleet", "restarts": 0}, {"name": "a-dms", "restarts": 1}])


@pytest.mark.parametrize("what", ["installs", "activates", "hostReboots", "joins"])
def test_a_card_to_which_something_was_done_twice_fails_the_demo(what: str) -> None:
    with pytest.raises(DemoFailed, match="exactly once"):
        check([card(), card(**{what: 2})], [])


def test_a_manager_that_had_to_be_restarted_fails_the_demo() -> None:
    with pytest.raises(DemoFailed, match="provisioning-manager"):
        check([card()], [{"name": "provisioning-manager", "restarts": 1}])


METRICS = """\
# TYPE apiserver_request_total counter
apiserver_request_total{code="200",resource="pods",verb="GET",version="v1"} 5
apiserver_request_total{code="200",resource="dpus",verb="PATCH",version="v1alpha1"} 1.2e+03
apiserver_request_total{code="201",resource="pods",verb="PATCH",version="v1"} 7
apiserver_request_total{code="0",resource="pods",verb="WATCH",version="v1"} 9
apiserver_request_duration_seconds_count{verb="GET"} 99
"""


class Server:
    """An API server that has only metrics."""

    async def text(self, path: str) -> str:
        assert path == "/metrics"
        return METRICS


async def test_requests_are_counted_by_verb_without_streams() -> None:
    assert await requests(Server()) == {"GET": 5.0, "PATCH": 1207.0}  # type: ignore[arg-type]
