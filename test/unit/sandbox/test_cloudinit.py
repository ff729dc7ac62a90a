"""A card understands a bf.cfg as its installer and cloud-init would."""

from __future__ import annotations

import pytest

from dpf.sandbox.fleet import bfcfg, cloudinit
from dpf.sandbox.fleet.bfcfg import BadBfCfg
from test.unit.sandbox.samples import TOKEN, bf_cfg


def test_every_heredoc_of_the_fragment_is_a_file() -> None:
    files = bfcfg.written_files(bf_cfg())
    assert files["/mnt/etc/cloud/cloud.cfg.d/dpf.cfg"] == "network: {config: disabled}\n"
    assert files[bfcfg.USER_DATA].startswith("#cloud-config\n")


def test_appending_heredocs_add_to_the_file() -> None:
    text = "cat > /a << E\none\nE\ncat >> /a <<-'E'\n\ttwo\n\tE\ncat <<E >/b\nthree\nE\n"
    assert bfcfg.written_files(text) == {"/a": "one\ntwo\n", "/b": "three\n"}


def test_heredoc_without_an_end_is_refused() -> None:
    with pytest.raises(BadBfCfg, match="EOF is not ended"):
        bfcfg.written_files("cat > /a << EOF\none\n")


def test_hostname_and_join_command_are_found() -> None:
    found = cloudinit.read(bf_cfg())
    assert found.hostname == "worker1-0000-04-00"
    assert found.join == cloudinit.JoinCommand("127.0.0.1:6443", TOKEN, ("sha256:" + "0" * 64,))
    assert not found.reboots


def test_card_whose_join_unit_is_not_enabled_does_not_join() -> None:
    assert cloudinit.read(bf_cfg(enable=False)).join is None


def test_restart_script_with_a_reboot_reboots_the_card() -> None:
    assert cloudinit.read(bf_cfg(reboot=True)).reboots


def test_join_command_does_not_show_its_secret() -> None:
    assert TOKEN.partition(".")[2] not in repr(cloudinit.read(bf_cfg()))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo hello", "no `kubeadm join`"),
        ("# kubeadm join 1.2.3.4:6443 --token abcdef.0123456789abcdef", "no `kubeadm join`"),
        ("kubeadm join 1.2.3.4:6443 --token abcdef.0123456789abcdef", "needs HOST:PORT"),
        ("kubeadm join 1.2.3.4:6443 --token nonsense --discovery-token-ca-cert-hash sha256:1", "needs HOST:PORT"),
        ("kubeadm join --token abcdef.0123456789abcdef --discovery-token-ca-cert-hash sha256:1", "needs HOST:PORT"),
    ],
)
def test_incomplete_join_command_is_refused(script: str, message: str) -> None:
    with pytest.raises(BadBfCfg, match=message):
        cloudinit.join_command(script)


def test_join_command_may_span_lines_and_use_equal_signs() -> None:
    script = "if kubeadm join h:1 \\\n  --token=abcdef.0123456789abcdef --discovery-token-ca-cert-hash=sha256:1; then"
    assert cloudinit.join_command(script) == cloudinit.JoinCommand("h:1", TOKEN, ("sha256:1",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing writes"),
        (bf_cfg().replace("#cloud-config", "#!/bin/sh"), "does not start with #cloud-config"),
        (bf_cfg().replace("set-hostname", "set-location"), "sets no hostname"),
        (bf_cfg().replace("debug:", "debug: ["), "is not YAML"),
    ],
)
def test_unusable_bf_cfg_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadBfCfg, match=message):
        cloudinit.read(text)
