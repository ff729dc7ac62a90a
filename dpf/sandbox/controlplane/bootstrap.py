"""What ``kubeadm init`` would leave in a cluster so that nodes can join by a bootstrap token, and nothing more."""

from __future__ import annotations

from typing import Any

from dpf.runtime.client import Client
from dpf.runtime.errors import AlreadyExists
from dpf.sandbox.controlplane import pki

TOKEN_GROUP = "system:bootstrappers:kubeadm:default-node-token"  # noqa: S105  (a group's name)
_RBAC = "rbac.authorization.k8s.io/v1"


def _binding(name: str, group: str, role: str) -> dict[str, Any]:
    return {
        "apiVersion": _RBAC,
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
    }


def objects(server: str, ca: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Collection path and body of each object.

    :param server: address of the API server as joining nodes see it.
    :param ca: the cluster's authority, PEM.
    """
    approve = "system:certificates.k8s.io:certificatesigningrequests:"
    bindings = [
        _binding("kubeadm:kubelet-bootstrap", TOKEN_GROUP, "system:node-bootstrapper"),
        _binding("kubeadm:node-autoapprove-bootstrap", TOKEN_GROUP, approve + "nodeclient"),
        _binding("kubeadm:node-autoapprove-certificate-rotation", "system:nodes", approve + "selfnodeclient"),
    ]
    info = "kubeadm:bootstrap-signer-clusterinfo"
    public = {"namespace": "kube-public"}
    role = {
        "apiVersion": _RBAC,
        "kind": "Role",
        "metadata": {"name": info, **public},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["cluster-info"], "verbs": ["get"]}],
    }
    role_binding = {
        "apiVersion": _RBAC,
        "kind": "RoleBinding",
        "metadata": {"name": info, **public},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": info},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:anonymous"}],
    }
    cluster_info = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "cluster-info", **public},
        "data": {"kubeconfig": pki.public_kubeconfig(server, ca)},
    }
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    return [
        *((f"{rbac}/clusterrolebindings", binding) for binding in bindings),
        (f"{rbac}/namespaces/kube-public/roles", role),
        (f"{rbac}/namespaces/kube-public/rolebindings", role_binding),
        ("/api/v1/namespaces/kube-public/configmaps", cluster_info),
    ]


async def install(client: Client, server: str, ca: bytes) -> None:
    """Creates the objects that are missing."""
    for path, body in objects(server, ca):
        try:
            await client.request("POST", path, body=body)
        except AlreadyExists:
            continue
