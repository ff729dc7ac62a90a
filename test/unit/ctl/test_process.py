"""``dpfctl`` as a process of its own: what it writes where, and its exit status."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from test.unit.ctl.objects import dpu, dpuset
from test.unit.runtime.scripted import ScriptedServer, answer, serving, status

DPU = dpu("a", resourceVersion="1").model_dump(mode="json", by_alias=True)
NAME = DPU["metadata"]["name"]


async def listed(request: web.Request) -> web.StreamResponse:
    """One DPU, and nothing of any other kind."""
    items = [DPU] if request.path.endswith("/dpus") else []
    return web.json_response({"kind": "List", "metadata": {"resourceVersion": "1"}, "items": items})


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ScriptedServer]:
    """A server that turns the first request away, as one that is starting does; the kubeconfig is in the test's folder."""
    starting = ScriptedServer(answer(lambda: status(503, "ServiceUnavailable", **{"Retry-After": "0"})), listed)
    async with serving(starting) as client:
        where = client.transport.kubeconfig.server
        text = f"clusters: [{{name: c, cluster: {{server: '{where}'}}}}]\nusers: [{{name: u, user: {{token: t}}}}]\n"
        (tmp_path / "config").write_text(text)
        yield starting


async def dpfctl(folder: Path, *words: str, stdout: int = PIPE) -> tuple[int | None, str, str]:
    """Exit status, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dpf_cmd.dpfctl", *words),
        stdin=DEVNULL,
        stdout=stdout,
        stderr=PIPE,
        env={**os.environ, "KUBECONFIG": str(folder / "config")},
    )
    out, err = await process.communicate()
    return process.returncode, (out or b"").decode(), err.decode()


@pytest.mark.parametrize(
    "line",
    ["get dpus -o json", "describe -o json", "plan -f edit.yaml -o json", "plan -f edit.yaml -o yaml"],
)
async def test_a_server_that_restarts_leaves_no_trace_in_what_programs_read(
    server: ScriptedServer, tmp_path: Path, line: str
) -> None:
    edit = dpuset().model_dump(mode="json", by_alias=True, include={"metadata": {"name"}, "spec": True})
    edit |= {"apiVersion": "provisioning.dpu.nvidia.com/v1alpha1", "kind": "DPUSet"}
    (tmp_path / "edit.yaml").write_text(yaml.safe_dump(edit))
    words = [str(tmp_path / word) if word == "edit.yaml" else word for word in line.split()]
    code, out, err = await dpfctl(tmp_path, *words)
    assert (code, err) == (0, "")
    assert isinstance(json.loads(out) if line.endswith("json") else yaml.safe_load(out), dict)
    paths = [request.path for request in server.seen]
    assert len(paths) > len(set(paths)), "one was asked for again"


@pytest.mark.parametrize(
    ("line", "out", "err"),
    [
        ("get dpus -o name", f"dpus.provisioning.dpu.nvidia.com/{NAME}\n", ""),
        ("retry dpu --all", "no DPU is in Error\n", ""),
        ("wait dpus", "", f"[1/1] {NAME}: done\n"),
        ("completion candidates -- get dpu a", f"{NAME}\n", ""),
    ],
)
async def test_nor_in_what_a_person_reads(
    server: ScriptedServer, tmp_path: Path, line: str, out: str, err: str
) -> None:
    assert await dpfctl(tmp_path, *line.split()) == (0, out, err)
    assert len(server.seen) > 1


PRINTS = ["get dpus -o json", "get dpus -o name", "describe", "plan -f /dev/null", "retry dpu --all", "completion bash"]


@pytest.mark.parametrize("line", PRINTS)
async def test_what_can_not_be_printed_is_an_error_in_one_line(
    server: ScriptedServer, tmp_path: Path, line: str
) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        code, _, err = await dpfctl(tmp_path, *line.split(), stdout=full)
    finally:
        os.close(full)
    assert (code, err) == (1, "error: cannot write to standard output: No space left on device\n")


@pytest.mark.parametrize("line", PRINTS)
async def test_a_reader_that_has_seen_enough_is_no_error(server: ScriptedServer, tmp_path: Path, line: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert await dpfctl(tmp_path, *line.split(), stdout=writing) == (0, "", "")
    finally:
        os.close(writing)
