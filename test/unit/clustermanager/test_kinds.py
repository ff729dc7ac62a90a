"""Kamaji's kinds, of which clusters are woken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from dpf.clustermanager.kamaji.kinds import DEFINITION, KamajiKinds
from dpf.clustermanager.kamaji.placement import labels_of
from dpf.runtime.client import Client
from dpf.runtime.cluster import Cluster
from dpf.runtime.k8s import CustomResourceDefinition
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import Key, owner_reference, to_wire
from dpf_api import kamaji
from dpf_api.kamaji import TenantControlPlane
from test.unit.clustermanager.clusters import cluster


def stored(version: int, name: str = "c", namespace: str = "n", meta: Mapping[str, Any] = {}, **body: Any) -> bytes:
    names = {"name": name, "namespace": namespace, "uid": name, "resourceVersion": str(version)}
    return orjson.dumps({"metadata": {**names, **meta}, **body})


def test_a_control_plane_that_loses_label_and_owner_at_once_wakes_the_cluster_that_it_was_of() -> None:
    host = Cluster("host", Client(Kubeconfig("http://host"), field_owner="test"))
    kinds, woken = KamajiKinds(host, "default"), list[Key]()
    kinds.wake = woken.append
    served = {"spec": {"versions": [{"name": kamaji.VERSION, "served": True}]}}
    established = {"status": {"conditions": [{"type": "Established", "status": "True"}]}}
    definition = stored(1, DEFINITION, namespace="", **served, **established)
    host.cache[CustomResourceDefinition].apply("ADDED", definition)
    kinds.require()
    owner = to_wire(owner_reference(cluster(), controller=False, block=False))
    control_planes = host.cache[TenantControlPlane]
    control_planes.apply("ADDED", stored(2, meta={"labels": labels_of(cluster()), "ownerReferences": [owner]}))
    woken.clear()
    control_planes.apply("MODIFIED", stored(3))
    assert woken == [Key("n", "c")]
