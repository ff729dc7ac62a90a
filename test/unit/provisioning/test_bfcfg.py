"""bf.cfg: what goes in comes out of a real shell and a real YAML parser unchanged."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dpf.gnxi.dms import CONFIG_LIMIT
from dpf.provisioning.bfcfg.check import unfit
from dpf.provisioning.bfcfg.discovery import MOST
from dpf.provisioning.bfcfg.render import BfCfg, ConfigTooLarge, NoCount, Unfit, render
from dpf.sandbox.fleet import cloudinit
from dpf_api.dpuflavor import DPUFlavorSpec
from test.spec import spec

ROOT = Path(__file__).parents[3]
JOIN = f"kubeadm join 127.0.0.1:6443 --token abcdef.0123456789abcdef --discovery-token-ca-cert-hash sha256:{'0' * 64} --v=5"
ANY = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=60)
"""With NUL, line ends of every kind, and what no terminal shows."""
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)
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


def accepted(**more: Any) -> str:
    """The bf.cfg of a flavor that passes the check."""
    spec_ = flavor(**more)
    assert unfit(spec_) is None
    return render(BfCfg("d", spec_, JOIN))


def refused(spec_: DPUFlavorSpec, field: str) -> bool:
    """Whether the check refuses the flavor, for nothing but this field."""
    found = unfit(spec_)
    assert found is None or found.field.startswith(field)
    return found is not None


def output(shell: str, script: str) -> str:
    return subprocess.run([shell], input=script.encode(), capture_output=True, check=True, timeout=20).stdout.decode()


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
    assert unfit(DPUFlavorSpec.model_validate(manifest["spec"])) is None
    seen = cloudinit.read(text)
    assert seen.hostname == "worker1-0000-04-00"
    assert seen.join is not None
    assert seen.join.endpoint == "127.0.0.1:6443"
    assert on_a_card(text)["runcmd"][0] == ["hostnamectl", "set-hostname", "worker1-0000-04-00"]


@settings(max_examples=25)
@given(ANY, LINE, st.sampled_from(["", "0600", "644", "0o755", "04755"]), st.sampled_from(["", "append", "override"]))
@example("one\r\ntwo\r\n", "crlf", "", "override")
@example("\r", "cr", "", "append")
def test_a_file_of_the_user_arrives_as_it_was_given(raw: str, path: str, mode: str, operation: str) -> None:
    entry = {"path": f"/etc/{path}", "raw": raw, "permissions": mode} | ({"operation": operation} if operation else {})
    file = on_a_card(accepted(configFiles=[entry]))["write_files"][-1]
    append = {"append": True} if operation == "append" else {}
    assert file == {"path": f"/etc/{path}", "permissions": mode or "0644", "content": raw} | append
    assert int(file["permissions"], 8), "as cloud-init reads it"


@settings(max_examples=50)
@given(st.one_of(st.text(st.sampled_from("01234567o+_ 9r-\n"), min_size=1, max_size=6), ANY.filter(bool)))
def test_a_mode_arrives_as_it_was_given_or_is_refused(mode: str) -> None:
    spec_ = flavor(configFiles=[{"path": "/a", "permissions": mode}])
    if refused(spec_, "spec.configFiles[0].permissions"):
        return
    file = on_a_card(render(BfCfg("d", spec_, JOIN)))["write_files"][-1]
    assert file["permissions"] == mode
    assert 0 <= int(mode, 8) <= 0o7777


@settings(max_examples=25)
@given(st.lists(ANY, min_size=1, max_size=3))
def test_kernel_settings_arrive_as_they_were_given_or_are_refused(lines: list[str]) -> None:
    spec_ = flavor(sysctl={"parameters": lines})
    if any("\0" in line for line in lines):
        assert refused(spec_, "spec.sysctl.parameters[")
        return
    document = on_a_card(render(BfCfg("d", spec_, JOIN)))
    assert content(document, "/etc/sysctl.d/99-dpf.conf") == "".join(f"{line}\n" for line in lines)


@settings(max_examples=25)
@given(st.lists(ANY, min_size=1, max_size=3))
@example(["A=1 B='2'", "C=$(touch /x) `x`"])
def test_firmware_parameters_arrive_as_they_were_given_or_are_refused(parameters: list[str]) -> None:
    spec_ = flavor(nvconfig=[{"parameters": parameters}])
    if any("\0" in each for each in parameters):
        assert refused(spec_, "spec.nvconfig[0].parameters[")
        return
    script = content(on_a_card(render(BfCfg("d", spec_, JOIN))), "/opt/dpf/set-nvconfig-params.sh")
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "mt41692_pciconf0").touch()
        tool = "mlxconfig() { printf '%s\\0' \"$@\"; }\n"
        told = output("/bin/bash", tool + script.replace("/dev/mst/", f"{root}/"))
        device = f"{root}/mt41692_pciconf0"
    assert told.split("\0")[:-1] == ["-d", device, "-y", "set", *" ".join(parameters).split()]


PIECES = st.sampled_from(
    [
        "A",
        "=",
        "'",
        '"',
        "\\",
        "$",
        "(",
        ")",
        "{",
        "}",
        "`",
        "#",
        " ",
        ";",
        "&",
        "|",
        "<",
        ">",
        "\n",
        "\r",
        "\t",
        "é",
        "if",
        "fi",
    ]
)


@settings(max_examples=50)
@given(st.lists(st.one_of(st.lists(PIECES, max_size=6).map("".join), ANY), min_size=1, max_size=3))
@example(["UPDATE_DPU_OS=yes", "A='x"])
@example(["# it's", "A=x \\"])
def test_lines_for_bfcfg_arrive_as_they_were_given_or_are_refused(lines: list[str]) -> None:
    spec_ = flavor(bfcfgParameters=lines)
    if refused(spec_, "spec.bfcfgParameters"):
        return
    text = render(BfCfg("d", spec_, JOIN))
    assert text.startswith("".join(f"{line}\n" for line in lines) + "bfb_modify_os()\n")
    subprocess.run(["/bin/bash", "-n"], input=text.encode(), check=True, timeout=20)


VALUE = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20)


@settings(max_examples=25)
@given(VALUE)
@example('it\'s; "$A" `x` \\')
def test_a_quoted_value_for_bfcfg_is_what_the_installer_reads(value: str) -> None:
    text = accepted(bfcfgParameters=[f"A={shlex.quote(value)}"])
    assert output("/bin/sh", text + 'printf %s "$A"') == value


@settings(max_examples=50)
@given(st.one_of(ANY, st.text(st.sampled_from("$6./aZ=' \":\n\\"), max_size=8)), st.sampled_from(["", "'", '"']))
def test_a_password_arrives_as_it_was_given_or_is_refused(password: str, quote: str) -> None:
    spec_ = flavor(bfcfgParameters=[f"ubuntu_PASSWORD={quote}{password}{quote}"])
    if refused(spec_, "spec.bfcfgParameters[0]"):
        return
    user = on_a_card(render(BfCfg("d", spec_, JOIN)))["users"][0]
    bare = password.strip() if not quote else password
    if len(bare) > 1 and not quote and bare[0] == bare[-1] and bare[0] in "'\"":
        bare = bare[1:-1]
    assert user.get("passwd", "") == bare


@settings(max_examples=50)
@given(ANY)
@example("https://mirror.example\n[host.x]")
@example("https://mirror.example\r\n")
@example('https://mirror.example/"\\')
def test_an_endpoint_arrives_in_the_script_or_is_refused(endpoint: str) -> None:
    spec_ = flavor(containerdConfig={"registryEndpoint": endpoint})
    if refused(spec_, "spec.containerdConfig.registryEndpoint") or not endpoint:
        return
    script = content(on_a_card(render(BfCfg("d", spec_, JOIN))), "/opt/dpf/config_containerd.sh")
    head = script.partition("\nprogram=")[0]
    assert set(tomllib.loads(output("/bin/bash", f'{head}\nprintf %s "$hosts"'))["host"]) == {endpoint}


@pytest.mark.parametrize(
    ("more", "field", "rule"),
    [
        (
            {"bfcfgParameters": ["A=1", "A='x"]},
            "spec.bfcfgParameters[1]",
            "unexpected EOF while looking for matching `''",
        ),
        ({"bfcfgParameters": ["A=x\\"]}, "spec.bfcfgParameters[0]", "has a backslash at its end"),
        ({"bfcfgParameters": ["ubuntu_PASSWORD='$6$a"]}, "spec.bfcfgParameters[0]", "ubuntu_PASSWORD must be"),
        ({"grub": {"kernelParameters": ["a", "b\nc"]}}, "spec.grub.kernelParameters[1]", "on one line"),
        ({"sysctl": {"parameters": ["a=\0"]}}, "spec.sysctl.parameters[0]", "no NUL"),
        ({"nvconfig": [{"parameters": ["A=\0"]}]}, "spec.nvconfig[0].parameters[0]", "no NUL"),
        ({"ovs": {"rawConfigScript": "\0"}}, "spec.ovs.rawConfigScript", "no NUL"),
        ({"configFiles": [{"path": "/a\0"}]}, "spec.configFiles[0].path", "no NUL"),
        ({"configFiles": [{}, {"permissions": "rw"}]}, "spec.configFiles[1].permissions", "octal digits"),
        ({"configFiles": [{"permissions": "0888"}]}, "spec.configFiles[0].permissions", "octal digits"),
        ({"configFiles": [{"permissions": "17777"}]}, "spec.configFiles[0].permissions", "octal digits"),
        ({"containerdConfig": {"registryEndpoint": "a\nb"}}, "spec.containerdConfig.registryEndpoint", "on one line"),
        ({"containerdConfig": {"registryEndpoint": "a\x7f"}}, "spec.containerdConfig.registryEndpoint", "on one line"),
    ],
)
def test_what_would_not_arrive_is_refused_with_field_and_rule(more: dict[str, Any], field: str, rule: str) -> None:
    found = unfit(flavor(**more))
    assert found is not None
    assert (found.reason, found.field) == ("FlavorInvalid", field)
    assert rule in found.rule
    with pytest.raises(Unfit):
        render(BfCfg("d", flavor(**more), JOIN))


def test_of_many_entries_the_shell_is_asked_of_so_many_that_it_is_soon_done() -> None:
    words = [f"A{n}=plain" for n in range(2000)]
    found = unfit(flavor(bfcfgParameters=[*words, "B='open"]))
    assert found is not None
    assert found.field == "spec.bfcfgParameters[2000]", "what is plain is not asked about"
    texts = [f"A='{n}'" for n in range(2000)]
    found = unfit(flavor(bfcfgParameters=[*texts, "B='open"]))
    assert found is not None
    assert found.field == "spec.bfcfgParameters"


@settings(max_examples=25)
@given(st.lists(LINE, min_size=1, max_size=3))
def test_kernel_parameters_survive_the_shell_that_sources_them(words: list[str]) -> None:
    text = on_a_card(render(BfCfg("d", flavor(grub={"kernelParameters": words}), JOIN)))
    sourced = content(text, "/etc/default/grub.d/99-dpf.cfg") + 'printf %s "$GRUB_CMDLINE_LINUX"'
    shell = subprocess.run(["/bin/sh"], input=sourced.encode(), capture_output=True, check=True, timeout=20)
    assert shell.stdout.decode() == " ".join(words).strip()


@settings(max_examples=25)
@given(TEXT)
@example("true\r\n")
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
    """The check takes the longest names and most pins: at the limit it refuses, rather than let it fail behind a drained host."""

    def with_file(size: int) -> DPUFlavorSpec:
        return flavor(configFiles=[{"path": "/a", "raw": "x" * size}])

    token = f"{'0' * 6}.{'0' * 16}"
    pins = " ".join([f"--discovery-token-ca-cert-hash sha256:{'0' * 64}"] * MOST)
    longest = BfCfg(
        "d" * 63, with_file(1), f"kubeadm join {'h' * 253}:65535 --token {token} {pins} --v=5", extra_reboot=True
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
