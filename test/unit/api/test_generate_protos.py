"""The stubs that are generated from the protos."""

from __future__ import annotations

from pathlib import Path

import pytest

from hack import generate_protos


def test_stubs_are_what_the_protos_say() -> None:
    assert generate_protos.main(["--check"]) == 0


def test_check_finds_what_is_missing_changed_or_left_over(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    where = ["--root", str(tmp_path)]
    assert generate_protos.main(where) == 0
    assert generate_protos.main(["--check", *where]) == 0
    stubs = tmp_path / generate_protos.STUBS
    (stubs / "gnoi_os_pb2.py").write_text("")
    (stubs / "gnoi_os_pb2.pyi").unlink()
    (stubs / "gone_pb2.py").touch()
    capfd.readouterr()
    assert generate_protos.main(["--check", *where]) == 1
    told = [line.split(" ")[0].rpartition("/")[2] for line in capfd.readouterr().err.splitlines()]
    assert told == ["gnoi_os_pb2.py", "gnoi_os_pb2.pyi", "gone_pb2.py"]
