"""Where a pod must run, and for which card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpf.sandbox.fleet.containers import Container
from dpf.sandbox.fleet.hosts import Host
from dpf.sandbox.fleet.maintenance import needs_answer
from dpf.sandbox.fleet.pods import card_name, target
from dpf.sandbox.fleet.podworker import Backoff


def affinity(*values: str) -> dict[str, Any]:
    field = {"key": "metadata.name", "operator": "In", "values": list(values)}
    required = {"nodeSelectorTerms": [{"matchFields": [field]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def test_pod_goes_where_its_affinity_says() -> None:
    assert target({"spec": {"affinity": affinity("worker1")}}) == "worker1"


def test_bound_pod_stays_where_it_is() -> None:
    assert target({"spec": {"nodeName": "worker2", "affinity": affinity("worker1")}}) == "worker2"


def test_pod_that_may_run_anywhere_is_left_alone() -> None:
    assert target({"spec": {}}) == ""
    assert target({"spec": {"affinity": affinity("worker1", "worker2")}}) == ""


def test_pod_belongs_to_the_card_of_the_dpu_that_controls_it() -> None:
    owner = {"kind": "DPU", "name": "worker1-0000-04-00", "controller": True}
    assert card_name({"metadata": {"ownerReferences": [{"kind": "Other", "name": "x"}, owner]}}) == "worker1-0000-04-00"
    assert card_name({"metadata": {}}) == ""


def container(spec: dict[str, Any]) -> Container:
    pod = {"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"nodeName": "worker1"}}
    mounts = {"/bfb": Path("/data/bfb")}
    host = Host("worker1", "127.16.0.1", [], Path("/nowhere"), 0.0)
    return Container(pod, spec, host, None, Path("/run/fleet.sock"), mounts, Path("/log"))


def test_image_is_known_by_its_plain_name() -> None:
    for image in ("dms", "registry:5000/team/dms:v1", "dms@sha256:0123"):
        assert container({"image": image}).image == "dms"


def test_arguments_are_made_fit_for_the_machine() -> None:
    spec = {
        "args": ["--bind-address", "$(POD_IP):9339", "--listen=0.0.0.0:9340", "--image-folder=/bfb", "$(UNKNOWN)"],
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
    }
    assert container(spec).arguments() == [
        "--bind-address",
        "127.16.0.1:9339",
        "--listen=127.16.0.1:9340",
        "--image-folder=/data/bfb",
        "$(UNKNOWN)",
    ]


def test_backoff_doubles_up_to_its_limit() -> None:
    backoff = Backoff(first=1.0, longest=5.0)
    assert [backoff.after(crashes) for crashes in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_maintenance_is_answered_once_and_for_simulated_hosts_only() -> None:
    fresh: dict[str, Any] = {"metadata": {"name": "m"}, "spec": {"nodeName": "worker1"}}
    assert needs_answer(fresh, {"worker1"})
    assert not needs_answer(fresh, {"worker2"})
    assert not needs_answer({**fresh, "metadata": {"deletionTimestamp": "now"}}, {"worker1"})
    assert not needs_answer({**fresh, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}, {"worker1"})
