"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import orjson


def say(text: str) -> None:
    """Prints a line to standard output."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """Prints a line to standard error."""
    sys.stderr.write(f"{text}\n")


def show(rows: Sequence[Mapping[str, Any]], form: str) -> None:
    """Prints rows as JSON (``form`` is ``json``) or as a table with the first row's keys as head."""
    if form == "json":
        say(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
    elif rows:
        say(table(rows))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as columns as wide as they need to be; the head in capitals, as kubectl prints it."""
    keys = list(rows[0])
    cells = [[key.upper() for key in keys], *([_cell(row.get(key)) for key in keys] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(keys))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def _cell(value: Any) -> str:
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
    return str(value)
