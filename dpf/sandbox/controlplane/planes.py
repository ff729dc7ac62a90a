"""What the processes of two control planes are: their commands, certificates, ports and how to see that they are ready.

This module starts nothing: :class:`ControlPlanes` names :class:`ProcessSpec` s in the order in which they must be up, and whoever
runs them (the sandbox's supervisor, the tests' runner) may end and start each alone. Ports are picked once and kept on disk, so
that a process that comes back is found where it was.
"""

from __future__ import annotations

import json
import random
import socket
from pathlib import Path

from dpf.sandbox.controlplane import pki
from dpf.sandbox.controlplane.etcd import Etcd
from dpf.sandbox.controlplane.plane import LOOPBACK, ClusterPlane, ProcessSpec, command


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
        self._take(free_ports(ports))
        self._ports_file.write_text(json.dumps(self._ports))

    def prepare(self) -> None:
        """Writes everything the processes read. Nothing may run yet: a port that is in use is replaced by a free one."""
        self._pick_ports(self._ports)
        self._logs.mkdir(parents=True, exist_ok=True)
        self._etcd_pki.prepare([LOOPBACK])
        self._etcd_pki.user("client", "kube-apiserver")
        for plane in (self.host, self.dpu):
            plane.prepare()

    @property
    def etcd(self) -> Etcd:
        """The database of all clusters."""
        return Etcd(f"https://{LOOPBACK}:{self._ports[0]}", self._etcd_pki.folder)

    def stages(self) -> list[list[ProcessSpec]]:
        """The processes, those that may start together in one list; each list needs the one before it."""
        client, peer = (f"https://{LOOPBACK}:{port}" for port in self._ports[:2])
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
                    command(self._binaries / "etcd", etcd),
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


def free_ports(wanted: list[int]) -> list[int]:
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
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
