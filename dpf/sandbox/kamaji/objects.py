"""What the stand-in writes, as Kamaji writes it."""

from __future__ import annotations

import base64
import ipaddress
from dataclasses import dataclass
from typing import Any

from dpf.sandbox.api import Json

FINALIZER = "finalizer.kamaji.clastix.io"
DATA_STORE = "default"
GROUP = "kamaji.clastix.io/v1alpha1"
PATH = f"/apis/{GROUP}"


@dataclass(frozen=True)
class Wanted:
    """What of a TenantControlPlane takes a restart when it changes."""

    address: str
    port: int
    version: str


def wanted(control_plane: Json, own_address: str) -> Wanted:
    """What a TenantControlPlane asks for; where its address is not one of this machine's loopback, ours instead."""
    spec = control_plane["spec"]
    network = spec.get("networkProfile") or {}
    address = network.get("address") or ""
    return Wanted(address if _is_here(address) else own_address, network["port"], spec["kubernetes"]["version"])


def _is_here(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def path_of(control_plane: Json, plural: str = "", name: str = "", *, subresource: str = "") -> str:
    """The path of a TenantControlPlane, or of a core object of its namespace and name."""
    meta = control_plane["metadata"]
    root = "/api/v1" if plural else PATH
    path = f"{root}/namespaces/{meta['namespace']}/{plural or 'tenantcontrolplanes'}/{name or meta['name']}"
    return f"{path}/{subresource}" if subresource else path


def secret_name(control_plane: Json) -> str:
    """The Secret with the admin kubeconfig."""
    return f"{control_plane['metadata']['name']}-admin-kubeconfig"


def data_store() -> Json:
    """The DataStore that Kamaji is installed with."""
    return {
        "apiVersion": GROUP,
        "kind": "DataStore",
        "metadata": {"name": DATA_STORE},
        "spec": {"driver": "etcd", "endpoints": ["etcd.kamaji-system.svc:2379"]},
    }


def owner(control_plane: Json) -> Json:
    """A reference to the TenantControlPlane as the controller of what is made for it."""
    meta = control_plane["metadata"]
    found = {"apiVersion": GROUP, "kind": "TenantControlPlane", "name": meta["name"], "uid": meta["uid"]}
    return found | {"controller": True, "blockOwnerDeletion": True}


def labels(control_plane: Json, component: str) -> dict[str, str]:
    """Labels of what is made for a TenantControlPlane."""
    name = control_plane["metadata"]["name"]
    found = {"project": "kamaji", "name": name, "component": component}
    return {f"kamaji.clastix.io/{key}": value for key, value in found.items()}


def secret(control_plane: Json, kubeconfig: bytes) -> Json:
    """The Secret with the admin kubeconfig."""
    meta = control_plane["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": secret_name(control_plane),
            "namespace": meta["namespace"],
            "labels": labels(control_plane, "admin-kubeconfig"),
            "ownerReferences": [owner(control_plane)],
        },
        "type": "Opaque",
        "data": {"admin.conf": base64.b64encode(kubeconfig).decode()},
    }


def taken_over(service: Json, control_plane: Json) -> Json:
    """The patch that makes a Service the control plane's; locked on the version that was read. Empty if it is already.

    It keeps its other owners and annotations, but no label that the TenantControlPlane does not name.
    """
    meta, spec = service["metadata"], service["spec"]
    name, port = control_plane["metadata"]["name"], control_plane["spec"]["networkProfile"]["port"]
    mine = owner(control_plane)
    owners = [each for each in meta.get("ownerReferences") or [] if each["uid"] != mine["uid"]] + [mine]
    entry = {"name": "kube-apiserver", "protocol": "TCP", "port": port, "targetPort": port, "nodePort": port}
    asked = (control_plane["spec"]["controlPlane"].get("service") or {}).get("additionalMetadata") or {}
    wanted = labels(control_plane, "service") | (asked.get("labels") or {})
    before = meta.get("labels") or {}
    if mine in (meta.get("ownerReferences") or []) and spec["ports"] == [entry] and before == wanted:
        return {}
    changed = dict.fromkeys(before) | wanted
    return {
        "metadata": {"resourceVersion": meta["resourceVersion"], "labels": changed, "ownerReferences": owners},
        "spec": {"type": "NodePort", "selector": {"kamaji.clastix.io/name": name}, "ports": [entry]},
    }


def begun(control_plane: Json, found: Wanted) -> Json:
    """The status while a control plane comes up for the first time, or with another version; empty if it just restarts."""
    before = running_version(control_plane)
    if before == found.version:
        return {}
    return _status(control_plane, found, {"status": "Upgrading" if before else "Provisioning"})


def up(control_plane: Json, found: Wanted) -> Json:
    """The status of a control plane that is up."""
    return _status(control_plane, found, {"status": "Ready", "version": found.version})


def _status(control_plane: Json, found: Wanted, version: dict[str, str]) -> Json:
    """Where it will be and how it will be entered is said from the beginning; which version runs, when it does."""
    meta = control_plane["metadata"]
    service = {"name": meta["name"], "namespace": meta["namespace"], "port": found.port}
    status: dict[str, Any] = {
        "kubernetesResources": {"version": version, "service": service},
        "kubeconfig": {"admin": {"secretName": secret_name(control_plane)}},
        "controlPlaneEndpoint": f"{found.address}:{found.port}",
        "storage": {"dataStoreName": control_plane["spec"].get("dataStore", DATA_STORE), "driver": "etcd"},
    }
    return {"status": status}


def running_version(control_plane: Json) -> str:
    """The version that was Ready last; empty if none was."""
    resources = (control_plane.get("status") or {}).get("kubernetesResources") or {}
    version: str = (resources.get("version") or {}).get("version", "")
    return version
