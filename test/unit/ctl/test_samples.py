"""The samples fit the sandbox that they are printed for."""

from __future__ import annotations

from dpf.ctl.samples import samples
from dpf.sandbox.fleet.cardstate import Durations
from dpf.sandbox.layout import NAMESPACE
from dpf.sandbox.settings import Settings

SETTINGS = Settings(4, 2, "127.16.0.0", Durations(), in_process=False, bfb_url="http://127.0.0.1:1/x.bfb")


def test_samples_are_a_bfb_a_flavor_and_a_set_of_all_cards() -> None:
    bfb, flavor, dpuset = samples(SETTINGS)
    assert [obj["kind"] for obj in (bfb, flavor, dpuset)] == ["BFB", "DPUFlavor", "DPUSet"]
    assert {obj["metadata"]["namespace"] for obj in (bfb, flavor, dpuset)} == {NAMESPACE}
    assert bfb["spec"]["url"] == SETTINGS.bfb_url
    assert dpuset["spec"]["dpuSelector"] == {
        "feature.node.kubernetes.io/dpu-0-pci-address": "0000-04-00",
        "feature.node.kubernetes.io/dpu-1-pci-address": "0000-05-00",
    }
