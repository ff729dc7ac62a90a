"""Which numbered statements of the specification a test proves: ``make spec``.

Statements are those that upstream's own tests assert; a test names the ones it proves with ``@spec("provisioning:71")``. What is
answered otherwise stands in docs/compatibility.md.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
STATEMENTS = {"provisioning": 102}
"""Numbered statements of each part."""


def proofs() -> dict[str, list[str]]:
    """Statement to the tests that name it, as ``path::name``."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "test").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for statement in _statements(node):
                    found[statement].append(f"{path.relative_to(ROOT)}::{node.name}")
    return found


def _statements(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    marks = [d for d in function.decorator_list if isinstance(d, ast.Call) and isinstance(d.func, ast.Name)]
    return [
        statement
        for mark in marks
        if isinstance(mark.func, ast.Name) and mark.func.id == "spec"
        for argument in mark.args
        for statement in _spelled(argument)
    ]


def _spelled(argument: ast.expr) -> list[str]:
    """The statements that one argument names: a text, or texts of a range."""
    if isinstance(argument, ast.Starred):
        # Written by a person of this repository, and made of nothing but literals and range.
        return list(
            eval(compile(ast.Expression(argument.value), "<spec>", "eval"), {"__builtins__": {}, "range": range})
        )
    return [argument.value] if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else []


def main() -> int:
    """Prints proven and open statements; fails for a number that no part has."""
    found = proofs()
    known = {f"{part}:{number}" for part, last in STATEMENTS.items() for number in range(1, last + 1)}
    for part, last in STATEMENTS.items():
        names = [f"{part}:{number}" for number in range(1, last + 1)]
        proven = [name for name in names if name in found]
        print(f"{part}: {len(proven)} of {last} proven")
        for name in proven:
            print(f"  {name:18}{found[name][0]}" + (f" (+{len(found[name]) - 1})" if len(found[name]) > 1 else ""))
        print("  not yet: " + (", ".join(name.split(":")[1] for name in names if name not in found) or "none"))
    strange = sorted(found.keys() - known)
    if strange:
        print(f"no such statement: {', '.join(strange)}")
    return 1 if strange else 0


if __name__ == "__main__":
    sys.exit(main())
