"""The files that every card gets, whatever its flavor: network, kubelet, and the scripts that cloud-init runs."""

from __future__ import annotations

import shlex

NETPLAN_COMM_CHANNEL = """\
network:
  version: 2
  renderer: networkd
  ethernets:
    pf0vf0: {}
  bridges:
    br-comm-ch:
      interfaces: [pf0vf0]
      dhcp4: true
"""

NETPLAN_OOB = """\
network:
  version: 2
  renderer: networkd
  ethernets:
    oob_net0:
      dhcp4: false
    tmfifo_net0:
      addresses: [192.168.100.2/30]
      dhcp4: false
"""

FORWARDING = """\
net.ipv4.ip_forward = 1
net.bridge.bridge-nf-call-iptables = 1
net.bridge.bridge-nf-call-ip6tables = 1
"""

_KUBECONFIGS = "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
KUBELET_DROP_IN = f"""\
[Service]
Environment="KUBELET_KUBECONFIG_ARGS={_KUBECONFIGS}"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
"""

BOOTSTRAP_UNIT = """\
[Unit]
Description=Scalable functions of this card
Wants=network-online.target
After=network-online.target
Before=kubelet.service

[Service]
Type=oneshot
ExecStart=/opt/dpf/configure-sfs.sh setup

[Install]
WantedBy=multi-user.target
"""

JOIN_UNIT = """\
[Unit]
Description=Joins this card to its Kubernetes cluster
Wants=network-online.target
After=network-online.target

[Service]
Type=simple
ExecStart=/opt/dpf/join_k8s_cluster.sh

[Install]
WantedBy=multi-user.target
"""

RESOLVED = "[Resolve]\nDNSStubListener=no\n"
NETWORK_MANAGER = "[main]\ndns=none\n"

CLEAN_DNS = """\
#!/bin/bash
set -e
if [ -e /etc/resolv.conf ] && [ ! -L /etc/resolv.conf ]; then cp /etc/resolv.conf /etc/resolv.conf.before-dpf; fi
ln -sfn /var/run/systemd/resolve/resolv.conf /etc/resolv.conf
systemctl mask --now dnsmasq.service || true
"""

REMOVE_KUBELET_DROP_IN = """\
#!/bin/bash
set -e
file=/usr/lib/systemd/system/kubelet.service.d/90-kubelet-bluefield.conf
if [ -f "$file" ]; then mv "$file" "$file.before-dpf"; fi
"""


def configure_sfs(number: int) -> str:
    """Makes the scalable functions of the card; those that exist already are left."""
    return f"""\
#!/bin/bash
[ "$1" = setup ] || {{ echo "usage: $0 setup" >&2; exit 2; }}
for ((i = 0; i < {number}; i++)); do
  /sbin/mlnx-sf --action create --device 0000:03:00.0 --sfnum "$i" || true
done
"""


def join(command: str) -> str:
    """Joins once the communication channel has an address; a try that fails is cleaned up and made again."""
    return f"""\
#!/bin/bash
until ip link show br-comm-ch >/dev/null 2>&1; do sleep 5; done
until ip -4 addr show br-comm-ch | grep -q inet; do sleep 5; done
systemctl enable kubelet
[ -f /opt/dpf/joined_cluster_successfully ] && exit 0
while true; do
  if {command}; then
    touch /opt/dpf/joined_cluster_successfully
    exit 0
  fi
  sleep 5
  rm -f /etc/kubernetes/pki/ca.crt /etc/kubernetes/bootstrap-kubelet.conf
done
"""


def nvconfig(parameters: list[str]) -> str:
    """Sets firmware parameters on every device of the card."""
    words = " ".join(shlex.quote(word) for parameter in parameters for word in parameter.split())
    return f"""\
#!/bin/bash
set -e
for device in /dev/mst/*; do
  mlxconfig -d "$device" -y set {words}
done
"""


def restart(*, reboot: bool) -> str:
    """Takes over kernel parameters; reboots the card if nobody else will."""
    return "#!/bin/bash\nset -e\nupdate-grub\n" + ("reboot\n" if reboot else "")
