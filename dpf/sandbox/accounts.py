"""ServiceAccount kubeconfigs: each manager runs as its own account, with its own rights and no others."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from dpf.runtime.kubeconfig import Kubeconfig
from dpf.sandbox.api import Api
from dpf.sandbox.fleet.disk import write_private
from dpf.sandbox.layout import NAMESPACE

TOKEN_LIFE = 30 * 24 * 3600
"""Seconds."""


async def write_kubeconfig(api: Api, admin: Kubeconfig, account: str, path: Path) -> None:
    """Asks for a token of a ServiceAccount of the operator's namespace and writes a kubeconfig with it (mode 0600)."""
    token_path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{account}/token"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": TOKEN_LIFE}}
    answer = await api.create(token_path, body)
    cluster = {"server": admin.server, "certificate-authority-data": base64.b64encode(admin.ca).decode()}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "host", "cluster": cluster}],
        "users": [{"name": account, "user": {"token": answer["status"]["token"]}}],
        "contexts": [{"name": account, "context": {"cluster": "host", "user": account, "namespace": NAMESPACE}}],
        "current-context": account,
    }
    write_private(path, json.dumps(config, indent=1).encode())
