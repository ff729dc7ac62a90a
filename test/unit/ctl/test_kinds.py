"""Names of kinds and cells of columns."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dpf.ctl.kinds import age, asked_for, kind_of, of_one_kind, row
from dpf.runtime.errors import ConfigError
from dpf.runtime.meta import now
from dpf_api.bfb import BFB
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


@pytest.mark.parametrize(
    ("words", "objects"),
    [
        ("dpu", [(DPU, [])]),
        ("dpu a b", [(DPU, ["a", "b"])]),
        ("dpu ns/a", [(DPU, ["ns/a"])]),
        ("dpu/a dpus.provisioning.dpu.nvidia.com/b", [(DPU, ["a", "b"])]),
        ("DPU/ns/a", [(DPU, ["ns/a"])]),
        ("dpu/a bfb/x dpus/b", [(DPU, ["a", "b"]), (BFB, ["x"])]),
    ],
)
def test_objects_are_named_behind_their_kind_or_with_it(words: str, objects: object) -> None:
    first, *names = words.split()
    assert asked_for(first, names) == objects


@pytest.mark.parametrize("words", ["dpu/a b", "dpu/", "dpu/a dpu/"])
def test_the_two_ways_to_name_objects_are_not_mixed(words: str) -> None:
    first, *names = words.split()
    with pytest.raises(ConfigError, match="is no KIND/NAME: write KIND NAME"):
        asked_for(first, names)


def test_a_command_about_one_kind_takes_no_others() -> None:
    assert of_one_kind("dpu/a", ["dpus/b"]) == (DPU, ["a", "b"])
    with pytest.raises(ConfigError, match=r"several kinds \(dpus, bfbs\)"):
        of_one_kind("dpu/a", ["bfb/b"])


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
