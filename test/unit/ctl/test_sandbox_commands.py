"""``dpfctl sandbox`` where there is no sandbox, or the command line is wrong."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from dpf.ctl import lifecycle
from dpf.sandbox import control
from dpf.sandbox.fleet.faults import Fault
from dpf.sandbox.layout import Layout
from dpf_cmd.dpfctl import main


def run(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["sandbox", *argv])
    code = ended.value.code
    assert isinstance(code, int)
    return code


@pytest.mark.parametrize(
    "argv", [("env",), ("samples",), ("ps",), ("cards", "-o", "json"), ("kill", "etcd"), ("fault", "c", "--clear")]
)
def test_commands_say_that_there_is_no_sandbox(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...]
) -> None:
    assert run(*argv, "--data-dir", str(tmp_path)) == 1
    wanted = f"no sandbox runs in {tmp_path}; `dpfctl sandbox up` starts one, --data-dir names another"
    assert wanted in capsys.readouterr().err


def test_a_socket_that_a_killed_sandbox_left_is_no_sandbox(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Layout(tmp_path).control_socket
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert run("ps", "--data-dir", str(tmp_path)) == 1
    assert f"no sandbox runs in {tmp_path}" in capsys.readouterr().err


def test_help_says_what_each_fault_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fault", "--help") == 0
    text = capsys.readouterr().out
    for fault in Fault:
        assert f"{fault:<25}{fault.meaning}" in text


def test_down_without_a_sandbox_is_fine(tmp_path: Path) -> None:
    assert run("down", "--data-dir", str(tmp_path)) == 0


def test_a_sandbox_that_does_not_end_keeps_its_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(_: Path, method: str, path: str) -> object:
        return {"pid": os.getpid()}  # as alive as this

    layout = Layout(tmp_path)
    layout.logs.mkdir(parents=True)
    monkeypatch.setattr(control, "ask", ask)
    monkeypatch.setattr(lifecycle, "GONE_WITHIN", 0.01)
    assert run("down", "--data-dir", str(tmp_path)) == 1
    assert f"the sandbox does not end: see {layout.logs}, and kill process {os.getpid()}" in capsys.readouterr().err
    assert layout.logs.exists()


def test_impossible_fleet_is_refused_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("up", "--dpus", "5000", "--data-dir", str(tmp_path)) == 2
    assert "hosts at most" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_demo_of_no_dpus_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, why in (("0", "it takes --dpus 1 or more"), ("5000", "a sandbox has addresses for 4094 hosts at most")):
        assert run("demo", "--dpus", words, "--data-dir", str(tmp_path)) == 2
        assert capsys.readouterr() == ("", f"error: {why}\n")
    assert list(tmp_path.iterdir()) == []


def test_fault_needs_a_kind_or_clear(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fault", "card", "--data-dir", str(tmp_path)) == 2
    assert "install-fails" in capsys.readouterr().err


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    text = capsys.readouterr().out
    for command in ("up", "env", "samples", "ps", "kill", "cards", "fault", "down", "demo"):
        assert command in text


def test_a_fault_that_nobody_knows_is_told_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fault", "worker1-0000-04-00", "nonsense") == 2
    assert "choose from 'install-fails', 'install-hangs'" in capsys.readouterr().err
