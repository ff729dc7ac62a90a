"""What ``kubeadm init`` would leave in a cluster so that nodes can join by a bootstrap token, and nothing more."""

from __future__ import annotations

from typing import Any

from dpf.runtime.client import APPLY_PATCH, Client
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
    """Path and body of each object.

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
        "rules": [
            {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["cluster-info"], "verbs": ["get"]}
        ],
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
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-public"}}
    return [
        ("/api/v1/namespaces/kube-public", namespace),
        *((f"{rbac}/clusterrolebindings/{binding['metadata']['name']}", binding) for binding in bindings),
        (f"{rbac}/namespaces/kube-public/roles/{info}", role),
        (f"{rbac}/namespaces/kube-public/rolebindings/{info}", role_binding),
        ("/api/v1/namespaces/kube-public/configmaps/cluster-info", cluster_info),
    ]


async def install(client: Client, server: str, ca: bytes) -> None:
    """Applies the objects. The signatures that the cluster's own signer keeps in cluster-info stay."""
    params = {"fieldManager": client.field_owner, "force": "true"}
    for path, body in objects(server, ca):
        await client.request("PATCH", path, params=params, body=body, content_type=APPLY_PATCH)
