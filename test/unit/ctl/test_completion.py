"""Completion of the command line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dpf.ctl import completion
from dpf.ctl.kinds import KINDS
from dpf_cmd.dpfctl import COMMANDS, build_parser, main


def complete(*words: str) -> list[str]:
    return completion.candidates(build_parser(words[0] if len(words) > 1 else ""), words)


def test_the_first_word_is_a_subcommand() -> None:
    assert complete("") == list(COMMANDS)
    assert complete("des") == ["describe"]


def test_flags_choices_and_subcommands_of_subcommands_are_known() -> None:
    assert "--show-conditions" in complete("describe", "--")
    assert complete("get", "dpus", "-o", "j") == ["json"]
    assert complete("completion", "") == ["bash", "zsh", "fish"]
    assert "install-fails" in complete("sandbox", "fault", "card", "")


def test_a_kind_comes_before_names_of_its_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "names", lambda kind, kubeconfig, namespace: [f"{kind}-{kubeconfig}-{namespace}"])
    assert complete("get", "dp") == ["dpusets", "dpus", "dpuflavors", "dpuclusters", "dpfoperatorconfigs"]
    assert complete("retry", "-n", "ns", "--kubeconfig", "file", "dpu", "") == ["dpu-file-ns"]
    assert complete("describe", "dpu", "dpu-") == ["dpu-None-"]


def test_a_command_is_offered_the_kinds_that_it_is_about() -> None:
    assert complete("retry", "") == ["dpus", "bfbs"]
    assert complete("wait", "") == ["dpusets", "dpus", "bfbs", "dpuclusters"]
    assert complete("describe", "") == complete("get", "") == [*KINDS, "all"]


def test_where_a_file_fits_the_shell_completes() -> None:
    assert complete("plan", "-f", "") == []
    assert complete("nonsense", "") == []


def test_a_cluster_that_does_not_answer_has_no_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert completion.names("dpu", None, "") == []


@pytest.mark.parametrize("shell", completion.SCRIPTS)
def test_each_shell_can_read_its_script(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["completion", shell])
    assert ended.value.code == 0
    script = capsys.readouterr().out
    assert "dpfctl completion candidates" in script
    if (program := shutil.which(shell)) is not None:
        (tmp_path / "script").write_text(script)
        subprocess.run([program, "-n", str(tmp_path / "script")], check=True)


def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    fake = tmp_path / "dpfctl"
    fake.write_text(f'#!/bin/sh\nexec {sys.executable} -m dpf_cmd.dpfctl "$@"\n')
    fake.chmod(0o755)
    program = f"{completion.BASH}\nCOMP_WORDS=(dpfctl get dpus -o y)\nCOMP_CWORD=4\n_dpfctl\necho ${{COMPREPLY[@]}}"
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", program], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "yaml"
