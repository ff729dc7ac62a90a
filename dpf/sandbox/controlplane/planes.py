"""What the processes of two control planes are: their commands, certificates, ports and how to see that they are ready.

This module starts nothing: :class:`ControlPlanes` names :class:`ProcessSpec` s in the order in which they must be up, and whoever
runs them (the sandbox's supervisor, the tests' runner) may end and start each alone. Ports are picked once and kept on disk, so
that a process that comes back is found where it was.
"""

from __future__ import annotations

import json
import random
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

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
    "taint-eviction-controller",
    "pod-garbage-collector-controller",
    "disruption-controller",
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

    def user_kubeconfig(
        self, name: str, groups: Sequence[str] = (), *, file: str = "", namespace: str = "default"
    ) -> Path:
        """The kubeconfig of any user or, by its full name, of a ServiceAccount; made on first use."""
        file = file or "user-" + quote(name, safe="")
        path = self._folder / f"{file}.conf"
        cert, key = self.pki.user(file, name, groups)
        pki.write_private(path, pki.kubeconfig(self.url, self.ca, cert=cert, key=key, namespace=namespace).encode())
        return path

    def account_kubeconfig(self, name: str, namespace: str) -> Path:
        """The kubeconfig of a ServiceAccount, by a certificate that names it as its token would."""
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
        user = f"system:serviceaccount:{namespace}:{name}"
        return self.user_kubeconfig(user, groups, file=f"account-{namespace}-{name}", namespace=namespace)

    def prepare(self) -> None:
        """Writes certificates, kubeconfigs and the audit policy."""
        names = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "127.0.0.1",
            self._service_ip,
        ]
        self.pki.prepare(names)
        self.user_kubeconfig("admin", ("system:masters",), file="admin")
        self.user_kubeconfig("system:kube-controller-manager", file="kcm")
        (self._folder / "audit.json").write_text(json.dumps(AUDIT_POLICY))

    def api_server(self, binary: Path, etcd_url: str, etcd_keys: Path, log: Path, *, audit: bool) -> ProcessSpec:
        """The API server, with RBAC and the admission plugins of a production cluster."""
        folder = self.pki.folder
        flags = {
            "etcd-servers": etcd_url,
            "etcd-prefix": f"/{self.name}",
            "etcd-cafile": etcd_keys / "ca.crt",
            "etcd-certfile": etcd_keys / "client.crt",
            "etcd-keyfile": etcd_keys / "client.key",
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
        self._etcd_pki = pki.Pki(folder / "etcd-pki", "etcd")
        self._ports_file = folder / "ports.json"
        if self._ports_file.exists():
            self._take(json.loads(self._ports_file.read_text()))
        else:
            self._pick_ports([0] * 6)

    def _take(self, ports: list[int]) -> None:
        self._ports = ports
        self.host = ClusterPlane("host", self._folder / "host", ports[2], ports[3], 96)
        self.dpu = ClusterPlane("dpu", self._folder / "dpu", ports[4], ports[5], 97)

    def _pick_ports(self, ports: list[int]) -> None:
        self._take(_free_ports(ports))
        self._ports_file.write_text(json.dumps(self._ports))

    def prepare(self) -> None:
        """Writes everything the processes read. Nothing may run yet: a port that is in use is replaced by a free one."""
        self._pick_ports(self._ports)
        self._logs.mkdir(parents=True, exist_ok=True)
        self._etcd_pki.prepare(["127.0.0.1"])
        self._etcd_pki.user("client", "kube-apiserver")
        for plane in (self.host, self.dpu):
            plane.prepare()

    def stages(self) -> list[list[ProcessSpec]]:
        """The processes, those that may start together in one list; each list needs the one before it."""
        client, peer = (f"https://127.0.0.1:{port}" for port in self._ports[:2])
        data = self._folder / "etcd"
        data.mkdir(mode=0o700, exist_ok=True)
        keys = self._etcd_pki.folder
        etcd: dict[str, object] = {
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
        for role in ("", "peer-"):
            etcd |= {f"{role}trusted-ca-file": keys / "ca.crt", f"{role}client-cert-auth": "true"}
            etcd |= {f"{role}cert-file": keys / "apiserver.crt", f"{role}key-file": keys / "apiserver.key"}
        planes = (self.host, self.dpu)
        api, manager = self._binaries / "kube-apiserver", self._binaries / "kube-controller-manager"
        return [
            [
                ProcessSpec(
                    "etcd",
                    _command(self._binaries / "etcd", etcd),
                    self._logs / "etcd.log",
                    f"{client}/health",
                    keys / "ca.crt",
                    (keys / "client.crt", keys / "client.key"),
                )
            ],
            [
                p.api_server(api, client, keys, self._logs / f"{p.name}-apiserver.log", audit=self._audit)
                for p in planes
            ],
            [
                p.controller_manager(manager, self._logs / f"{p.name}-kcm.log", node_grace=self._node_grace)
                for p in planes
            ],
        ]


def _command(program: Path, flags: dict[str, object]) -> list[str]:
    return [str(program), *(f"--{name}={value}" for name, value in flags.items())]


def _free_ports(wanted: list[int]) -> list[int]:
    """The wanted ports, but for those that are 0 or that somebody else holds.

    They lie below the range that the kernel gives to outgoing connections: one of those could else take the port of a process
    that is being restarted.
    """
    ports: list[int] = []
    for port in wanted:
        while not port or port in ports or not _is_free(port):
            port = random.randint(20000, 32000)  # noqa: S311  (no secret)
        ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
