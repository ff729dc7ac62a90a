"""Every test that the page on compatibility names exists, and every weakness of v24.10 has one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "compatibility.md").read_text()
SHORT = dict(re.findall(r'"([A-Z]+)" (?:is )?`(test/[\w/.]+)`', PAGE))
"""The page's own abbreviations of folders and files."""
NAMED = re.compile(r"\b([A-Z]+)((?:/test_\w+\.py)?)::(test_\w+)")
ANY = re.compile(r"::(test_\w+)")


def test_every_test_named_on_the_page_exists() -> None:
    named = NAMED.findall(PAGE)
    assert len(named) == len(ANY.findall(PAGE)) > 90, "a test is named by an abbreviation of the page"
    for short, file, name in named:
        path = ROOT / f"{SHORT[short]}{file}"
        functions = ast.FunctionDef | ast.AsyncFunctionDef
        defined = {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, functions)}
        assert name in defined, f"{path}: {name}"


def test_every_weakness_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if re.match(r"\| W\d+ \|", line)]
    assert [int(row.split()[1][1:]) for row in rows] == list(range(1, 51))
    for row in rows:
        assert NAMED.search(row) or row.endswith("| none needed |"), row
