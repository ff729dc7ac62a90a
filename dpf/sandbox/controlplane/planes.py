"""What the processes of two control planes are: their commands, certificates, ports and how to see that they are ready.

This module starts nothing: :class:`ControlPlanes` names :class:`ProcessSpec` s in the order in which they must be up, and whoever
runs them (the sandbox's supervisor, the tests' runner) may end and start each alone. Ports are picked once and kept on disk, so
that a process that comes back is found where it was.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dpf.sandbox.controlplane import pki

KCM_CONTROLLERS = (
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "root-ca-certificate-publisher-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "certificatesigningrequest-signing-controller",
    "certificatesigningrequest-approving-controller",
    "certificatesigningrequest-cleaner-controller",
    "bootstrap-signer-controller",
    "token-cleaner-controller",
    "node-lifecycle-controller",
    "clusterrole-aggregation-controller",
)
"""What the system leans on; the rest would only keep two cores busy."""

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}],
}


@dataclass(frozen=True)
class ProcessSpec:
    """A process to run: ready when ``ready_url`` answers 200 (its certificate is the cluster's)."""

    name: str
    command: Sequence[str]
    log_file: Path
    ready_url: str
    ca: Path | None = None
    client: tuple[Path, Path] | None = None
    """Certificate and key to ask with, where the answer is not for everybody."""

    def ssl_context(self) -> ssl.SSLContext | None:
        """How to ask ``ready_url``."""
        if self.ca is None:
            return None
        context = ssl.create_default_context(cafile=str(self.ca))
        if self.client is not None:
            context.load_cert_chain(*map(str, self.client))
        return context


class ClusterPlane:
    """One cluster's API server and controller-manager."""

    def __init__(self, name: str, folder: Path, port: int, manager_port: int, service_net: int) -> None:
        self.name = name
        self.url = f"https://127.0.0.1:{port}"
        self.audit_log = folder / "audit.log"
        self.pki = pki.Pki(folder / "pki", name)
        self._folder = folder
        self._port = port
        self._manager_port = manager_port
        self._service_cidr = f"10.{service_net}.0.0/16"
        self._service_ip = f"10.{service_net}.0.1"

    @property
    def ca(self) -> bytes:
        """The cluster's authority, PEM."""
        return self.pki.ca.read_bytes()

    @property
    def admin_kubeconfig(self) -> Path:
        """The kubeconfig of a cluster administrator."""
        return self._folder / "admin.conf"

    def user_kubeconfig(self, name: str, groups: Sequence[str] = (), *, file: str = "", namespace: str = "default") -> Path:
        """The kubeconfig of any user or, by its full name, of a ServiceAccount; made on first use."""
        file = file or name.replace(":", "_").replace("/", "_")
        path = self._folder / f"{file}.conf"
        cert, key = self.pki.user(file, name, groups)
        pki.write_private(path, pki.kubeconfig(self.url, self.ca, cert=cert, key=key, namespace=namespace).encode())
        return path

    def account_kubeconfig(self, name: str, namespace: str) -> Path:
        """The kubeconfig of a ServiceAccount, by a certificate that names it as its token would."""
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        user = f"system:serviceaccount:{namespace}:{name}"
        return self.user_kubeconfig(user, groups, file=f"account-{name}", namespace=namespace)

    def prepare(self) -> None:
        """Writes certificates, kubeconfigs and the audit policy."""
        names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "127.0.0.1", self._service_ip]
        self.pki.prepare(names)
        self.user_kubeconfig("admin", ("system:masters",), file="admin")
        self.user_kubeconfig("system:kube-controller-manager", file="kcm")
        (self._folder / "audit.json").write_text(json.dumps(AUDIT_POLICY))

    def api_server(self, binary: Path, etcd_url: str, log: Path, *, audit: bool) -> ProcessSpec:
        """The API server, with RBAC and the admission plugins of a production cluster."""
        folder = self.pki.folder
        flags = {
            "etcd-servers": etcd_url,
            "etcd-prefix": f"/{self.name}",
            "bind-address": "127.0.0.1",
            "advertise-address": "127.0.0.1",
            "secure-port": self._port,
            "cert-dir": self._folder / "run",
            "tls-cert-file": folder / "apiserver.crt",
            "tls-private-key-file": folder / "apiserver.key",
            "client-ca-file": folder / "ca.crt",
            "service-account-key-file": folder / "sa.pub",
            "service-account-signing-key-file": folder / "sa.key",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-cluster-ip-range": self._service_cidr,
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "enable-bootstrap-token-auth": "true",
            "allow-privileged": "true",
            "endpoint-reconciler-type": "none",
            "event-ttl": "1h",
        }
        if audit:
            flags |= {"audit-policy-file": self._folder / "audit.json", "audit-log-path": self.audit_log}
        return ProcessSpec(
            f"{self.name}-apiserver", _command(binary, flags), log, f"{self.url}/readyz", folder / "ca.crt"
        )

    def controller_manager(self, binary: Path, log: Path, *, node_grace: int) -> ProcessSpec:
        """The controller-manager. ``node_grace``: seconds without a lease after which a node is not ready."""
        folder = self.pki.folder
        flags = {
            "kubeconfig": self._folder / "kcm.conf",
            "bind-address": "127.0.0.1",
            "secure-port": self._manager_port,
            "cert-dir": self._folder / "run",
            "tls-cert-file": folder / "apiserver.crt",
            "tls-private-key-file": folder / "apiserver.key",
            "use-service-account-credentials": "true",
            "service-account-private-key-file": folder / "sa.key",
            "root-ca-file": folder / "ca.crt",
            "cluster-signing-cert-file": folder / "ca.crt",
            "cluster-signing-key-file": folder / "ca.key",
            "leader-elect": "false",
            "controllers": ",".join(KCM_CONTROLLERS),
            "kube-api-qps": 500,
            "kube-api-burst": 1000,
            "concurrent-gc-syncs": 4,
            "node-monitor-grace-period": f"{node_grace}s",
        }
        url = f"https://127.0.0.1:{self._manager_port}/healthz"
        return ProcessSpec(f"{self.name}-controller-manager", _command(binary, flags), log, url, folder / "ca.crt")


class ControlPlanes:
    """The control planes of a host cluster and a DPU cluster in one folder.

    :param binaries: the folder that :func:`dpf.sandbox.controlplane.binaries.ensure` gave.
    :param node_grace: seconds without a lease after which a node counts as not ready.
    """

    def __init__(
        self, folder: Path, binaries: Path, *, logs: Path | None = None, audit: bool = False, node_grace: int = 50
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._binaries = binaries
        self._logs = logs or folder / "logs"
        self._audit = audit
        self._node_grace = node_grace
        ports = _ports(folder / "ports.json", 6)
        self._etcd_ports = ports[:2]
        self.host = ClusterPlane("host", folder / "host", ports[2], ports[3], 96)
        self.dpu = ClusterPlane("dpu", folder / "dpu", ports[4], ports[5], 97)

    def prepare(self) -> None:
        """Writes everything the processes read."""
        self._logs.mkdir(parents=True, exist_ok=True)
        for plane in (self.host, self.dpu):
            plane.prepare()

    def stages(self) -> list[list[ProcessSpec]]:
        """The processes, those that may start together in one list; each list needs the one before it."""
        client, peer = (f"http://127.0.0.1:{port}" for port in self._etcd_ports)
        data = self._folder / "etcd"
        data.mkdir(mode=0o700, exist_ok=True)
        etcd = {
            "data-dir": data,
            "unsafe-no-fsync": "true",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "log-level": "warn",
            "auto-compaction-retention": "10m",
            "quota-backend-bytes": 4 << 30,
        }
        planes = (self.host, self.dpu)
        api, manager = self._binaries / "kube-apiserver", self._binaries / "kube-controller-manager"
        return [
            [ProcessSpec("etcd", _command(self._binaries / "etcd", etcd), self._logs / "etcd.log", f"{client}/health")],
            [p.api_server(api, client, self._logs / f"{p.name}-apiserver.log", audit=self._audit) for p in planes],
            [
                p.controller_manager(manager, self._logs / f"{p.name}-kcm.log", node_grace=self._node_grace)
                for p in planes
            ],
        ]


def _command(program: Path, flags: dict[str, object]) -> list[str]:
    return [str(program), *(f"--{name}={value}" for name, value in flags.items())]


def _ports(path: Path, number: int) -> list[int]:
    """Ports that were free when the folder was new."""
    if path.exists():
        ports: list[int] = json.loads(path.read_text())
        return ports
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
    path.write_text(json.dumps(ports))
    return ports
