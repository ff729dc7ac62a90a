"""Which folders ``dpfctl sandbox`` takes for a sandbox's, and that it leaves all others as they are."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import pytest

from dpf.ctl import lifecycle
from dpf.runtime.errors import ConfigError
from dpf.sandbox.control import ControlError
from dpf.sandbox.controlplane import binaries
from dpf.sandbox.fleet.cardstate import Durations
from dpf.sandbox.layout import Layout, default_data_dir
from dpf.sandbox.settings import Settings
from dpf_cmd.dpfctl import main

SETTINGS = Settings(dpus=1, dpus_per_host=1, block="127.16.0.0", durations=Durations(), in_process=False)


def run(command: str, folder: Path, *argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["sandbox", command, "--data-dir", str(folder), *argv])
    code = ended.value.code
    assert isinstance(code, int)
    return code


def photo_in(folder: Path) -> Path:
    """A file of somebody's, at a place that a sandbox would use too."""
    path = folder / "images" / "holiday.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"us")
    return path


def remains_in(folder: Path) -> Layout:
    layout = Layout(folder)
    for each in (layout.images, layout.fleet_dir, layout.logs, layout.run_dir):
        each.mkdir(parents=True, exist_ok=True)
        (each / "x").touch()
    return layout


@pytest.fixture
def unbuildable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that can't be built: ``up`` ends before anything is started."""

    def ensure() -> None:
        raise ConfigError("no compiler")

    monkeypatch.setattr(binaries, "ensure", ensure)


@pytest.mark.usefixtures("unbuildable")
@pytest.mark.parametrize("command", ["up", "demo", "down"])
def test_a_folder_that_is_no_sandboxs_keeps_what_is_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    photo = photo_in(tmp_path)
    assert run(command, tmp_path) == (0 if command == "down" else 1)
    assert photo.read_bytes() == b"us"
    assert list(tmp_path.iterdir()) == [photo.parent]
    told = capsys.readouterr()
    if command != "down":
        assert told.err == (
            f"error: {tmp_path} is no sandbox's and not empty: name another by --data-dir, or empty it\n"
        )
        assert told.out == ""


def test_settings_of_another_program_do_not_make_a_folder_a_sandboxs(tmp_path: Path) -> None:
    photo = photo_in(tmp_path)
    Layout(tmp_path).settings.write_text('{"template": "react"}')
    assert "is no sandbox's" in lifecycle.refusal(Layout(tmp_path))
    assert run("down", tmp_path) == 0
    assert photo.exists()


def test_a_folder_that_is_empty_or_not_there_may_become_a_sandboxs_and_down_does_not_remove_it(tmp_path: Path) -> None:
    assert lifecycle.refusal(Layout(tmp_path)) == ""
    assert lifecycle.refusal(Layout(tmp_path / "new")) == ""
    assert run("down", tmp_path) == 0
    assert tmp_path.exists()


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert lifecycle.refusal(Layout(tmp_path / "file")) == f"cannot use {tmp_path / 'file'}: Not a directory"


def test_a_sandbox_of_before_there_was_a_marker_is_known_by_its_settings(tmp_path: Path) -> None:
    layout = remains_in(tmp_path / "sandbox")
    SETTINGS.write(layout)
    assert lifecycle.refusal(layout) == ""
    assert run("down", layout.data_dir) == 0
    assert not layout.data_dir.exists()


def test_the_default_folder_is_a_sandboxs_whatever_an_earlier_version_left_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    layout = remains_in(default_data_dir())
    assert lifecycle.refusal(layout) == ""
    assert run("down", layout.data_dir) == 0
    assert not layout.data_dir.exists()


@pytest.mark.usefixtures("unbuildable")
def test_up_that_ended_before_anything_was_made_can_be_repeated_and_taken_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sandbox"
    for _ in range(2):
        assert run("up", folder) == 1
        assert capsys.readouterr().err == "error: no compiler\n"
        assert list(folder.iterdir()) == [Layout(folder).marker]
    assert run("down", folder) == 0
    assert not folder.exists()


def test_up_begins_without_what_an_earlier_sandbox_left_and_with_what_is_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = remains_in(tmp_path)
    SETTINGS.write(layout)
    (tmp_path / "notes.txt").touch()

    class Started(Exception):
        pass

    def popen(*_: object, **__: object) -> None:
        raise Started

    monkeypatch.setattr(binaries, "ensure", lambda: None)
    monkeypatch.setattr(subprocess, "Popen", popen)
    asked = argparse.Namespace(dpus=1, dpus_per_host=1, no_delays=False, log_level="info", without=[])
    with pytest.raises(Started):
        lifecycle.bring_up(layout, asked, lambda _: None)
    assert {each.name for each in tmp_path.iterdir()} == {layout.marker.name, "logs", "notes.txt"}
    assert [each.name for each in layout.logs.iterdir()] == ["supervisor.log"]


def test_a_folder_with_the_logs_of_a_demo_that_failed_is_used_again(tmp_path: Path) -> None:
    layout = remains_in(tmp_path)
    layout.marker.touch()
    lifecycle.take_down(layout, keep_logs=True)
    assert {each.name for each in tmp_path.iterdir()} == {layout.marker.name, "logs"}
    assert lifecycle.refusal(layout) == ""


def test_down_leaves_what_somebody_else_put_into_a_sandboxs_folder(tmp_path: Path) -> None:
    layout = remains_in(tmp_path)
    layout.marker.touch()
    (tmp_path / "notes.txt").touch()
    assert run("down", tmp_path) == 0
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_cannot_be_written_to_is_an_error_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ControlError, match="cannot use"):
        lifecycle.bring_up(Layout(tmp_path / "file"), argparse.Namespace(), lambda _: None)
    assert run("up", tmp_path / "file") == 1
    assert capsys.readouterr().err.startswith("error: cannot use")
