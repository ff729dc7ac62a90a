"""What the control planes' processes are told."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from dpf.runtime.kubeconfig import Kubeconfig
from dpf.sandbox.controlplane.planes import ControlPlanes


def ports(folder: Path) -> list[int]:
    found: list[int] = json.loads((folder / "ports.json").read_text())
    return found


def test_ports_are_kept_so_that_kubeconfigs_stay_good(tmp_path: Path) -> None:
    first = ControlPlanes(tmp_path, tmp_path / "bin")
    kept = ports(tmp_path)
    assert len(set(kept)) == 6
    assert ControlPlanes(tmp_path, tmp_path / "bin").host.url == first.host.url
    assert ports(tmp_path) == kept


def test_a_port_that_somebody_took_meanwhile_is_replaced(tmp_path: Path) -> None:
    ControlPlanes(tmp_path, tmp_path / "bin")
    before = ports(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", before[2]))
        other.listen()
        planes = ControlPlanes(tmp_path, tmp_path / "bin")
        assert ports(tmp_path) == before
        planes.prepare()
    after = ports(tmp_path)
    assert after[2] != before[2]
    assert Kubeconfig.load(planes.host.admin_kubeconfig).server == f"https://127.0.0.1:{after[2]}"
    assert after[:2] + after[3:] == before[:2] + before[3:]


def test_requests_are_logged_only_when_asked_for(tmp_path: Path) -> None:
    def flags(*, audit: bool) -> str:
        planes = ControlPlanes(tmp_path, tmp_path / "bin", audit=audit)
        return " ".join(word for stage in planes.stages() for spec in stage for word in spec.command)

    assert "--audit-log-path" not in flags(audit=False)
    assert "--audit-log-path" in flags(audit=True)
