"""What a real API server makes of the samples."""

from __future__ import annotations

from pathlib import Path

import yaml

from dpf_api.bfb import BFB
from dpf_api.dpu import DPU
from dpf_api.dpucluster import DPUCluster
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.dpuset import DPUSet
from test.integration.api.rules import Server
from test.spec import spec

SAMPLES = [
    path
    for path in sorted((Path(__file__).resolve().parents[3] / "config" / "samples").glob("*.yaml"))
    if path.name != "kustomization.yaml"
]


@spec("provisioning:14", "provisioning:24", "provisioning:32", "provisioning:44", "provisioning:55")
async def test_samples_are_accepted_as_they_are(server: Server) -> None:
    kinds = {kind.RESOURCE.kind: kind for kind in (BFB, DPU, DPUCluster, DPUFlavor, DPUSet)}
    for path in SAMPLES:
        document = yaml.safe_load(path.read_text())
        await server.create(kinds[document["kind"]], document["metadata"]["name"], spec=document["spec"])
