"""The virtual IP of a cluster's API server: keepalived on the control-plane nodes, as a DaemonSet and its configuration.

Each node checks whether it reaches the API server by its own node port; of those that do, the one with the highest priority holds
the address (VRRP). The priority follows from the node's address, so no node need know another: the address as a number, modulo
254, plus one. That is never 0 or 255, which mean something else in VRRP, and no two addresses that lie less than 254 apart
have the same; where two do nevertheless, VRRP prefers the higher address.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from typing import Any

from dpf.clustermanager.kamaji.placement import ON_CONTROL_PLANES, TOLERATIONS, meta
from dpf.clustermanager.kamaji.settings import Settings
from dpf.clustermanager.kamaji.waits import Kept
from dpf.runtime.k8s import ConfigMap, DaemonSet
from dpf_api import names
from dpf_api.dpucluster import DPUCluster, Keepalived

TEMPLATE_KEY = "keepalived.conf.tmpl"
TEMPLATE_DIR = "/etc/keepalived-template"
CONFIGURATION_DIR = "/usr/local/etc/keepalived"
"""Where the image looks for keepalived.conf."""
DIGEST = f"{names.GROUP}/keepalived-config"
"""Annotation of the pods: another configuration is another pod."""
LABEL = "app.kubernetes.io/name"

_INTERFACE = re.compile(r"[^\s/{}\"]{1,15}")  # the kernel's limit, and nothing that ends a word in keepalived.conf
LONGEST_NAME = 63 - len("-keepalived")
"""The name of the DaemonSet is a label's value as well."""

SCRIPT = """\
set -eu
case "$NODE_IP" in
*:*)
    node="[$NODE_IP]"
    number=$(printf %s "$NODE_IP" | cksum | cut -d ' ' -f 1)
    ;;
*)
    node=$NODE_IP
    IFS=.
    set -- $NODE_IP
    number=$((($1 << 24) + ($2 << 16) + ($3 << 8) + $4))
    ;;
esac
sed -e "s/@NODE@/$node/" -e "s/@PRIORITY@/$((number % 254 + 1))/" "$TEMPLATE" > "$CONFIGURATION"
"""
"""Completes the template with what differs from node to node."""


def require_endpoint(cluster: DPUCluster, keepalived: Keepalived) -> None:
    """Checks what keepalived could not work with.

    :raises Kept: if the cluster must be changed first.
    """
    if len(cluster.name) > LONGEST_NAME:
        message = f"with a virtual IP the name of a DPUCluster has at most {LONGEST_NAME} characters; use a shorter one"
        raise Kept("InvalidName", message)
    try:
        ipaddress.ip_address(keepalived.vip)
    except ValueError:
        message = f"spec.clusterEndpoint.keepalived.vip {keepalived.vip!r} is no IP address; set one"
        raise Kept("InvalidEndpoint", message) from None
    if not _INTERFACE.fullmatch(keepalived.interface):
        message = (
            f"spec.clusterEndpoint.keepalived.interface {keepalived.interface!r} is no name of a network interface"
        )
        raise Kept("InvalidEndpoint", message)


def configuration(keepalived: Keepalived, port: int) -> str:
    """keepalived.conf but for the node's own address and priority."""
    return f"""\
global_defs {{
    enable_script_security
    script_user root
}}

vrrp_script api_server {{
    script "/usr/bin/curl --insecure --silent --output /dev/null --max-time 2 https://@NODE@:{port}"
    interval 2
    rise 3
    fall 2
    weight 0
}}

vrrp_instance dpu_cluster {{
    state BACKUP
    interface {keepalived.interface}
    virtual_router_id {keepalived.virtual_router_id}
    priority @PRIORITY@
    advert_int 1
    virtual_ipaddress {{
        {keepalived.vip}
    }}
    track_script {{
        api_server
    }}
}}
"""


def wanted_config_map(cluster: DPUCluster, keepalived: Keepalived, port: int) -> ConfigMap:
    """The template of keepalived's configuration."""
    data = {TEMPLATE_KEY: configuration(keepalived, port)}
    return ConfigMap(metadata=meta(cluster, names.keepalived(cluster.name)), data=data)


def wanted_daemon_set(cluster: DPUCluster, keepalived: Keepalived, port: int, settings: Settings) -> DaemonSet:
    """keepalived on the control-plane nodes that the user's selector leaves."""
    name = names.keepalived(cluster.name)
    digest = hashlib.sha256((configuration(keepalived, port) + SCRIPT).encode()).hexdigest()[:16]
    template = {
        "metadata": {"labels": {LABEL: name, names.LABEL_CLUSTER: cluster.name}, "annotations": {DIGEST: digest}},
        "spec": _pod(name, keepalived, settings),
    }
    spec = {"selector": {"matchLabels": {LABEL: name}}, "template": template}
    return DaemonSet(metadata=meta(cluster, name), spec=spec)


def _pod(name: str, keepalived: Keepalived, settings: Settings) -> dict[str, Any]:
    files = {"name": "conf", "mountPath": CONFIGURATION_DIR}
    node_ip = {"name": "NODE_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}
    paths = {"TEMPLATE": f"{TEMPLATE_DIR}/{TEMPLATE_KEY}", "CONFIGURATION": f"{CONFIGURATION_DIR}/keepalived.conf"}
    configure = {
        "name": "create-conf",
        "image": settings.configuration_image,
        "command": ["/bin/sh", "-c", SCRIPT],
        "env": [node_ip, *({"name": key, "value": value} for key, value in paths.items())],
        "volumeMounts": [{"name": "template", "mountPath": TEMPLATE_DIR, "readOnly": True}, files],
    }
    run = {
        "name": "keepalived",
        "image": settings.keepalived_image,
        "securityContext": {"privileged": True},
        "resources": {"requests": {"cpu": "5m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        "volumeMounts": [files],
    }
    spec: dict[str, Any] = {
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "automountServiceAccountToken": False,
        "affinity": ON_CONTROL_PLANES,
        "tolerations": TOLERATIONS,
        "initContainers": [configure],
        "containers": [run],
        "volumes": [
            {"name": "template", "configMap": {"name": name, "defaultMode": 0o644}},
            {"name": "conf", "emptyDir": {"sizeLimit": "50Mi"}},
        ],
    }
    if keepalived.node_selector:
        spec["nodeSelector"] = keepalived.node_selector
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret} for secret in settings.image_pull_secrets]
    return spec
