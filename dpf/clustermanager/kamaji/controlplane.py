"""The control plane of a cluster: the port that its API server gets on the nodes, its Service and its TenantControlPlane.

The port is the one thing that is not known beforehand. The API server of the host cluster gives one to the Service (or the one
that an annotation of the DPUCluster asks for), and from then on it must not change: kubeconfigs, cards that have joined and
keepalived know it. So it is on record twice, in the Service's annotation and in the TenantControlPlane, and either brings the
other back. Kamaji makes the port of API server and Service the node port as well, and takes every label off the Service that the
TenantControlPlane does not name; what is applied here says the same, so the two don't undo each other's work.
"""

from __future__ import annotations

import re
from typing import Any

from dpf.clustermanager.kamaji.placement import ON_CONTROL_PLANES, TOLERATIONS, labels_of, meta
from dpf.clustermanager.kamaji.settings import Settings
from dpf.clustermanager.kamaji.waits import Kept
from dpf.runtime.k8s import Service, ServicePort, ServiceSpec
from dpf_api import kamaji
from dpf_api.dpucluster import DPUCluster, Keepalived
from dpf_api.kamaji import TenantControlPlane, TenantControlPlaneSpec
from dpf_api.names import ANNOTATION_NODE_PORT, LABEL_TENANT

PORT_NAME = "kube-apiserver"

_VERSION = re.compile(r"v?\d+\.\d+\.\d+\S*")
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LONGEST_NAME = 63

_RESOURCES = kamaji.ComponentResources(
    api_server={"requests": {"cpu": "250m", "memory": "512Mi"}},
    controller_manager={"requests": {"cpu": "125m", "memory": "256Mi"}},
    scheduler={"requests": {"cpu": "125m", "memory": "256Mi"}},
)


def require_name_and_version(cluster: DPUCluster) -> None:
    """Checks what Kamaji would not take.

    :raises Kept: if the cluster must be changed first.
    """
    if broken := _broken_rule(cluster.name):
        raise Kept("InvalidName", f"{broken}; a name can't be changed, so make the DPUCluster anew under another")
    if not _VERSION.fullmatch(cluster.spec.version):
        message = f"spec.version {cluster.spec.version!r} is no Kubernetes version; set one such as v1.30.2"
        raise Kept("InvalidVersion", message)
    wish = cluster.annotations.get(ANNOTATION_NODE_PORT, "")
    if wish and not wish.isdecimal():
        raise Kept("InvalidNodePort", f"annotation {ANNOTATION_NODE_PORT} is {wish!r}, which is no port")


def _broken_rule(name: str) -> str:
    """What keeps Kamaji from a name; empty if nothing does."""
    if len(name) > LONGEST_NAME:
        return f"Kamaji takes names of at most {LONGEST_NAME} characters, and this one has {len(name)}"
    if not _NAME.fullmatch(name):
        return "Kamaji takes names that begin with a letter and have no dots"
    return ""


def port_of(cluster: DPUCluster, service: Service | None, control_plane: TenantControlPlane | None) -> int:
    """The node port of the cluster's API server; 0 if it has none yet.

    As on record in the Service, then in the TenantControlPlane, then as the Service has it, then as the user asks.
    """
    recorded = service.annotations.get(ANNOTATION_NODE_PORT, "") if service is not None else ""
    if recorded.isdecimal():
        return int(recorded)
    if control_plane is not None and (port := control_plane.spec.network_profile.port) != kamaji.DEFAULT_PORT:
        return port
    if service is not None and (port := node_port(service)):
        return port
    return int(cluster.annotations.get(ANNOTATION_NODE_PORT) or 0)


def node_port(service: Service) -> int:
    """The port that a Service has on the nodes; 0 if none."""
    return next((port.node_port for port in service.spec.ports), 0)


def wanted_service(cluster: DPUCluster, port: int) -> Service:
    """The Service of a cluster.

    :param port: the node port, or 0 to be given one.
    """
    entry: dict[str, Any] = {"name": PORT_NAME, "protocol": "TCP", "port": kamaji.DEFAULT_PORT}
    annotations = {}
    if port:
        entry |= {"port": port, "target_port": port, "node_port": port}
        annotations = {ANNOTATION_NODE_PORT: str(port)}
    spec = ServiceSpec(type="NodePort", selector={kamaji.NAME_LABEL: cluster.name}, ports=[ServicePort(**entry)])
    return Service(metadata=meta(cluster, cluster.name, annotations=annotations), spec=spec)


def ports_in_the_way(service: Service | None, port: int) -> bool:
    """Whether an apply of the port would stand beside an entry of the Service that others wrote, and be refused for it.

    The server tells the entries of the list apart by their ports, not by name or node port.
    """
    entries = service.spec.ports if service is not None and port else []
    return any(entry.port != port and (entry.node_port == port or entry.name == PORT_NAME) for entry in entries)


def is_leftover(cluster: DPUCluster, service: Service | None) -> bool:
    """Whether a Service is what v24.10 left: selecting the cluster's pods, but owned by nobody."""
    return service is not None and service.spec.selector == {kamaji.NAME_LABEL: cluster.name}


def wanted_control_plane(cluster: DPUCluster, port: int, settings: Settings) -> TenantControlPlane:
    """The TenantControlPlane of a cluster whose API server has that node port."""
    tenant = kamaji.AdditionalMetadata(labels={LABEL_TENANT: cluster.name})
    deployment = kamaji.DeploymentSpec(
        replicas=settings.replicas,
        affinity=ON_CONTROL_PLANES,
        tolerations=TOLERATIONS,
        additional_metadata=tenant,
        resources=_RESOURCES,
    )
    spec = TenantControlPlaneSpec(
        data_store=settings.data_store,
        control_plane=kamaji.ControlPlaneSpec(
            deployment=deployment,
            service=kamaji.ServiceSpec(
                service_type=kamaji.ServiceType.NODE_PORT,
                # All that our Service bears: Kamaji takes off it what it is not told to put there.
                additional_metadata=kamaji.AdditionalMetadata(labels=labels_of(cluster)),
            ),
        ),
        kubernetes=kamaji.KubernetesSpec(
            version=cluster.spec.version,
            kubelet=kamaji.KubeletSpec(cgroupfs=kamaji.CgroupDriver.SYSTEMD),
            admission_controllers=["ResourceQuota", "LimitRanger"],
        ),
        addons=kamaji.Addons(core_dns=kamaji.Addon(), kube_proxy=kamaji.Addon()),
        network_profile=_network(keepalived_of(cluster), port),
    )
    return TenantControlPlane(metadata=meta(cluster, cluster.name), spec=spec)


def _network(keepalived: Keepalived | None, port: int) -> kamaji.NetworkProfile:
    if keepalived is None:
        # The address is left to whoever runs the cluster: it may be set on the TenantControlPlane itself.
        return kamaji.NetworkProfile(port=port)
    return kamaji.NetworkProfile(address=keepalived.vip, port=port)


def keepalived_of(cluster: DPUCluster) -> Keepalived | None:
    """The virtual IP that the cluster asks for, if it does."""
    endpoint = cluster.spec.cluster_endpoint
    return endpoint.keepalived if endpoint is not None else None
