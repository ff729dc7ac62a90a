"""What commands print."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from dpf.ctl import output

ROWS: list[dict[str, Any]] = [{"name": "etcd", "pid": 17, "ready": True}, {"name": "dms", "pid": None, "ready": False}]


def test_table_has_a_head_and_lines_up() -> None:
    assert output.table(ROWS).splitlines() == ["NAME   PID   READY", "etcd   17    yes", "dms    -     no"]


def test_json_is_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    output.show(ROWS, "json")
    assert json.loads(capsys.readouterr().out) == ROWS


def test_nothing_is_an_empty_list_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    output.show([], "json")
    assert json.loads(capsys.readouterr().out) == []


def test_yaml_keeps_the_lines_of_a_script() -> None:
    script = "# a comment\n\nvsctl add-br br-sfc\n"
    shown = output.yaml_of([{"raw": script}, {"kind": "DPUSet", "spec": {}}])
    assert shown == "raw: |\n  # a comment\n\n  vsctl add-br br-sfc\n---\nkind: DPUSet\nspec: {}"
    odd = {"a": "trailing \nblank", "b": "tab\tand\nline", "c": "\n", "d": "", "e": " leads\nit"}
    assert yaml.safe_load(output.yaml_of([odd])) == odd


def test_a_standard_output_that_is_closed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(output.Unwritable, match="it is closed"):
        output.say("answer")
    assert not output.painted(None)
