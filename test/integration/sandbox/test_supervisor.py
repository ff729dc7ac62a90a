"""``dpfctl sandbox`` from up to down; the managers are left out here, because they have tests of their own."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from dpf.runtime.kubeconfig import Kubeconfig
from dpf.sandbox import control
from dpf.sandbox.api import Api
from dpf.sandbox.layout import NAMESPACE, Layout
from dpf.sandbox.managers import MANAGERS
from dpf.sandbox.manifests import Applier
from dpf_cmd.dpfctl import main


def run(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["sandbox", *argv])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@contextmanager
def brought_up(folder: Path) -> Iterator[Layout]:
    """A sandbox with two cards in one host."""
    without = [word for manager in MANAGERS for word in ("--without", manager)]
    fleet = ["--dpus", "2", "--dpus-per-host", "2", "--no-delays"]
    try:
        assert run("up", "--data-dir", str(folder), *fleet, *without) == 0
        yield Layout(folder)
    finally:
        run("down", "--data-dir", str(folder))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    """A sandbox for the tests that leave it as it is."""
    with brought_up(tmp_path_factory.mktemp("shared")) as layout:
        yield layout


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Layout]:
    """A sandbox of the test's own."""
    with brought_up(tmp_path) as layout:
        yield layout


def processes(layout: Layout, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    capsys.readouterr()
    assert run("ps", "-o", "json", "--data-dir", str(layout.data_dir)) == 0
    return {process["name"]: process for process in json.loads(capsys.readouterr().out)}


def wait_gone(pids: list[int]) -> None:
    """Returns when none of the processes is left."""
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        select.select([descriptor], [], [])
        os.close(descriptor)


def test_sandbox_is_there_when_up_returns(shared: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    assert all(process["ready"] for process in processes(shared, capsys).values())
    where = ["--data-dir", str(shared.data_dir)]
    assert run("cards", "-o", "json", *where) == 0
    cards = json.loads(capsys.readouterr().out)
    assert [(card["dpu"], card["installs"], card["fault"]) for card in cards] == [
        ("worker1-0000-04-00", 0, None),
        ("worker1-0000-05-00", 0, None),
    ]
    assert run("env", *where) == 0
    names = [line.partition("=")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["export KUBECONFIG", "export DPF_DPU_KUBECONFIG", "export DPF_BFB_URL"]
    assert Kubeconfig.load(shared.host_kubeconfig).namespace == NAMESPACE, "kubectl shows what there is without -n"
    assert run("up", *where) == 1
    assert "runs already" in capsys.readouterr().err


def test_killed_process_comes_back_as_another(shared: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    before = processes(shared, capsys)["fleet"]
    assert run("kill", "fleet", "--data-dir", str(shared.data_dir)) == 0
    wait_gone([before["pid"]])
    while not (after := processes(shared, capsys)["fleet"])["ready"]:
        pass
    assert after["pid"] != before["pid"]
    assert after["restarts"] == before["restarts"] + 1


def test_samples_are_accepted_by_the_server(shared: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run("samples", "--data-dir", str(shared.data_dir)) == 0
    manifests = list(yaml.safe_load_all(capsys.readouterr().out))

    async def apply() -> None:
        async with Api(Kubeconfig.load(shared.host_kubeconfig), user_agent="test") as api:
            await Applier(api).apply(manifests)

    asyncio.run(apply())
    assert [manifest["kind"] for manifest in manifests] == ["BFB", "DPUFlavor", "DPUSet"]


def test_nothing_is_left_after_down(sandbox: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    pids = [process["pid"] for process in processes(sandbox, capsys).values()]
    assert run("down", "--data-dir", str(sandbox.data_dir)) == 0
    wait_gone(pids)
    assert not sandbox.data_dir.exists()


def test_nothing_is_left_when_the_supervisor_is_killed(sandbox: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    pids = [process["pid"] for process in processes(sandbox, capsys).values()]
    supervisor = asyncio.run(control.ask(sandbox.control_socket, "GET", "/pid"))["pid"]
    os.kill(supervisor, signal.SIGKILL)
    wait_gone([supervisor, *pids])
    assert run("down", "--data-dir", str(sandbox.data_dir)) == 0, "its lock is gone with it"
    assert not sandbox.data_dir.exists()


def test_a_sandbox_whose_socket_is_hidden_is_neither_replaced_nor_removed(
    shared: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    supervisor = asyncio.run(control.ask(shared.control_socket, "GET", "/pid"))["pid"]
    hidden = shared.control_socket.rename(shared.control_socket.with_suffix(".hidden"))
    try:
        for command in ("up", "down"):
            assert run(command, "--data-dir", str(shared.data_dir)) == 1
            assert f"kill process {supervisor}\n" in capsys.readouterr().err
    finally:
        hidden.rename(shared.control_socket)
    assert all(process["ready"] for process in processes(shared, capsys).values())


def test_only_the_supervisor_has_the_lock_and_no_child_keeps_it_longer(
    shared: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    supervisor = asyncio.run(control.ask(shared.control_socket, "GET", "/pid"))["pid"]
    pids = [supervisor, *(process["pid"] for process in processes(shared, capsys).values() if process["pid"])]
    holders = [pid for pid in pids if str(shared.marker) in map(_target, Path(f"/proc/{pid}/fd").iterdir())]
    assert holders == [supervisor]


def _target(descriptor: Path) -> str:
    """What an open file of a process is; empty if it is closed by now."""
    try:
        return str(descriptor.readlink())
    except FileNotFoundError:
        return ""


def test_start_that_fails_says_why_and_leaves_nothing_running(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "bin"
    broken.mkdir()
    for name in ("etcd", "kube-apiserver", "kube-controller-manager"):
        program = broken / name
        program.write_text("#!/bin/sh\necho no disk >&2\nexit 3\n")
        program.chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(broken))
    assert run("up", "--data-dir", str(tmp_path / "sandbox")) == 1
    error = capsys.readouterr().err
    assert "etcd keeps ending" in error
    assert "no disk" in error
    assert run("ps", "--data-dir", str(tmp_path / "sandbox")) == 1
