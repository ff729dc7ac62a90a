"""What the stand-in for Kamaji writes."""

from __future__ import annotations

from typing import Any

from dpf.sandbox.kamaji import objects
from dpf.sandbox.kamaji.objects import Wanted

OWN = "127.16.15.255"


def control_plane(address: str = "", version: str = "v1.30.2", running: str = "") -> dict[str, Any]:
    status = {"kubernetesResources": {"version": {"version": running, "status": "Ready"}}} if running else {}
    return {
        "metadata": {"name": "c", "namespace": "n", "uid": "u"},
        "spec": {
            "controlPlane": {"service": {"additionalMetadata": {"labels": {"own": "1"}}}},
            "kubernetes": {"version": version},
            "networkProfile": {"address": address, "port": 31000},
        },
        "status": status,
    }


def service() -> dict[str, Any]:
    owner = {"kind": "DPUCluster", "uid": "d"}
    return {
        "metadata": {
            "name": "c",
            "resourceVersion": "5",
            "labels": {"own": "1", "else": "2"},
            "ownerReferences": [owner],
        },
        "spec": {"ports": [{"name": "kube-apiserver", "port": 6443, "nodePort": 31000}]},
    }


def test_an_address_of_this_machine_is_served_and_for_any_other_the_sandboxes_own() -> None:
    assert objects.wanted(control_plane("127.0.0.9"), OWN) == Wanted("127.0.0.9", 31000, "v1.30.2")
    assert objects.wanted(control_plane("192.0.2.1"), OWN).address == OWN
    assert objects.wanted(control_plane("a.example"), OWN).address == OWN


def test_a_service_is_taken_over_once_and_keeps_its_other_owners() -> None:
    patch = objects.taken_over(service(), control_plane())
    assert patch["spec"]["ports"] == [
        {"name": "kube-apiserver", "protocol": "TCP", "port": 31000, "targetPort": 31000, "nodePort": 31000}
    ]
    assert patch["metadata"]["resourceVersion"] == "5"
    assert [owner["kind"] for owner in patch["metadata"]["ownerReferences"]] == ["DPUCluster", "TenantControlPlane"]
    # Kamaji takes off the Service what its TenantControlPlane does not name.
    assert (patch["metadata"]["labels"]["own"], patch["metadata"]["labels"]["else"]) == ("1", None)
    labels = {key: value for key, value in patch["metadata"]["labels"].items() if value is not None}
    done = {
        "metadata": {**service()["metadata"], **patch["metadata"], "labels": labels},
        "spec": patch["spec"],
    }
    assert objects.taken_over(done, control_plane()) == {}


def test_the_state_tells_a_first_start_from_an_upgrade_and_from_a_restart() -> None:
    def state(running: str) -> str | None:
        begun = objects.begun(control_plane(running=running), Wanted(OWN, 31000, "v1.30.2"))
        return begun["status"]["kubernetesResources"]["version"]["status"] if begun else None

    assert (state(""), state("v1.29.0"), state("v1.30.2")) == ("Provisioning", "Upgrading", None)
