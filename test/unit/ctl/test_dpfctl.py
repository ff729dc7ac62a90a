"""The command line as a whole."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from dpf.ctl import output
from dpf.runtime import transport
from dpf_cmd.dpfctl import COMMANDS, build_parser, main


def run(*words: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return ended.value.code


def test_help_lists_all_commands_and_imports_none() -> None:
    program = (
        "import sys, dpf_cmd.dpfctl as d\ntry:\n d.main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted(m for m in sys.modules if m.startswith(('dpf.ctl.', 'dpf.sandbox', 'dpf_api', 'pydantic', 'aiohttp'))))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert all(command in done.stdout for command in COMMANDS)
    assert done.stdout.splitlines()[-1] == "['dpf.ctl.output']"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: dpfctl {command}")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("sandbox up --nope", "dpfctl sandbox up: there is no flag --nope; see dpfctl sandbox up --help"),
        ("get dpus --kubeconfg x", "dpfctl get: there is no flag --kubeconfg; did you mean --kubeconfig?"),
        ("gett dpus", "dpfctl: argument COMMAND: invalid choice: 'gett' (choose from 'describe', 'get',"),
        ("sandbox", "dpfctl sandbox: the following arguments are required: COMMAND; see dpfctl sandbox --help"),
    ],
)
def test_a_wrong_command_line_is_named_with_where_help_is(
    line: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*line.split()) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(says)


def test_the_whole_parser_can_be_built() -> None:
    assert build_parser().parse_args(["wait", "dpu", "--for", "deleted"]).goal == "deleted"


def test_a_kubeconfig_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("get", "dpus", "--kubeconfig", str(tmp_path / "none")) == 1
    assert f"cannot read kubeconfig {tmp_path / 'none'}" in capsys.readouterr().err


def test_a_cluster_that_does_not_answer_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_TRIES", 1)
    config = tmp_path / "config"
    config.write_text("clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\nusers: [{name: u, user: {}}]\n")
    for command in (
        ["describe"],
        ["get", "dpus"],
        ["wait", "dpus"],
        ["retry", "dpu", "x"],
        ["plan", "-f", "/dev/null"],
    ):
        assert run(*command, "--kubeconfig", str(config)) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: https://127.0.0.1:1 does not answer")


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert output.painted(Terminal())
    assert not output.painted(io.StringIO())
    assert output.painted(io.StringIO(), always=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not output.painted(Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not output.painted(Terminal())


def test_colours_do_not_move_columns() -> None:
    rows = [{"name": "a", "ready": "True"}, {"name": "bcd", "ready": "False"}]
    plain = output.table(rows)
    painted = output.table(rows, lambda column, cell: output.colour(cell, output.RED if column == "ready" else ""))
    assert painted.replace("\x1b[31m", "").replace("\x1b[0m", "").splitlines()[1:] == [
        line + " " * (len("READY") - len(row["ready"])) for line, row in zip(plain.splitlines()[1:], rows, strict=True)
    ]
