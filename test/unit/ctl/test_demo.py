"""What the demo understands of the DPUs that it watches."""

from __future__ import annotations

from typing import Any

from dpf.ctl.demo import Journey


def dpu(name: str, phase: str, message: str = "") -> dict[str, Any]:
    condition = {"type": "Ready", "status": "False", "message": message}
    status = {"phase": phase, "conditions": [condition] if message else []}
    return {"metadata": {"name": name}, "spec": {"nodeName": "worker1"}, "status": status}


def test_only_new_phases_are_news() -> None:
    journey = Journey()
    assert journey.observe(dpu("a", "Pending"))
    assert not journey.observe(dpu("a", "Pending"))
    assert journey.observe(dpu("a", "Ready"))
    assert journey.ready == 1


def test_row_says_what_a_dpu_waits_for() -> None:
    journey = Journey()
    journey.observe(dpu("a", "Pending", "waiting for BFB x"))
    assert journey.rows()[0]["waits for"] == "waiting for BFB x"


def test_dpu_in_error_is_an_error_with_its_reason() -> None:
    journey = Journey()
    journey.observe(dpu("a", "Error", "write failed"))
    assert journey.errors == ["a: write failed"]


def test_summary_has_the_time_per_phase() -> None:
    journey = Journey()
    for phase in ("Pending", "OS Installing", "Ready"):
        journey.observe(dpu("a", phase))
    assert "1 DPUs are Ready" in journey.summary()
    assert "OS Installing" in journey.summary()
