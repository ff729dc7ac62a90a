"""What a scrape shows of objects and of what was done."""

from __future__ import annotations

from collections import Counter
from time import process_time
from typing import Any

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dpf.provisioning.metrics import BFBS, DPUCLUSTERS, DPUS, Counts, Kind, exposition, object_metrics
from dpf.runtime.client import Client
from dpf.runtime.cluster import Cluster
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.metrics import Metrics
from dpf_api import bfb, dpu, dpucluster

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
CONDITIONS = ("Initialized", "NodeEffectReady", "BFBReady", "DMSRunning", "OSInstalled", "Rebooted", "Ready")
AT = "2026-01-02T03:04:05Z"
SECONDS = 1767323045.0


def card(name: str = "d1", **status: Any) -> bytes:
    conditions = [{"type": kind, "status": "True", "reason": kind, "lastTransitionTime": AT} for kind in CONDITIONS]
    meta = {"name": name, "namespace": "ns", "uid": f"uid-{name}", "creationTimestamp": AT}
    body = {"phase": "Ready", "conditions": conditions, "bfbVersion": "x.bfb", "pciDevice": "0000-04-00"} | status
    return orjson.dumps({"metadata": meta, "spec": {"nodeName": "worker1"}, "status": body})


async def shown(kind: Kind, *raws: bytes) -> Samples:
    text = "".join([part async for part in exposition(kind, raws, Counter())])
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, metric: str, /, **labels: str) -> float:
    return samples[metric, frozenset(({"name": "d1", "namespace": "ns", "uid": "uid-d1"} | labels).items())]


async def test_a_dpu_is_shown_as_kube_state_metrics_would() -> None:
    samples = await shown(DPUS, card(firmware={"bmc": "1", "uefi": "3"}))
    about = {"bfb_version": "x.bfb", "pci_device": "0000-04-00", "firmware": "bmc=1,uefi=3", "node_name": "worker1"}
    assert value(samples, "dpu_created") == SECONDS
    assert value(samples, "dpu_info", **about) == 1
    assert value(samples, "dpu_status_conditions", type="Ready", status="True") == 1
    assert value(samples, "dpu_status_conditions", type="Ready", status="False") == 0
    assert value(samples, "dpu_status_conditions", type="Ready", status="Unknown") == 0
    since = value(samples, "dpu_status_condition_last_transition_time", type="Ready", status="True")
    assert since == SECONDS


@pytest.mark.parametrize(
    ("kind", "phases"),
    [(DPUS, dpu.Phase), (BFBS, bfb.Phase), (DPUCLUSTERS, dpucluster.Phase)],
    ids=["dpu", "bfb", "dpucluster"],
)
async def test_every_phase_is_shown_and_one_of_them_holds(kind: Kind, phases: Any) -> None:
    samples = await shown(kind, card(phase="Ready"))
    name = f"{kind.prefix}_status_phase"
    found = {dict(labels)["phase"]: number for (metric, labels), number in samples.items() if metric == name}
    assert found == {phase.value: float(phase.value == "Ready") for phase in phases}


async def test_what_has_no_status_yet_is_in_its_first_phase() -> None:
    raw = orjson.dumps({"metadata": {"name": "d1", "namespace": "ns", "uid": "uid-d1"}, "spec": {}})
    assert value(await shown(DPUS, raw), "dpu_status_phase", phase="Initializing") == 1


async def test_a_cluster_and_an_image_are_shown_too() -> None:
    meta = {"name": "d1", "namespace": "ns", "uid": "uid-d1", "creationTimestamp": AT}
    endpoint = {"keepalived": {"vip": "10.0.0.9"}}
    spec = {"type": 'a"\\\n/b', "maxNodes": 7, "version": "v1.30.2", "clusterEndpoint": endpoint}
    samples = await shown(DPUCLUSTERS, orjson.dumps({"metadata": meta, "spec": spec, "status": {"phase": "Ready"}}))
    about = {"type": 'a"\\\n/b', "max_nodes": "7", "version": "v1.30.2", "keepalived_virtual_ip": "10.0.0.9"}
    assert value(samples, "dpucluster_info", **about) == 1
    samples = await shown(BFBS, orjson.dumps({"metadata": meta, "spec": {"url": "u"}, "status": {"phase": "Error"}}))
    assert value(samples, "bfb_info") == 1
    assert value(samples, "bfb_status_phase", phase="Error") == 1
    assert not [name for name, _ in samples if "condition" in name]


@pytest.mark.parametrize(
    "malformed",
    [
        b"{",
        b"[]",
        card("bad", conditions=[{"type": "Ready", "status": "True", "lastTransitionTime": "yesterday"}]),
        card("bad", phase=5),
    ],
)
async def test_an_object_that_cannot_be_read_is_left_out_and_counted_and_all_others_are_shown(
    monkeypatch: pytest.MonkeyPatch, malformed: bytes
) -> None:
    cluster = Cluster("host", Client(Kubeconfig("http://host"), field_owner="test"))
    collect = object_metrics(cluster, lambda: True)
    monkeypatch.setattr(cluster.cache[dpu.DPU], "raws", lambda: iter([malformed, card()]))
    text = "".join([part async for part in collect()])
    assert 'dpu_info{name="d1"' in text
    assert 'name="bad"' not in text
    assert 'dpf_objects_left_out{kind="dpu"} 1\n' in text
    assert 'dpf_objects_left_out{kind="bfb"} 0\n' in text


async def test_a_thousand_dpus_cost_less_than_a_tenth_of_a_second() -> None:
    raws = [card(f"worker{number}-0000-04-00") for number in range(1000)]

    async def cost() -> float:
        started = process_time()
        async for _ in exposition(DPUS, raws, Counter()):
            pass
        return process_time() - started

    assert min([await cost() for _ in range(3)]) < 0.1


async def test_what_was_done_is_counted() -> None:
    counts, metrics = Counts(), Metrics()
    metrics.add(counts.collect)
    counts.installs["success"] += 2
    counts.install_seconds.observe(70.0)
    counts.reboots["WARM"] += 1
    counts.downloaded_bytes += 5
    text = b"".join([piece async for piece in metrics.scrape()]).decode()
    for line in (
        'dpf_dpu_installs_total{outcome="success"} 2.0',
        'dpf_dpu_installs_total{outcome="failure"} 0.0',
        'dpf_dpu_install_duration_seconds_bucket{le="120.0"} 1.0',
        "dpf_dpu_install_duration_seconds_sum 70.0",
        'dpf_host_reboots_total{method="WARM"} 1.0',
        'dpf_bfb_downloads_total{outcome="success"} 0.0',
        "dpf_bfb_downloaded_bytes_total 5.0",
    ):
        assert line in text.splitlines()
