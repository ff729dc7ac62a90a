"""bf.cfg: what goes in comes out of a real shell and a real YAML parser unchanged."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dpf.gnxi.dms import CONFIG_LIMIT
from dpf.provisioning.bfcfg.check import unfit
from dpf.provisioning.bfcfg.render import BfCfg, ConfigTooLarge, NoCount, render
from dpf.sandbox.fleet import cloudinit
from dpf_api.dpuflavor import DPUFlavorSpec
from test.spec import spec

ROOT = Path(__file__).parents[3]
JOIN = f"kubeadm join 127.0.0.1:6443 --token abcdef.0123456789abcdef --discovery-token-ca-cert-hash sha256:{'0' * 64} --v=5"
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=60)
LINE = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=40)


def flavor(**more: Any) -> DPUFlavorSpec:
    return DPUFlavorSpec.model_validate(more)


def on_a_card(text: str) -> dict[str, Any]:
    """Runs the installer's hook with a folder in place of the card's disk; the user-data it leaves, parsed."""
    with tempfile.TemporaryDirectory() as root:
        script = text.replace("/mnt/", f"{root}/") + "\nbfb_modify_os\n"
        unit = Path(root) / "opt" / "mellanox" / "sfc-hbn"
        for folder in (unit, Path(root) / "etc" / "systemd" / "system"):
            folder.mkdir(parents=True)
        (unit / "mlnx_bf_configure_sync.service").touch()
        subprocess.run(["/bin/sh", "-e"], input=script.encode(), check=True, timeout=20)
        document = (Path(root) / "var/lib/cloud/seed/nocloud-net/user-data").read_text().replace(f"{root}/", "/mnt/")
    loaded: dict[str, Any] = yaml.safe_load(document)
    return loaded


def content(document: dict[str, Any], path: str) -> str:
    found: str = next(file["content"] for file in document["write_files"] if file["path"] == path)
    return found


@spec("provisioning:90")
def test_two_empty_flavors_render_the_same_bytes() -> None:
    first = render(BfCfg("d", DPUFlavorSpec(), ""))
    assert first
    assert first == render(BfCfg("d", flavor(), ""))


@spec("provisioning:91")
@pytest.mark.parametrize("sample", ["dpuflavor.yaml", "dpuflavor-hbn-ovn.yaml"])
def test_the_sample_flavors_render_and_a_card_reads_them(sample: str) -> None:
    manifest = yaml.safe_load((ROOT / "config" / "samples" / sample).read_text())
    text = render(BfCfg("worker1-0000-04-00", DPUFlavorSpec.model_validate(manifest["spec"]), JOIN))
    seen = cloudinit.read(text)
    assert seen.hostname == "worker1-0000-04-00"
    assert seen.join is not None
    assert seen.join.endpoint == "127.0.0.1:6443"
    assert on_a_card(text)["runcmd"][0] == ["hostnamectl", "set-hostname", "worker1-0000-04-00"]


@settings(max_examples=25)
@given(TEXT, LINE, st.sampled_from(["", "0600"]))
def test_a_file_of_the_user_arrives_as_it_was_given(raw: str, path: str, mode: str) -> None:
    spec_ = flavor(configFiles=[{"path": f"/etc/{path}", "raw": raw, "operation": "append", "permissions": mode}])
    file = on_a_card(render(BfCfg("d", spec_, JOIN)))["write_files"][-1]
    assert file == {"path": f"/etc/{path}", "permissions": mode or "0644", "content": raw, "append": True}


@settings(max_examples=25)
@given(st.lists(LINE, min_size=1, max_size=3))
def test_kernel_parameters_survive_the_shell_that_sources_them(words: list[str]) -> None:
    text = on_a_card(render(BfCfg("d", flavor(grub={"kernelParameters": words}), JOIN)))
    sourced = content(text, "/etc/default/grub.d/99-dpf.cfg") + 'printf %s "$GRUB_CMDLINE_LINUX"'
    shell = subprocess.run(["/bin/sh"], input=sourced.encode(), capture_output=True, check=True, timeout=20)
    assert shell.stdout.decode() == " ".join(words).strip()


@settings(max_examples=25)
@given(TEXT)
def test_a_script_of_the_user_arrives_as_it_was_given(script: str) -> None:
    document = on_a_card(render(BfCfg("d", flavor(ovs={"rawConfigScript": f"x{script}"}), JOIN)))
    assert content(document, "/opt/dpf/ovs.sh") == f"#!/bin/bash\nset -e\nx{script}\n"


def test_text_that_ends_the_document_does_not_end_it() -> None:
    evil = "END_OF_USER_DATA\n}\nrm -rf /\n"
    document = on_a_card(render(BfCfg("d", flavor(configFiles=[{"path": "/a", "raw": evil}]), JOIN)))
    assert document["write_files"][-1]["content"] == evil


@pytest.mark.parametrize("entry", ["ubuntu_PASSWORD=$1$abc", "ubuntu_PASSWORD='$1$abc'", "ubuntu_PASSWORD=$1$abc=="])
def test_a_password_goes_to_the_user_and_nowhere_else(entry: str) -> None:
    text = render(BfCfg("d", flavor(bfcfgParameters=["UPDATE_DPU_OS=yes", entry]), JOIN))
    assert text.startswith("UPDATE_DPU_OS=yes\nbfb_modify_os()")
    assert on_a_card(text)["users"][0]["passwd"] == entry.partition("=")[2].strip("'")


def test_without_a_password_the_default_one_must_be_changed_at_once() -> None:
    assert on_a_card(render(BfCfg("d", flavor(), JOIN)))["chpasswd"]["expire"] is True


@pytest.mark.parametrize("more", [{}, {"sysctl": {"parameters": ["a=1"]}}])
def test_a_card_whose_host_is_not_rebooted_reboots_itself(more: dict[str, Any]) -> None:
    assert cloudinit.read(render(BfCfg("d", flavor(**more), JOIN, extra_reboot=True))).reboots
    assert not cloudinit.read(render(BfCfg("d", flavor(**more), JOIN))).reboots


def test_scalable_functions_and_firmware_parameters_come_from_nvconfig() -> None:
    spec_ = flavor(nvconfig=[{"device": "*", "parameters": ["PF_TOTAL_SF=20", "A=1 B=2"]}])
    document = on_a_card(render(BfCfg("d", spec_, JOIN)))
    assert "i < 20" in content(document, "/opt/dpf/configure-sfs.sh")
    assert "set PF_TOTAL_SF=20 A=1 B=2" in content(document, "/opt/dpf/set-nvconfig-params.sh")


def test_what_no_card_takes_is_refused_early() -> None:
    with pytest.raises(ConfigTooLarge, match="a card takes 131072"):
        render(BfCfg("d", flavor(configFiles=[{"path": "/a", "raw": "x" * 140_000}]), JOIN))


def test_a_flavor_that_passes_the_check_renders_for_every_dpu_and_cluster() -> None:
    """The check takes the longest names there can be: at the limit it refuses, rather than let it fail behind a drained host."""

    def with_file(size: int) -> DPUFlavorSpec:
        return flavor(configFiles=[{"path": "/a", "raw": "x" * size}])

    token = f"{'0' * 6}.{'0' * 16}"
    pin = f"--discovery-token-ca-cert-hash sha256:{'0' * 64}"
    longest = BfCfg(
        "d" * 63, with_file(1), f"kubeadm join {'h' * 253}:65535 --token {token} {pin} --v=5", extra_reboot=True
    )
    fits = 1 + CONFIG_LIMIT - len(render(longest).encode())
    assert unfit(with_file(fits)) is None
    assert len(render(replace(longest, flavor=with_file(fits))).encode()) == CONFIG_LIMIT
    assert unfit(with_file(fits + 1)) is not None, "it is the limit that refuses"


def test_a_text_of_megabytes_is_refused_without_being_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpf.provisioning.bfcfg.render.user_data", None)
    with pytest.raises(ConfigTooLarge, match=r"spec\.configFiles: .*at least 3000042 bytes"):
        render(BfCfg("d", flavor(configFiles=[{"path": "/a", "raw": "x" * 3_000_000}])))


def test_the_token_stays_out_of_what_is_printed() -> None:
    assert "0123456789abcdef" not in repr(BfCfg("d", flavor(), JOIN))


@pytest.mark.parametrize("name", ["PF_TOTAL_SF", "NUM_OF_VFS"])
def test_a_number_of_functions_that_no_card_has_is_refused_before_the_card_is_flashed(name: str) -> None:
    """Found by fuzzing: Python makes no number of so many digits."""
    flavor = DPUFlavorSpec.model_validate({"nvconfig": [{"parameters": [f"{name}={'9' * 5000}"]}]})
    with pytest.raises(NoCount, match=rf"spec\.nvconfig\[0\]\.parameters: {name} "):
        render(BfCfg("d1", flavor))
