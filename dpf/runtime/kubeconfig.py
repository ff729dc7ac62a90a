"""Where a cluster is and how to authenticate: kubeconfig files and the credentials a pod is given.

The common cases (CA, client certificate, token, token file) are read here. A kubeconfig that names an ``exec`` plugin or an
``auth-provider`` is handed to kubernetes-asyncio, which is imported only then: it costs more memory than a whole manager.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from dpf.runtime.errors import ConfigError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_ELSEWHERE = ("certificate-authority", "client-certificate", "client-key", "tokenFile", "exec", "auth-provider")
"""What a kubeconfig may leave to files and commands."""


@dataclass(frozen=True)
class Kubeconfig:
    """Address and credentials of one cluster. Secret parts are left out of ``repr``."""

    server: str
    ca: bytes = field(default=b"", repr=False)
    """PEM bundle that signs the server's certificate; empty means the system's."""
    cert: bytes = field(default=b"", repr=False)
    key: bytes = field(default=b"", repr=False)
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    """Read again as it rotates."""
    namespace: str = "default"
    tls_server_name: str = ""
    insecure: bool = False
    plugin: Mapping[str, Any] | None = field(default=None, repr=False)
    """The whole kubeconfig, where its user is an exec plugin or an auth provider."""

    @classmethod
    def load(cls, path: Path | str | None = None) -> Kubeconfig:
        """From a file: the given one, else ``$KUBECONFIG``, else in-cluster credentials, else ``~/.kube/config``.

        :raises ConfigError: if there is none, or it can't be used; the message says what to do.
        """
        chosen = path or os.environ.get("KUBECONFIG", "").split(":")[0]
        if chosen:
            return cls._read(Path(chosen))
        if os.environ.get("KUBERNETES_SERVICE_HOST"):
            return cls.in_cluster()
        home = Path.home() / ".kube" / "config"
        if home.is_file():
            return cls._read(home)
        raise ConfigError("no cluster to talk to: give --kubeconfig FILE, or set KUBECONFIG, or run inside a cluster")

    @classmethod
    def _read(cls, path: Path) -> Kubeconfig:
        try:
            text = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read kubeconfig {path}: {error.strerror}") from error
        return cls.parse(text, base=path.parent, source=str(path))

    @classmethod
    def parse(cls, text: str | bytes, *, base: Path | None = None, source: str = "kubeconfig") -> Kubeconfig:
        """From the text of a kubeconfig: its current context.

        :param base: the folder of the file it was read from, which file names in it are relative to. Without one, whoever
            wrote it need not be who runs this process: it must not name files or commands of this machine.
        :raises ConfigError: naming ``source`` and what is wrong with it.
        """
        try:
            config = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{source} is not YAML: {getattr(error, 'problem', None) or 'unreadable'}") from None
        if not isinstance(config, dict):
            raise ConfigError(f"{source} is not a kubeconfig: it must be a mapping with clusters, users and contexts")
        context = _context(config, source)
        cluster = _named(config, "clusters", "cluster", context.get("cluster"), source)
        user = _named(config, "users", "user", context.get("user"), source)
        if not _is_url(cluster.get("server")):
            raise ConfigError(f"{source}: cluster {context.get('cluster')!r} has no server, such as https://HOST:6443")
        if base is None and (named := [name for name in _ELSEWHERE if cluster.get(name) or user.get(name)]):
            raise ConfigError(f"{source}: {', '.join(named)} would be of this machine; embed what is needed")
        token_file = user.get("tokenFile")
        return cls(
            server=cluster["server"].rstrip("/"),
            ca=_data(cluster, "certificate-authority", base, source),
            cert=_data(user, "client-certificate", base, source),
            key=_data(user, "client-key", base, source),
            token=user.get("token") or "",
            token_file=_resolve(token_file, base) if token_file else None,
            namespace=context.get("namespace") or "default",
            tls_server_name=cluster.get("tls-server-name") or "",
            insecure=bool(cluster.get("insecure-skip-tls-verify")),
            plugin=config if user.keys() & {"exec", "auth-provider"} else None,
        )

    @classmethod
    def in_cluster(cls) -> Kubeconfig:
        """From the ServiceAccount that a pod has mounted.

        :raises ConfigError: if it is not there.
        """
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        try:
            ca = (SERVICE_ACCOUNT / "ca.crt").read_bytes()
            namespace = (SERVICE_ACCOUNT / "namespace").read_text().strip()
        except OSError as error:
            raise ConfigError(f"this pod has no ServiceAccount token mounted: {error}") from error
        address = f"[{host}]" if ":" in host else host
        return cls(server=f"https://{address}:{port}", ca=ca, token_file=SERVICE_ACCOUNT / "token", namespace=namespace)


def _is_url(server: object) -> bool:
    if not isinstance(server, str):
        return False
    try:
        url = urlsplit(server)
        return url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
    except ValueError:
        return False


def _context(config: dict[str, Any], source: str) -> dict[str, Any]:
    current = config.get("current-context")
    contexts = config.get("contexts") or []
    if not current and len(contexts) == 1:
        current = contexts[0].get("name")
    if current:
        return _named(config, "contexts", "context", current, source)
    # A kubeconfig made by hand may lack contexts; with one cluster and one user there is nothing to choose.
    clusters, users = config.get("clusters") or [], config.get("users") or []
    if len(clusters) == 1 and len(users) == 1:
        return {"cluster": clusters[0].get("name"), "user": users[0].get("name")}
    raise ConfigError(f"{source} has no current-context: set one with `kubectl config use-context NAME`")


def _named(config: dict[str, Any], plural: str, singular: str, name: object, source: str) -> dict[str, Any]:
    for entry in config.get(plural) or []:
        if isinstance(entry, dict) and entry.get("name") == name:
            return entry.get(singular) or {}
    raise ConfigError(f"{source}: there is no {singular} {name!r} among its {plural}")


def _resolve(name: str, base: Path | None) -> Path:
    path = Path(name).expanduser()
    return path if path.is_absolute() or base is None else base / path


def _data(entry: dict[str, Any], name: str, base: Path | None, source: str) -> bytes:
    """A PEM that is either embedded in base64 (``NAME-data``) or in a file (``NAME``)."""
    if entry.get(f"{name}-data"):
        try:
            return base64.b64decode(entry[f"{name}-data"], validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise ConfigError(f"{source}: {name}-data is not base64") from None
    if entry.get(name):
        path = _resolve(entry[name], base)
        try:
            return path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{source}: cannot read {name} {path}: {error.strerror}") from error
    return b""
