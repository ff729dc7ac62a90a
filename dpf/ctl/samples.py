"""The manifests of ``config/samples``, made fit for one sandbox."""

from __future__ import annotations

from typing import Any

from dpf.sandbox.layout import NAMESPACE, CardAddress
from dpf.sandbox.manifests import CONFIG, documents
from dpf.sandbox.settings import Settings
from dpf_api.dpucluster import TYPE_KAMAJI
from dpf_api.names import LABEL_DPU_ENABLED, label_card


def samples(settings: Settings) -> list[dict[str, Any]]:
    """A DPUSet of all cards after the BFB and the DPUFlavor that it names."""
    found = {(obj["kind"], obj["metadata"]["name"]): fitted(obj, settings) for obj in documents(CONFIG / "samples")}
    dpuset = next(obj for (kind, _), obj in found.items() if kind == "DPUSet")
    template = dpuset["spec"]["dpuTemplate"]["spec"]
    return [found["BFB", template["bfb"]["name"]], found["DPUFlavor", template["dpuFlavor"]], dpuset]


def kamaji_cluster(settings: Settings) -> dict[str, Any]:
    """A DPUCluster of type kamaji, to which cards are given before the sandbox's static one."""
    kinds = (obj for obj in documents(CONFIG / "samples") if obj["kind"] == "DPUCluster")
    return fitted(next(obj for obj in kinds if obj["spec"]["type"] == TYPE_KAMAJI), settings)


def fitted(manifest: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """A sample with the sandbox's namespace, image and cards."""
    obj = {**manifest, "metadata": {**manifest["metadata"], "namespace": NAMESPACE}}
    spec = dict(manifest.get("spec") or {})
    if obj["kind"] == "BFB":
        spec["url"] = settings.bfb_url
    if obj["kind"] == "DPUCluster":
        # The first in order of name is filled first. Hosts of a sandbox are no control-plane nodes, so nobody could hold a VIP.
        obj["metadata"]["name"] = "dpu-cluster-0"
        spec.pop("clusterEndpoint", None)
    if obj["kind"] == "DPUSet":
        # Without a selector a DPUSet takes the first card of each host; so each slot is named.
        slots = [CardAddress("", index) for index in range(settings.dpus_per_host)]
        spec["nodeSelector"] = {"matchLabels": {LABEL_DPU_ENABLED: "true"}}
        spec["dpuSelector"] = {label_card(slot.index, "pci-address"): slot.pci for slot in slots}
    return {**obj, "spec": spec}
