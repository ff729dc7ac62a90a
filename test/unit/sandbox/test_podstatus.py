"""A pod's status looks as a kubelet would write it."""

from __future__ import annotations

from typing import Any

from dpf.sandbox.fleet.podstatus import ContainerReport, Exit, pod_status

POD: dict[str, Any] = {
    "spec": {"initContainers": [{"name": "prepare", "image": "dms"}], "containers": [{"name": "dms"}]}
}
SINCE = "2026-01-01T00:00:00Z"


def status(report: ContainerReport) -> dict[str, Any]:
    return pod_status(POD, "127.16.0.1", [report], SINCE)


def ready(found: dict[str, Any]) -> str:
    return next(str(condition["status"]) for condition in found["conditions"] if condition["type"] == "Ready")


def test_pod_that_is_being_created_is_pending() -> None:
    found = status(ContainerReport("dms", "dms"))
    assert (found["phase"], ready(found)) == ("Pending", "False")
    assert found["containerStatuses"][0]["state"] == {"waiting": {"reason": "ContainerCreating"}}


def test_running_pod_has_its_hosts_address_and_is_ready() -> None:
    found = status(ContainerReport("dms", "dms", ready=True, started=SINCE))
    assert (found["phase"], found["podIP"], found["hostIP"], ready(found)) == (
        "Running",
        "127.16.0.1",
        "127.16.0.1",
        "True",
    )
    assert found["containerStatuses"][0]["state"] == {"running": {"startedAt": SINCE}}


def test_crash_looping_container_says_why_it_waits_and_how_it_ended() -> None:
    report = ContainerReport("dms", "dms", restarts=2, waiting="CrashLoopBackOff", last=Exit(137, SINCE, SINCE))
    container = status(report)["containerStatuses"][0]
    assert container["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert container["lastState"]["terminated"]["exitCode"] == 137
    assert container["restartCount"] == 2


def test_init_containers_are_done() -> None:
    done = status(ContainerReport("dms", "dms"))["initContainerStatuses"]
    assert [(each["name"], each["state"]["terminated"]["exitCode"]) for each in done] == [("prepare", 0)]
