"""What the processes of one cluster's control plane are: their commands, certificates, and how to see that they are ready."""

from __future__ import annotations

import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from dpf.sandbox.controlplane import pki
from dpf.sandbox.fleet.disk import write_private

LOOPBACK = "127.0.0.1"

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
    "daemonset-controller",
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

    def __init__(
        self,
        name: str,
        folder: Path,
        port: int,
        manager_port: int,
        service_net: int,
        *,
        address: str = LOOPBACK,
        etcd_prefix: str = "",
    ) -> None:
        """
        :param service_net: second byte of the network of its Services.
        :param address: where the API server listens.
        :param etcd_prefix: what its keys begin with; its name if left out.
        """
        self.name = name
        self.url = f"https://{address}:{port}"
        self._address = address
        self._etcd_prefix = etcd_prefix or f"/{name}"
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
        write_private(path, pki.kubeconfig(self.url, self.ca, cert=cert, key=key, namespace=namespace).encode())
        return path

    def prepare(self) -> None:
        """Writes certificates, kubeconfigs and the audit policy."""
        names = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            LOOPBACK,
            self._service_ip,
            *([self._address] if self._address != LOOPBACK else []),
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
            "etcd-prefix": self._etcd_prefix,
            "etcd-cafile": etcd_keys / "ca.crt",
            "etcd-certfile": etcd_keys / "client.crt",
            "etcd-keyfile": etcd_keys / "client.key",
            "bind-address": self._address,
            "advertise-address": self._address,
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
            f"{self.name}-apiserver", command(binary, flags), log, f"{self.url}/readyz", folder / "ca.crt"
        )

    def controller_manager(self, binary: Path, log: Path, *, node_grace: int) -> ProcessSpec:
        """The controller-manager. ``node_grace``: seconds without a lease after which a node is not ready."""
        folder = self.pki.folder
        flags = {
            "kubeconfig": self._folder / "kcm.conf",
            "bind-address": LOOPBACK,
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
        url = f"https://{LOOPBACK}:{self._manager_port}/healthz"
        return ProcessSpec(f"{self.name}-controller-manager", command(binary, flags), log, url, folder / "ca.crt")


def command(program: Path, flags: dict[str, object]) -> list[str]:
    """The command line of a program with flags."""
    return [str(program), *(f"--{name}={value}" for name, value in flags.items())]
