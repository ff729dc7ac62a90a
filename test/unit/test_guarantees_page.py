"""Every promise on the guarantees page names a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHORT = {"U": "test/unit/runtime", "I": "test/integration/runtime"}
NAMED = re.compile(r"\b([UI])/(test_\w+\.py)::(test_\w+)")


def test_every_test_named_on_the_guarantees_page_exists() -> None:
    named = NAMED.findall((ROOT / "docs" / "guarantees.md").read_text())
    assert len(named) > 50
    for folder, file, name in named:
        path = ROOT / SHORT[folder] / file
        defined = {
            n.name
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert name in defined, f"{path}: {name}"


def test_every_row_of_the_guarantees_page_names_a_test() -> None:
    for line in (ROOT / "docs" / "guarantees.md").read_text().splitlines():
        if line.startswith("| ") and not line.startswith(("| promise", "|---")):
            assert NAMED.search(line), line
