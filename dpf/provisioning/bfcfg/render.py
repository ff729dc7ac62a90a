"""Renders bf.cfg: a shell fragment that the card's installer sources, with a cloud-init document in it.

The document is built as data and written by a YAML emitter, words that a shell reads are quoted by :mod:`shlex`, and the
here-document ends in a word that its content does not have: whatever a flavor says arrives as it was said. The same inputs give
the same bytes.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from dpf.gnxi.dms import CONFIG_LIMIT
from dpf.provisioning.bfcfg import files
from dpf.provisioning.bfcfg.containerd import containerd
from dpf.provisioning.bfcfg.rules import broken, password
from dpf.runtime.errors import Terminal
from dpf_api.dpuflavor import DPUFlavorSpec, Operation

SFS = re.compile(r"PF_TOTAL_SF=([0-9]{1,6})(?![0-9])")
NO_COUNT = re.compile(r"(PF_TOTAL_SF|NUM_OF_VFS)=[0-9]{7}")
GROUPS = "adm, audio, cdrom, dialout, dip, floppy, lxd, netdev, plugdev, sudo, video"
DOCUMENT = "/mnt/var/lib/cloud/seed/nocloud-net/user-data"

LEAST = 40
"""Bytes that a file takes besides its path and content: the names of its fields, and its mode."""

File = dict[str, Any]


class Unfit(Terminal):
    """A flavor that no bf.cfg can be made from.

    :param field: what must be changed, as the API spells it.
    :param rule: what is asked of it.
    """

    def __init__(self, reason: str, field: str, rule: str) -> None:
        super().__init__(reason, f"{field}: {rule}")
        self.field = field
        self.rule = rule


class NoCount(Unfit):
    """A number of functions in the flavor that no card has."""


class ConfigTooLarge(Unfit):
    """The rendered bf.cfg is larger than a card takes."""


@dataclass(frozen=True)
class BfCfg:
    """What goes into a bf.cfg. The join command holds a token, so it stays out of ``repr``.

    :param extra_reboot: the card reboots itself at the end of its first boot, as its host will not be rebooted.
    """

    dpu_name: str
    flavor: DPUFlavorSpec
    join_command: str = field(default="", repr=False)
    extra_reboot: bool = False


def render(inputs: BfCfg) -> str:
    """The text of bf.cfg.

    :raises NoCount: if the flavor asks for a million functions or more.
    :raises ConfigTooLarge: if it has more than 128 KiB.
    :raises Unfit: if something in the flavor would not arrive on the card as it is written, or spoil the rest of bf.cfg.
    """
    if found := next((m for p in _nvconfig(inputs.flavor) if (m := NO_COUNT.match(p))), None):
        rule = f"{found[1]} has more digits than any card's number: 6 at most"
        raise NoCount("FlavorInvalid", "spec.nvconfig[0].parameters", rule)
    parts = _parts(inputs.flavor)
    if (least := sum(parts.values())) > CONFIG_LIMIT:
        # A text of megabytes is not even rendered: that would take seconds.
        raise _too_large(parts, f"at least {least}")
    if (wrong := broken(inputs.flavor)) is not None:
        raise Unfit("FlavorInvalid", *wrong)
    parameters, hashed = _parameters(inputs.flavor.bfcfg_parameters)
    data = user_data(inputs, hashed)
    document = "#cloud-config\n" + yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=1 << 20, allow_unicode=True)
    text = "".join(f"{line}\n" for line in parameters) + _function(document)
    size = len(text.encode())
    if size > CONFIG_LIMIT:
        raise _too_large(parts, f"{size}")
    return text


def _parts(flavor: DPUFlavorSpec) -> dict[str, int]:
    """The bytes that each part of the flavor has in bf.cfg at least."""
    files_ = sum(len(each.path.encode()) + len(each.raw.encode()) + LEAST for each in flavor.config_files)
    return {
        "spec.configFiles": files_,
        "spec.ovs.rawConfigScript": len(flavor.ovs.raw_config_script.encode()),
        "spec.nvconfig[0].parameters": _length(_nvconfig(flavor)),
        "spec.sysctl.parameters": _length(flavor.sysctl.parameters),
        "spec.grub.kernelParameters": _length(flavor.grub.kernel_parameters),
        "spec.bfcfgParameters": _length(flavor.bfcfg_parameters),
    }


def _length(texts: list[str]) -> int:
    return sum(len(text.strip().encode()) for text in texts)


def _too_large(parts: Mapping[str, int], size: str) -> ConfigTooLarge:
    """Names the part that is to be shortened: the largest."""
    field = max(parts, key=lambda each: parts[each])
    rule = (
        f"shorten it: bf.cfg would have {size} bytes, {parts[field]} of them from here, and a card takes {CONFIG_LIMIT}"
    )
    return ConfigTooLarge("ConfigTooLarge", field, rule)


def user_data(inputs: BfCfg, password: str = "") -> dict[str, Any]:
    """The cloud-init document, as data."""
    user: dict[str, Any] = {
        "name": "ubuntu",
        "lock_passwd": False,
        "groups": GROUPS,
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
        "shell": "/bin/bash",
    }
    document: dict[str, Any] = {"debug": {"verbose": True}, "users": [user]}
    if password:
        user["passwd"] = password
    else:
        # Nobody can log in with it but to change it; a flavor that names a password does better.
        login = {"name": "ubuntu", "password": "ubuntu", "type": "text"}
        document["chpasswd"] = {"expire": True, "users": [login]}
    document["write_files"] = [*_common_files(inputs), *_flavor_files(inputs)]
    document["runcmd"] = _commands(inputs)
    return document


def _parameters(entries: list[str]) -> tuple[list[str], str]:
    """The lines for the head of bf.cfg, and the password among them, which goes elsewhere."""
    lines, hashed = [], ""
    for entry in entries:
        if (found := password(entry)) is None:
            lines.append(entry)
        else:
            hashed = found
    return lines, hashed


def _file(path: str, content: str, mode: str = "0644", **more: Any) -> File:
    return {"path": path, "permissions": mode, "content": content, **more}


def _common_files(inputs: BfCfg) -> list[File]:
    sfs = next((int(m[1]) for n in inputs.flavor.nvconfig for p in n.parameters if (m := SFS.match(p))), 0)
    return [
        _file("/etc/netplan/60-mlnx.yaml", "", "0600"),
        _file("/etc/netplan/99-dpf-comm-ch.yaml", files.NETPLAN_COMM_CHANNEL, "0600"),
        _file("/etc/netplan/98-oob-tmfifo.yaml", files.NETPLAN_OOB, "0600"),
        _file("/etc/modules-load.d/br_netfilter.conf", "br_netfilter\n"),
        _file("/etc/sysctl.conf", files.FORWARDING, append=True, owner="root:root"),
        _file("/opt/dpf/configure-sfs.sh", files.configure_sfs(sfs), "0755"),
        _file("/etc/systemd/system/kubelet.service.d/10-bf.conf", files.KUBELET_DROP_IN),
        _file("/opt/dpf/join_k8s_cluster.sh", files.join(inputs.join_command), "0755"),
        _file("/etc/systemd/system/kubeadm-join.service", files.JOIN_UNIT),
        _file("/etc/systemd/system/bootstrap-dpf.service", files.BOOTSTRAP_UNIT),
        _file("/etc/systemd/resolved.conf.d/01-dpf.conf", files.RESOLVED),
        _file("/etc/NetworkManager/conf.d/90-dpf.conf", files.NETWORK_MANAGER),
        _file("/opt/dpf/cleanup-dns.sh", files.CLEAN_DNS, "0755"),
        _file("/opt/dpf/remove-90-kubelet-bluefield.sh", files.REMOVE_KUBELET_DROP_IN, "0755"),
    ]


def _flavor_files(inputs: BfCfg) -> list[File]:
    flavor = inputs.flavor
    found: list[File] = []
    if _nvconfig(flavor):
        found.append(_file("/opt/dpf/set-nvconfig-params.sh", files.nvconfig(_nvconfig(flavor)), "0755"))
    if flavor.sysctl.parameters:
        found.append(_file("/etc/sysctl.d/99-dpf.conf", "".join(f"{line}\n" for line in flavor.sysctl.parameters)))
    if flavor.grub.kernel_parameters:
        words = shlex.quote(" ".join(flavor.grub.kernel_parameters).strip())
        found.append(_file("/etc/default/grub.d/99-dpf.cfg", f"GRUB_CMDLINE_LINUX={words}\n"))
    for entry in flavor.config_files:
        append = {"append": True} if entry.operation is Operation.APPEND else {}
        found.append(_file(entry.path, entry.raw, entry.permissions or "0644", **append))
    if flavor.ovs.raw_config_script:
        found.append(_file("/opt/dpf/ovs.sh", f"#!/bin/bash\nset -e\n{flavor.ovs.raw_config_script}\n", "0755"))
    if flavor.containerd_config.registry_endpoint:
        script = containerd(flavor.containerd_config.registry_endpoint)
        found.append(_file("/opt/dpf/config_containerd.sh", script, "0755"))
    if _restarts(inputs):
        found.append(_file("/opt/dpf/restart.sh", files.restart(reboot=inputs.extra_reboot), "0755"))
    return found


def _nvconfig(flavor: DPUFlavorSpec) -> list[str]:
    return flavor.nvconfig[0].parameters if flavor.nvconfig else []


def _restarts(inputs: BfCfg) -> bool:
    return bool(inputs.extra_reboot or inputs.flavor.grub.kernel_parameters or inputs.flavor.sysctl.parameters)


def _commands(inputs: BfCfg) -> list[list[str]]:
    flavor = inputs.flavor
    commands = [
        ["hostnamectl", "set-hostname", inputs.dpu_name],
        ["modprobe", "br_netfilter"],
        ["sysctl", "-p"],
        ["systemctl", "stop", "kubelet"],
        ["/opt/dpf/remove-90-kubelet-bluefield.sh"],
        ["/opt/dpf/cleanup-dns.sh"],
        ["systemctl", "daemon-reload"],
        ["systemctl", "enable", "containerd"],
        ["systemctl", "start", "containerd"],
        ["systemctl", "enable", "bootstrap-dpf.service"],
        ["systemctl", "enable", "kubeadm-join.service"],
        ["systemctl", "enable", "mlnx_bf_configure_sync.service"],
    ]
    if _nvconfig(flavor):
        commands.append(["/opt/dpf/set-nvconfig-params.sh"])
    if flavor.ovs.raw_config_script:
        commands.append(["/opt/dpf/ovs.sh"])
    if flavor.containerd_config.registry_endpoint:
        commands += [["/opt/dpf/config_containerd.sh"], ["systemctl", "restart", "containerd"]]
    if _restarts(inputs):
        commands.append(["/opt/dpf/restart.sh"])
    return commands


def _function(document: str) -> str:
    word = _delimiter(document)
    return f"""\
bfb_modify_os()
{{
  mkdir -p /mnt/opt/dpf /mnt/etc/cloud/cloud.cfg.d /mnt/var/lib/cloud/seed/nocloud-net
  echo 'network: {{config: disabled}}' > /mnt/etc/cloud/cloud.cfg.d/dpf.cfg
  cp /mnt/opt/mellanox/sfc-hbn/mlnx_bf_configure_sync.service /mnt/etc/systemd/system/ || true
  cat > {DOCUMENT} << '{word}'
{document}{word}
}}
"""


def _delimiter(text: str) -> str:
    """A word that no line of the text consists of."""
    lines = set(text.splitlines())
    word = "END_OF_USER_DATA"
    while word in lines:
        word += "_"
    return word


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # libyaml's, where PyYAML was built with it
    """Text of several lines as a block where YAML can hold it so, for whoever reads the file on a card."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, data: str) -> yaml.ScalarNode:
    block = "\n" in data and all(c == "\n" or c.isprintable() for c in data)
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|" if block else None)


_Dumper.add_representer(str, _text)
