"""Every reason that an object may wait or fail for stands where a user looks it up."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("dpf/provisioning", "dpf/clustermanager")
REASON_AT = {
    "Act": 2,
    "ConfigTooLarge": 0,
    "DownloadFailed": 0,
    "Kept": 0,
    "NoCount": 0,
    "Problem": 0,
    "Terminal": 0,
    "Waiting": 0,
    "_say": 2,
    "_slow": 1,
    "condition": 1,
    "ending": 3,
    "fail": 1,
    "new": 2,
    "wait": 2,
    "waits": 1,
}
"""What makes a condition, or ends up in one, and which of its arguments is the reason."""
REASON = re.compile(r"[A-Z][a-z]*[A-Z]\w+|[A-Z][a-z]{3,}")
NO_REASON = {"False", "NotSeenYet"}
"""A status; and what is said for the moment between a write and its echo, which nobody sees but the log."""


def trees() -> list[ast.Module]:
    return [ast.parse(path.read_text()) for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def words(expression: ast.AST, constants: dict[str, str]) -> Iterator[str]:
    """The reasons that an argument may be: literals and the names of constants, on both sides of a condition."""
    for node in ast.walk(expression):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.Name | ast.Attribute):
            yield constants.get(node.id if isinstance(node, ast.Name) else node.attr, "")


def arguments(node: ast.AST) -> Iterator[ast.AST]:
    """Where in a node a reason stands."""
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if (at := REASON_AT.get(name)) is not None:
            yield from node.args[at : at + 1]
            yield from (each.value for each in node.keywords if each.arg in ("reason", "overdue"))
    elif isinstance(node, ast.FunctionDef) and node.name == "reason":
        yield from (each.value for each in ast.walk(node) if isinstance(each, ast.Return) and each.value is not None)
    elif isinstance(node, ast.Tuple) and len(node.elts) == 3 and isinstance(node.elts[0], ast.Constant):
        # Status, reason, message.
        yield node.elts[1]
    elif isinstance(node, ast.Assign) and any(
        isinstance(each, ast.Name) and each.id == "reason" for each in node.targets
    ):
        yield node.value


def reasons() -> set[str]:
    constants = {
        target.id: statement.value.value
        for tree in trees()
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    found = {
        word
        for tree in trees()
        for node in ast.walk(tree)
        for argument in arguments(node)
        for word in words(argument, constants)
    }
    return {word for word in found if REASON.fullmatch(word)} - NO_REASON


def test_every_reason_stands_in_the_user_guide_or_on_the_page_on_observability() -> None:
    pages = [*(ROOT / "docs" / "user-guide").glob("*.md"), ROOT / "docs" / "observability.md"]
    told = {word for page in pages for word in re.findall(r"`(\w+)`", page.read_text())}
    assert len(reasons()) > 80
    assert reasons() - told == set()
