"""Which folders ``dpfctl sandbox`` takes for a sandbox's, and that it leaves all others as they are."""

from __future__ import annotations

import argparse
import fcntl
import os
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dpf.ctl import lifecycle
from dpf.runtime.errors import ConfigError
from dpf.sandbox import lock
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


def names_in(folder: Path) -> set[str]:
    return {str(each.relative_to(folder)) for each in folder.rglob("*")}


@pytest.mark.parametrize("command", ["up", "demo", "down"])
def test_while_an_up_builds_the_folder_is_nobody_elses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    layout = remains_in(tmp_path)
    SETTINGS.write(layout)
    layout.marker.touch()
    before = names_in(tmp_path)

    def ensure() -> None:
        monkeypatch.setattr(binaries, "ensure", lambda: pytest.fail("another got as far as to build"))
        assert run(command, tmp_path) == 1
        assert names_in(tmp_path) == before
        told = capsys.readouterr().err
        assert told.startswith(
            f"error: {tmp_path} is in use, by another `dpfctl sandbox` or by a sandbox that does not"
        )
        assert told.endswith(f"kill process {os.getpid()}\n")
        raise ConfigError("no compiler")

    monkeypatch.setattr(binaries, "ensure", ensure)
    assert run("up", tmp_path) == 1
    assert names_in(tmp_path) == before
    assert run("down", tmp_path) == 0
    assert names_in(tmp_path) == set()


def test_a_supervisor_has_the_folder_until_it_ends_however_it_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a program here that never listens on a socket, as one whose socket was unlinked."""
    layout, started = Layout(tmp_path), list[subprocess.Popen[bytes]]()
    popen = subprocess.Popen

    def sleeper(_: list[str], **how: Any) -> subprocess.Popen[bytes]:
        started.append(popen(["sleep", "3600"], **how))
        return started[-1]

    async def ready(*_: object) -> str:
        return ""

    monkeypatch.setattr(binaries, "ensure", lambda: None)
    monkeypatch.setattr(subprocess, "Popen", sleeper)
    monkeypatch.setattr(lifecycle, "_await_ready", ready)
    assert run("up", tmp_path) == 0
    supervisor = started[0]
    supervisor.returncode = None
    try:
        for command in ("up", "down", "demo"):
            assert run(command, tmp_path) == 1
            assert f"kill process {supervisor.pid}\n" in capsys.readouterr().err
        assert names_in(tmp_path) == {layout.marker.name, "logs", "logs/supervisor.log"}
    finally:
        for each in started:
            each.returncode = None
            each.kill()
            each.wait()
    assert run("down", tmp_path) == 0
    assert names_in(tmp_path) == set()


@contextmanager
def answering(layout: Layout, answer: bytes) -> Iterator[None]:
    """What listens on the control socket and answers everything with that."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(answer)

    with socketserver.ThreadingUnixStreamServer(str(layout.control_socket), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("unbuildable")
@pytest.mark.parametrize("command", ["up", "demo", "down"])
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 9\r\n\r\n500 Error", "HTTP 500"),
        (b'HTTP/1.1 500 Error\r\nContent-Length: 16\r\n\r\n{"error":"full"}', "full"),
        (b"", "Server disconnected"),
    ],
)
def test_a_sandbox_that_does_not_answer_as_it_should_keeps_its_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, answer: bytes, said: str
) -> None:
    layout = remains_in(tmp_path)
    layout.marker.touch()
    with answering(layout, answer):
        before = names_in(tmp_path)
        assert run(command, tmp_path) == 1
        assert names_in(tmp_path) == before
    told = capsys.readouterr().err
    assert f"a sandbox runs in {tmp_path} and does not answer as it should" in told
    assert said in told
    assert told.endswith("kill its supervisor\n"), "that is all that is known of a sandbox of before"


def test_a_lock_on_a_folder_that_was_taken_down_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who opened the marker before it was removed, and locked it after, makes a new one."""
    layout = Layout(tmp_path / "sandbox")
    flock, opened = fcntl.flock, list[int]()

    def late(descriptor: int, how: int) -> None:
        if not opened:
            layout.marker.unlink()
            layout.data_dir.rmdir()
        opened.append(descriptor)
        flock(descriptor, how)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", late)
        with lock.held(layout):
            assert len(opened) == 2
            with pytest.raises(lock.Taken), lock.held(layout):
                pass


def test_a_folder_that_cannot_be_written_to_is_an_error_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ControlError, match="cannot use"):
        lifecycle.bring_up(Layout(tmp_path / "file"), argparse.Namespace(), lambda _: None)
    assert run("up", tmp_path / "file") == 1
    assert capsys.readouterr().err.startswith("error: cannot use")
