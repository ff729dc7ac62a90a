"""What ``make bench`` compares with."""

from __future__ import annotations

from pathlib import Path

import pytest

from test.bench import framework


def test_a_peer_is_looked_for_only_where_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "shared" / "peers" / "controller-runtime"
    source.mkdir(parents=True)
    (source / "go.mod").touch()
    monkeypatch.chdir(source.parent)
    monkeypatch.setattr(framework, "ROOT", tmp_path / "clone")
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/go")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: None)
    monkeypatch.setattr("dpf.sandbox.controlplane.binaries.cache_root", lambda: tmp_path)

    monkeypatch.delenv("DPF_PEERS", raising=False)
    assert [each.name for each in framework.contenders()] == ["ours"]
    monkeypatch.setenv("DPF_PEERS", str(source.parent))
    assert [each.name for each in framework.contenders()] == ["ours", "controller-runtime"]
