"""What the programs on a host take and refuse on their command lines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dpf.hostnetwork.decide import Wanted
from dpf.runtime.errors import ConfigError
from dpf.runtime.options import parse
from dpf_cmd import dpu_detector, hostnetwork


def wanted(*flags: str, **environment: str) -> Wanted:
    options = parse(hostnetwork.Options, flags, prog="hostnetwork", description="")
    return options.wanted(environment)


def test_the_pods_variables_are_the_flags_defaults() -> None:
    pod = {"device_pci_address": "0000:90:00", "num_of_vfs": "46", "vf_mtu": "9000"}
    assert wanted(**pod) == Wanted("0000:90:00", 46, 9000, "br-dpu")
    assert wanted("--vf-mtu", "0", "--num-of-vfs=2", **pod) == Wanted("0000:90:00", 2, 0)
    assert wanted(device_pci_address="0000:90:00", num_of_vfs="", vf_mtu="") == Wanted("0000:90:00", 16, 1500)
    assert wanted("--device-pci-address", "10000:E1:00").slot == "10000:e1:00"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "device_pci_address is empty: set it"),
        ({"device_pci_address": "90:00"}, "no PCI address: write domain, bus and device"),
        ({"device_pci_address": "0000:90:00.0"}, "no PCI address"),
        ({"device_pci_address": "../../etc"}, "no PCI address"),
        ({"device_pci_address": "0000:90:00", "num_of_vfs": "many"}, "num_of_vfs 'many' is no whole number"),
        ({"device_pci_address": "0000:90:00", "num_of_vfs": "0"}, "must be 1 or more"),
        ({"device_pci_address": "0000:90:00", "vf_mtu": "9217"}, "not 0 nor between 68 and 9216"),
        ({"device_pci_address": "0000:90:00", "vf_mtu": "-1"}, "no whole number"),
    ],
)
def test_what_can_not_be_done_is_refused_with_what_to_do(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        wanted(**environment)


def test_a_pod_that_asks_for_nothing_ends_with_one_line(tmp_path: Path) -> None:
    words = tmp_path / "termination-log"
    words.touch()
    environment = {name: value for name, value in os.environ.items() if name != "device_pci_address"}
    command = [sys.executable, "-m", "dpf_cmd.hostnetwork", "--termination-log", str(words)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert words.read_text().count("\n") == ended.stderr.count("\n") == 1
    assert "device_pci_address is empty" in words.read_text()
    assert "device_pci_address is empty" in ended.stderr


def detector(*flags: str) -> dpu_detector.Options:
    return parse(dpu_detector.Options, flags, prog="dpu-detector", description="")


def test_the_detector_takes_the_flags_that_manifests_give_upstreams() -> None:
    assert not detector().collector_psid
    assert detector("--collector.PSID=true").collector_psid
    assert not detector("--collector.PSID=false").collector_psid
    given = detector("--logtostderr=true", "--alsologtostderr", "-v=4", "--stderrthreshold=INFO", "--log_dir=/tmp")
    assert given.glog.level(given.log_level) == "debug"
    assert detector("--v=2").glog.level("info") == "info"
