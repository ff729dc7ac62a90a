"""The process: its flags."""

from __future__ import annotations

import pytest

from dpf.clustermanager.kamaji import Settings
from dpf.runtime.options import parse
from dpf_cmd.kamaji_cluster_manager import Options


def options(*argv: str) -> Options:
    return parse(Options, argv, prog="kamaji-cluster-manager", description="")


def test_without_flags_clusters_are_made_as_v24_10_made_them() -> None:
    assert options().settings() == Settings()


def test_images_secrets_store_and_replicas_are_flags() -> None:
    words = ["--keepalived-image=r/k:1", "--configuration-image=r/a:1", "--image-pull-secrets=a,b"]
    found = options(*words, "--data-store=fast", "--replicas=1").settings()
    assert found == Settings("fast", 1, "r/k:1", "r/a:1", ("a", "b"))


def test_how_long_a_control_plane_may_take_is_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert options("--control-plane-timeout=3m").settings().control_plane_timeout == 180
    with pytest.raises(SystemExit):
        options("--control-plane-timeout=0")
    assert "--control-plane-timeout: must be more than 0" in capsys.readouterr().err


def test_a_control_plane_without_pods_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        options("--replicas=0")
    assert ended.value.code == 2
    assert "--replicas" in capsys.readouterr().err
