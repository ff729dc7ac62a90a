"""What is read into the models and what they write."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
import yaml

from dpf.runtime.meta import ObjectMeta, to_wire
from dpf_api import names
from dpf_api.bfb import BFB
from dpf_api.dpu import DPU, DPUSpec, DPUStatus, Install, Phase
from dpf_api.dpucluster import ClusterEndpoint, DPUCluster, DPUClusterSpec, Keepalived
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.dpuset import DPUSet, DPUTemplateSpec
from dpf_api.nodeeffect import Drain, NodeEffect, Taint
from dpf_api.nodemaintenance import NodeMaintenanceSpec
from dpf_api.operatorconfig import DPFOperatorConfig

ROOT = Path(__file__).resolve().parents[3]
SAMPLES = [
    (path.name, document)
    for path in sorted((ROOT / "config" / "samples").glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for document in yaml.safe_load_all(path.read_text())
]
KINDS = {kind.RESOURCE.kind: kind for kind in (BFB, DPU, DPUCluster, DPUFlavor, DPUSet)}


@pytest.mark.parametrize(("name", "document"), SAMPLES, ids=[name for name, _ in SAMPLES])
def test_sample_is_read_and_written_back_without_loss(name: str, document: dict[str, Any]) -> None:
    assert to_wire(KINDS[document["kind"]].model_validate(document)) == document


def test_there_is_a_sample_of_each_kind() -> None:
    assert {document["kind"] for _, document in SAMPLES} == set(KINDS)


def test_false_is_sent_where_it_was_set() -> None:
    effect = NodeEffect(drain=Drain(automatic_node_reboot=False))
    dpu = DPU(spec=DPUSpec(node_name="n", bfb="b", automatic_node_reboot=False, node_effect=effect))
    assert to_wire(dpu)["spec"] == {
        "nodeName": "n",
        "bfb": "b",
        "automaticNodeReboot": False,
        "nodeEffect": {"drain": {"automaticNodeReboot": False}},
    }
    assert to_wire(DPUTemplateSpec(automatic_node_reboot=False)) == {"automaticNodeReboot": False}


def test_what_was_not_set_is_not_sent() -> None:
    assert to_wire(DPU(metadata=ObjectMeta(name="d"), spec=DPUSpec(node_name="n", bfb=""))) == {
        "apiVersion": "provisioning.dpu.nvidia.com/v1alpha1",
        "kind": "DPU",
        "metadata": {"name": "d"},
        "spec": {"nodeName": "n", "bfb": ""},
    }
    assert "spec" not in to_wire(DPUFlavor())


def test_a_reader_sees_the_servers_defaults_where_nothing_is_stored() -> None:
    dpu = DPU.model_validate({"spec": {"nodeName": "n", "bfb": "b"}})
    assert dpu.status.phase is Phase.INITIALIZING
    assert dpu.spec.automatic_node_reboot
    assert dpu.spec.node_effect.drain == Drain(automatic_node_reboot=True)
    assert dpu.spec.cluster.name == ""
    assert DPUCluster().spec.max_nodes == 1000
    assert DPFOperatorConfig().spec.networking.high_speed_mtu == 1500


def test_phases_with_blanks_are_read_and_written() -> None:
    dpu = DPU.model_validate({"status": {"phase": "Host Network Configuration"}})
    assert dpu.status.phase is Phase.HOST_NETWORK_CONFIGURATION
    assert to_wire(DPUStatus(phase=Phase.OS_INSTALLING)) == {"phase": "OS Installing"}


def test_names_with_abbreviations_are_spelled_as_the_api_does() -> None:
    assert to_wire(Install(config_sha256="c", boot_id="b")) == {"configSHA256": "c", "bootID": "b"}
    assert to_wire(NodeMaintenanceSpec(requestor_id="r")) == {"requestorID": "r"}
    keepalived = Keepalived(vip="192.0.2.1", virtual_router_id=1, interface="eth0")
    spec = DPUClusterSpec(cluster_endpoint=ClusterEndpoint(keepalived=keepalived))
    assert to_wire(spec)["clusterEndpoint"]["keepalived"]["virtualRouterID"] == 1


def test_fields_of_a_newer_server_are_ignored() -> None:
    assert BFB.model_validate({"spec": {"url": "http://x/y.bfb", "mirror": "z"}}).spec.url == "http://x/y.bfb"


def test_amounts_keep_the_form_they_were_written_in() -> None:
    spec = {"dpuResources": {"cpu": 16, "memory": "16Gi"}}
    assert to_wire(DPUFlavor.model_validate({"spec": spec}))["spec"] == spec


@pytest.mark.parametrize("word", names.BOOLEANS)
def test_annotation_spells_a_boolean(word: str) -> None:
    assert names.parse_bool(word) == (word.lower() in {"1", "t", "true"})


def test_annotation_that_is_no_boolean_is_an_error() -> None:
    with pytest.raises(ValueError, match="'yes' is not a boolean"):
        names.parse_bool("yes")


def test_importing_a_kind_imports_no_client() -> None:
    script = (
        "import sys, dpf_api.dpu; print(*sorted(m for m in sys.modules if m in ('aiohttp', 'yaml', 'dpf_api.bfb')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("moment", "written"),
    [
        ("2026-01-01T02:00:00+02:00", "2026-01-01T00:00:00Z"),
        ("2026-01-01T00:00:00", "2026-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59-14:00", "9999-01-01T00:00:00Z"),
        ("0001-01-01T00:00:00+14:00", "0002-01-01T00:00:00Z"),
    ],
)
def test_moments_are_read_in_utc_whatever_their_zone(moment: str, written: str) -> None:
    """Found by fuzzing: one that no calendar has in UTC could be read and not be written, and one at its end not be added to."""
    taint = Taint.model_validate({"key": "k", "effect": "NoSchedule", "timeAdded": moment})
    assert to_wire(taint)["timeAdded"] == written
    assert taint.time_added is not None
    assert taint.time_added.tzinfo is UTC
