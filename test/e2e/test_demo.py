"""The demo, whole: what the README promises to show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_the_demo_shows_a_dpu_become_ready_and_leaves_nothing() -> None:
    folder = Path(f"/tmp/dpf-demo-{os.getpid()}")
    command = [sys.executable, "-m", "dpf_cmd.dpfctl", "sandbox", "demo", "--dpus", "2", "--data-dir", str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for line in (
        "A sandbox with 2 simulated DPUs comes up.",
        "2 DPUs are Ready",
        "requests per DPU",
        "taken down again",
    ):
        assert line in ended.stdout
    assert ended.stdout.count("worker1-0000-04-00  Ready") == 1
    assert not folder.exists()
