"""A bf.cfg written by hand after the specification (5.2, 5.3), independent of the code that renders one."""

from __future__ import annotations

import hashlib
import textwrap

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

TOKEN = "abcdef.0123456789abcdef"


def ca_pin(ca: bytes) -> str:
    """The pin of a CA as ``kubeadm token create`` prints it: ``sha256:`` and the digest of its public key info."""
    key = x509.load_pem_x509_certificate(ca).public_key()
    return f"sha256:{hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()}"


def bf_cfg(
    *,
    name: str = "worker1-0000-04-00",
    endpoint: str = "127.0.0.1:6443",
    pin: str = "sha256:" + "0" * 64,
    token: str = TOKEN,
    enable: bool = True,
    reboot: bool = False,
) -> str:
    """A bf.cfg for a card of that name."""
    user_data = textwrap.dedent(
        f"""\
        #cloud-config
        debug:
          verbose: true
        users:
          - name: ubuntu
            lock_passwd: False
            sudo: ALL=(ALL) NOPASSWD:ALL
        write_files:
          - path: /etc/netplan/60-mlnx.yaml
            permissions: '0600'
            content: "\\n"
          - path: /opt/dpf/join_k8s_cluster.sh
            permissions: '0755'
            content: |
              #!/bin/bash
              # kubeadm join is tried until it works
              until ip -4 addr show br-comm-ch | grep -q inet; do sleep 5; done
              if [ -f /opt/dpf/joined_cluster_successfully ]; then exit 0; fi
              while true; do
                if kubeadm join {endpoint} --token {token} --discovery-token-ca-cert-hash {pin} --v=5; then
                  touch /opt/dpf/joined_cluster_successfully
                  exit 0
                fi
                sleep 5
                rm -f /etc/kubernetes/pki/ca.crt /etc/kubernetes/bootstrap-kubelet.conf
              done
          - path: /opt/dpf/restart.sh
            permissions: '0755'
            content: |
              #!/bin/bash
              set -e
              update-grub
              {"reboot" if reboot else "# no reboot"}
        runcmd:
          - hostnamectl set-hostname {name}
          - [ modprobe, br_netfilter ]
          - systemctl enable containerd
          {"- systemctl enable kubeadm-join.service" if enable else "- 'true'"}
          - /opt/dpf/restart.sh
        """
    )
    return (
        "UPDATE_ATF_UEFI=yes\n"
        "bfb_modify_os()\n{\n"
        "    mkdir -p /mnt/opt/dpf\n"
        "    cat << EOF > /mnt/etc/cloud/cloud.cfg.d/dpf.cfg\nnetwork: {config: disabled}\nEOF\n"
        "    cat > /mnt/var/lib/cloud/seed/nocloud-net/user-data << 'EOFUD'\n"
        f"{user_data}EOFUD\n"
        "}\n"
    )
