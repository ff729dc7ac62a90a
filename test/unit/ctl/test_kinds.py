"""Names of kinds and cells of columns."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dpf.ctl.kinds import age, kind_of, row
from dpf.runtime.errors import ConfigError
from dpf.runtime.meta import now
from dpf_api.dpu import DPU
from dpf_api.dpuset import DPUSet
from test.unit.ctl.objects import dpu


@pytest.mark.parametrize("word", ["dpu", "dpus", "DPU", "dpus.provisioning.dpu.nvidia.com"])
def test_a_kind_has_the_names_that_kubectl_takes(word: str) -> None:
    assert kind_of(word) is DPU
    assert kind_of("dpuset") is DPUSet


def test_an_unknown_kind_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="dpusets, dpus, bfbs"):
        kind_of("pods")


def test_cells_are_those_of_the_printer_columns() -> None:
    cells = row(dpu("a"), wide=False, namespace=True)
    assert list(cells) == ["namespace", "name", "Ready", "Phase", "Node", "BFB", "Cluster", "Reason", "Age"]
    assert (cells["Ready"], cells["Phase"], cells["Node"], cells["Age"]) == ("True", "Ready", "a", "")
    assert row(dpu("a"), wide=True, namespace=False)["PCI"] == "0000-04-00"


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5s"), (119, "119s"), (125, "2m5s"), (700, "11m"), (8000, "2h"), (200000, "2d")]
)
def test_ages_are_as_kubectl_writes_them(seconds: int, text: str) -> None:
    assert age(now() - timedelta(seconds=seconds)) == text
