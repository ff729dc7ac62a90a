"""What ``--help`` of each process says."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
SCRIPTS: dict[str, str] = tomllib.loads(PROJECT.read_text())["project"]["scripts"]


def helped(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    module, _, function = SCRIPTS[name].partition(":")
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as info:
        getattr(import_module(module), function)()
    assert info.value.code == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_is_plain_text(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "``" not in helped(name, monkeypatch, capsys)


def test_help_says_what_must_be_given_to_provision(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert helped("provisioning-manager", monkeypatch, capsys).count("needed to provision") == 3
