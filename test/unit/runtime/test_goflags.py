"""Flags of managers written in Go are accepted, and those that mean something here hold."""

from __future__ import annotations

import pytest

from dpf.runtime.log import Format, Level
from dpf.runtime.options import ManagerOptions, parse


def options(*argv: str) -> ManagerOptions:
    return parse(ManagerOptions, list(argv), prog="manager", description="")


@pytest.mark.parametrize(
    ("argv", "level", "form"),
    [
        ([], "info", "json"),
        (["--v=3"], "info", "json"),
        (["-v", "4"], "debug", "json"),
        (["-v=9"], "debug", "json"),
        (["--logging-format=text"], "info", "console"),
        (["--logging-format=json", "--log-format=console"], "info", "json"),
        (["--zap-log-level=debug", "--zap-encoder=console"], "debug", "console"),
        (["--zap-log-level=2"], "debug", "json"),
        (["--zap-log-level=error"], "error", "json"),
        (["--log-level=debug", "--v=0"], "debug", "json"),
    ],
)
def test_verbosity_and_format_hold(argv: list[str], level: Level, form: Format) -> None:
    found = options(*argv)
    assert (found.go.level(found.log_level), found.go.format(found.log_format)) == (level, form)


def test_what_means_nothing_here_is_accepted() -> None:
    given = "--enable-http2 --sync-period=10m --vmodule=a=1 --log-flush-frequency=5s --zap-devel --zap-time-encoding=iso8601"
    more = "--zap-stacktrace-level=error --log-text-split-stream --log-json-info-buffer-size=0"
    assert options(*given.split(), *more.split()).log_level == "info"


@pytest.mark.parametrize(
    ("argv", "guarded"),
    [([], False), (["--metrics-secure"], True), (["--metrics-secure=false"], False), (["--insecure-metrics"], False)],
)
def test_metrics_are_guarded_if_asked_for(argv: list[str], guarded: bool) -> None:
    assert options(*argv).guarded is guarded
    assert options("--metrics-secure", "--insecure-metrics").guarded is False
