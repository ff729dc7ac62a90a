"""The two pods of a DPU."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from dpf.hostnetwork.decide import Wanted
from dpf.provisioning.dpu import dmspod, hostnetworkpod
from dpf.provisioning.settings import Settings
from dpf.runtime.errors import ConfigError, Waiting
from dpf.runtime.meta import to_wire
from dpf.runtime.options import parse
from dpf_api.dpu import DPU
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.names import LABEL_DPU_PCI_ADDRESS
from dpf_api.operatorconfig import DPFOperatorConfig
from dpf_cmd import hostnetwork
from dpf_cmd.dms import Options as DmsOptions
from dpf_cmd.provisioning_manager import Options
from test.spec import spec
from test.unit.provisioning.worlds import dpu, host, pod

SETTINGS = Settings(dms_image="reg/dms:1", hostnetwork_image="reg/hn:1", bfb_pvc="bfb", image_pull_secrets=("a", "b"))


def with_pci(pci: str) -> DPU:
    made = dpu()
    labels = {LABEL_DPU_PCI_ADDRESS: pci}
    return made.model_copy(update={"metadata": made.metadata.model_copy(update={"labels": labels})})


@spec("provisioning:92")
def test_a_dpu_without_a_host_has_no_pod() -> None:
    with pytest.raises(Waiting, match="names no host"):
        dmspod.build(dpu(nodeName=""), SETTINGS)


def test_a_dpu_without_an_address_has_no_pod() -> None:
    bare = dpu(pciAddress="")
    bare = bare.model_copy(update={"metadata": bare.metadata.model_copy(update={"labels": {}})})
    with pytest.raises(Waiting, match="dpu-pciAddress"):
        dmspod.build(bare, SETTINGS)


@spec("provisioning:94")
def test_the_dms_pod_belongs_to_its_dpu_and_to_its_host() -> None:
    body = to_wire(dmspod.build(dpu(), SETTINGS, 9340))
    assert body["metadata"]["name"] == "d1-dms"
    assert body["metadata"]["ownerReferences"][0]["kind"] == "DPU"
    assert body["metadata"]["ownerReferences"][0]["name"] == "d1"
    pod = body["spec"]
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert terms == [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["worker1"]}]}]
    assert "nodeName" not in pod
    assert pod["hostNetwork"] is True
    assert pod["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]
    assert [volume["name"] for volume in pod["volumes"]] == ["server-volume", "bfb", "state", "dev"]
    assert pod["containers"][0]["ports"] == [{"containerPort": 9340}]
    assert "0.0.0.0:9340" in pod["containers"][0]["args"]
    assert "0000:04:00" in pod["containers"][0]["args"]
    assert parse(DmsOptions, pod["containers"][0]["args"], prog="dms", description="").owner == dpu().uid
    assert [c["name"] for c in pod["initContainers"]] == ["rshim-preflight", "devlink-grace-period"]


def test_the_rshim_driver_can_run_in_the_dms_pod() -> None:
    """It makes device files on the host, maps the card's registers and binds kernel drivers by sysfs."""
    pod = to_wire(dmspod.build(dpu(), SETTINGS))["spec"]
    container = pod["containers"][0]
    assert container["securityContext"] == {"privileged": True, "runAsUser": 0, "runAsGroup": 0}
    assert {"name": "dev", "mountPath": "/dev"} in container["volumeMounts"]
    assert {"name": "dev", "hostPath": {"path": "/dev", "type": "Directory"}} in pod["volumes"]
    told = parse(DmsOptions, container["args"], prog="dms", description="")
    assert (told.card, told.target_pci, told.rshim_driver, told.rshim_device) == ("rshim", "0000:04:00", "rshim", None)


def test_the_metrics_of_dms_have_a_port_for_each_card_if_they_are_wanted() -> None:
    container = to_wire(dmspod.build(dpu(), replace(SETTINGS, dms_metrics_port=9440), 9341))["spec"]["containers"][0]
    assert container["ports"] == [{"containerPort": 9341}, {"containerPort": 9442, "name": "dms-metrics"}]
    assert "--metrics-bind-address :9442" in " ".join(container["args"])
    without = to_wire(dmspod.build(dpu(), SETTINGS, 9341))["spec"]["containers"][0]
    assert "--metrics-bind-address" not in without["args"]


@pytest.mark.parametrize("port", [-1, 65535, 9339, 9350])
def test_a_port_where_dms_could_not_show_its_metrics_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match="--dms-metrics-port"):
        Options(dms_metrics_port=port)
    assert Options(dms_metrics_port=9440).settings().dms_metrics_port == 9440


@spec("provisioning:93")
def test_without_a_claim_the_name_is_sent_empty_so_that_the_server_names_it() -> None:
    body = to_wire(dmspod.build(dpu(), Settings()))
    assert {"name": "bfb", "persistentVolumeClaim": {"claimName": ""}} in body["spec"]["volumes"]


def test_a_taint_of_the_dpu_is_tolerated() -> None:
    tainted = dpu(nodeEffect={"taint": {"key": "k", "value": "v", "effect": "NoSchedule"}})
    tolerations = to_wire(dmspod.build(tainted, SETTINGS))["spec"]["tolerations"]
    assert {"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"} in tolerations
    assert len(tolerations) == 5


@spec("provisioning:95")
def test_the_host_network_pod_is_told_address_functions_and_mtu() -> None:
    config = DPFOperatorConfig.model_validate({"spec": {"networking": {"highSpeedMTU": 9000}}})
    body = to_wire(hostnetworkpod.build(with_pci("0000-90-00"), DPUFlavor(), config, SETTINGS))
    assert body["spec"]["containers"][0]["env"] == [
        {"name": "device_pci_address", "value": "0000:90:00"},
        {"name": "num_of_vfs", "value": "16"},
        {"name": "vf_mtu", "value": "9000"},
    ]


def test_the_host_network_pod_runs_the_program_and_shows_what_it_says() -> None:
    container = to_wire(hostnetworkpod.build(with_pci("0000-90-00"), DPUFlavor(), None, SETTINGS))["spec"][
        "containers"
    ][0]
    assert (container["command"], "args" in container) == ([hostnetwork.NAME], False)
    probe = " ".join(container["readinessProbe"]["exec"]["command"])
    assert str(hostnetwork.MARKER) in probe
    assert str(hostnetwork.STATUS) in probe
    asked = {variable["name"]: variable["value"] for variable in container["env"]}
    assert hostnetwork.Options().wanted(asked) == Wanted("0000:90:00", 16, 1500)


def test_a_card_in_another_pci_domain_is_found_there() -> None:
    init = to_wire(dmspod.build(with_pci("0001-90-00"), SETTINGS))["spec"]["initContainers"][1]
    assert init["env"] == [{"name": "PCI_ADDRESS", "value": "90:00"}, {"name": "PCI_DOMAIN", "value": "0001"}]
    asked = to_wire(hostnetworkpod.build(with_pci("0001-90-00"), None, None, SETTINGS))["spec"]["containers"][0]["env"]
    assert asked[0] == {"name": "device_pci_address", "value": "0001:90:00"}


def test_containers_on_the_host_are_root_whatever_user_their_image_names() -> None:
    """Sysfs and ``/dev`` are root's, and a privileged process of another user has no capability to write there."""
    pods = dmspod.build(dpu(), SETTINGS), hostnetworkpod.build(with_pci("0000-90-00"), None, None, SETTINGS)
    bodies = [to_wire(each)["spec"] for each in pods]
    contexts = [
        each["securityContext"] for body in bodies for each in (*body.get("initContainers", ()), *body["containers"])
    ]
    assert contexts == [{"privileged": True, "runAsUser": 0, "runAsGroup": 0}] * 4


@pytest.mark.parametrize(
    ("shown", "held"),
    [
        ("pcie-0001:90:00.2", True),
        ("pcie-90:00.2", True),
        ("pcie-0000:90:00.2", False),
        ("pcie-0001:90:01.2", False),
        ("usb-1.4", False),
    ],
)
def test_the_preflight_stops_for_this_very_card_alone(tmp_path: Path, shown: str, held: bool) -> None:
    (tmp_path / "rshim0").mkdir()
    init = to_wire(dmspod.build(with_pci("0001-90-00"), SETTINGS))["spec"]["initContainers"][0]
    script = init["command"][2].replace("/dev/", f"{tmp_path}/").replace('echo "DISPLAY_LEVEL 1" >', ": #")
    (tmp_path / "rshim0" / "misc").write_text(f"DISPLAY_LEVEL 1\nDEV_NAME {shown} (ro)\n")
    env = {each["name"]: each["value"] for each in init["env"]} | {"PATH": os.environ["PATH"]}
    assert subprocess.run(["/bin/bash", "-c", script], env=env, check=False).returncode == int(held)


def test_virtual_functions_come_from_the_flavor() -> None:
    words = ["PF_TOTAL_SF=20", "NUM_OF_VFS=46"]
    flavor = DPUFlavor.model_validate({"spec": {"nvconfig": [{"parameters": words}]}})
    assert hostnetworkpod.virtual_functions(flavor) == 46
    assert hostnetworkpod.virtual_functions(None) == 16


def test_the_address_of_dms_is_known_when_its_pod_is_ready() -> None:
    assert dmspod.address_of(pod("d1-dms"), None) == "10.0.0.1:9339"
    assert dmspod.address_of(pod("d1-dms", podIP="fd00::1"), None) == "[fd00::1]:9339"
    assert dmspod.address_of(pod("d1-dms", ready=False), host()) == ""


def test_dms_is_reached_where_its_host_is_now() -> None:
    assert dmspod.address_of(pod("d1-dms", podIP="10.0.0.77"), host()) == "10.0.0.1:9339"
    probe = to_wire(dmspod.build(dpu(), SETTINGS, 9340))["spec"]["containers"][0]["readinessProbe"]
    assert probe["tcpSocket"] == {"host": "127.0.0.1", "port": 9340}
