"""Flags of a process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest

from dpf.runtime.options import ManagerOptions, Seconds, duration, parse

FIVE_MINUTES = Seconds(300)


@dataclass(frozen=True)
class Inner:
    deadline: Annotated[Seconds, "how long to wait"] = FIVE_MINUTES
    color: Annotated[Literal["red", "blue"], "which one"] = "red"


@dataclass(frozen=True)
class Options:
    inner: Inner = field(default_factory=Inner)
    folder: Annotated[Path | None, "where images lie"] = None
    names: Annotated[tuple[str, ...], "who"] = ()
    count: Annotated[int, "how many; 100 % of them"] = 3
    share: Annotated[float, "how much"] = 0.5
    loud: Annotated[bool, "say more"] = False


def parsed(*argv: str) -> Options:
    return parse(Options, argv, prog="tester", description="Tests.")


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that a wrong command line gives."""
    with pytest.raises(SystemExit) as info:
        parsed(*argv)
    assert info.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_without_flags_all_is_as_declared() -> None:
    assert parsed() == Options()


def test_each_type_is_read() -> None:
    options = parsed(
        "--folder=/bfb", "--names", "a, b,,c", "--count=-4", "--share=.25", "--deadline", "1h30m", "--color=blue"
    )
    assert options == Options(Inner(Seconds(5400), "blue"), Path("/bfb"), ("a", "b", "c"), -4, 0.25)


@pytest.mark.parametrize(
    ("argv", "loud"), [("--loud", True), ("--loud=true", True), ("--loud=false", False), ("--no-loud", False)]
)
def test_booleans_are_read_as_go_programs_do(argv: str, loud: bool) -> None:
    assert parsed(argv).loud is loud


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5", 1.5), ("10s", 10), ("5m", 300), ("1h30m", 5400), ("250ms", 0.25)]
)
def test_durations_are_written_as_in_go(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "m", "5 m", "5mx", "-5m", "5m3", "five"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="90s, 5m or 1h30m"):
        duration(text)


@pytest.mark.parametrize(
    ("argv", "flag", "says"),
    [
        ("--deadline=soon", "--deadline", "'soon' is no duration; write for example 90s"),
        ("--count=many", "--count", "'many' is no whole number"),
        ("--loud=maybe", "--loud", "'maybe' is neither true nor false"),
        ("--color=green", "--color", "red"),
        ("--colr=red", "--colr", "did you mean --color?"),
        ("--dead=5m", "--dead", "there is no flag --dead"),
    ],
)
def test_a_wrong_flag_is_one_line_that_says_what_is_right(
    capsys: pytest.CaptureFixture[str], argv: str, flag: str, says: str
) -> None:
    line = refused(capsys, argv)
    assert line.startswith("tester: ")
    assert flag in line
    assert says in line
    assert "tester --help" in line


def test_help_tells_every_flag_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        parsed("--help")
    assert info.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "how long to wait (default 300s)" in text
    assert "how many; 100 % of them (default 3)" in text
    assert "say more (default false)" in text
    for flag in ("--deadline", "--color", "--folder", "--names", "--count", "--share", "--loud", "--version"):
        assert flag in text


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        parsed("--version")
    assert info.value.code == 0
    assert capsys.readouterr().out.startswith("tester ")


def test_every_manager_has_the_agreed_flags() -> None:
    options = parse(
        ManagerOptions,
        [
            *("--kubeconfig=k", "--namespace=n", "--leader-elect", "--metrics-bind-address=0"),
            *("--health-probe-bind-address=:1", "--workers=2", "--log-level=debug", "--log-format=console"),
        ],
        prog="m",
        description="",
    )
    assert options == ManagerOptions(
        kubeconfig=Path("k"),
        namespace="n",
        leader_elect=True,
        metrics_bind_address="0",
        health_probe_bind_address=":1",
        workers=2,
        log_level="debug",
        log_format="console",
    )


def test_a_manager_without_workers_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        parse(ManagerOptions, ["--workers=0"], prog="m", description="")
    assert info.value.code == 2
    assert "--workers: must be at least 1" in capsys.readouterr().err
