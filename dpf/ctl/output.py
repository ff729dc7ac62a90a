"""What commands print: tables for people, JSON and YAML for programs; colours on a terminal alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, TextIO

import orjson

from dpf.runtime.errors import DpfError


class Unwritable(DpfError):
    """Standard output does not take what is to be printed."""


def say(text: str) -> None:
    """Prints a line to standard output.

    :raises Unwritable: if it can't be printed; what is printed after that is lost without a word.
    :raises BrokenPipeError: if nobody reads any more.
    """
    if sys.stdout is None:
        raise Unwritable("cannot write to standard output: it is closed")
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # Whatever is left in its buffer would fail once more as the process ends.
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  (until the process ends)
        raise Unwritable(f"cannot write to standard output: {error.strerror}") from None


class Clock:
    """The one clock of a command: each line that it tells bears the seconds since the command began."""

    def __init__(self) -> None:
        self._begun = monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since it was made."""
        return monotonic() - self._begun

    def tell(self, text: str, at: float | None = None) -> None:
        """Prints a line of what happened now, or ``at`` so many seconds."""
        say(f"  {self.seconds if at is None else at:5.1f} s  {text}")


def complain(text: str) -> None:
    """Prints a line to standard error."""
    sys.stderr.write(f"{text}\n")


def show(rows: Sequence[Mapping[str, Any]], form: str) -> None:
    """Prints rows as JSON (``form`` is ``json``) or as a table with the first row's keys as head."""
    if form == "json":
        say(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
    elif rows:
        say(table(rows))


def dump(value: Any, form: str) -> None:
    """Prints a value as ``json`` or ``yaml``."""
    if form == "json":
        say(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
    else:
        say(yaml_of([value]))


def yaml_of(documents: Sequence[Any]) -> str:
    """The documents as YAML; text of several lines, such as a script of a DPUFlavor, as lines."""
    import yaml  # a tenth of the time that a command takes, for those who ask for it

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump_all(documents, Dumper=Dumper, sort_keys=False, allow_unicode=True).rstrip()


Paint = Callable[[str, str], str]
"""Puts a cell, padded already, into the colour that its column and content ask for."""


def painted(stream: TextIO | None = sys.stdout, *, always: bool | None = None) -> bool:
    """Whether to write colours: as asked for, else on a terminal, unless ``NO_COLOR`` is set or the terminal is dumb.

    :param stream: None for one that was closed before the process began.
    """
    if always is not None or stream is None:
        return bool(always)
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


RED, GREEN, YELLOW, DIM, BOLD = "31", "32", "33", "2", "1"


def colour(text: str, code: str) -> str:
    """The text in a colour of the terminal."""
    return f"\x1b[{code}m{text}\x1b[0m" if code and text.strip() else text


def table(rows: Sequence[Mapping[str, Any]], paint: Paint = lambda _, cell: cell, *, empty: str = "-") -> str:
    """Rows as columns as wide as they need to be; the head in capitals, as kubectl prints it.

    :param empty: what stands for a cell in which there is nothing.
    """
    keys = list(rows[0])
    cells = [[key.upper() for key in keys], *([_cell(row.get(key), empty) for key in keys] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(keys))]
    head, *lines = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in cells)
    coloured = ([paint(key, cell) for key, cell in zip(keys, line, strict=True)] for line in lines)
    return "\n".join("   ".join(line).rstrip() for line in (head, *coloured))


def _cell(value: Any, empty: str) -> str:
    match value:
        case None | "":
            return empty
        case bool():
            return "yes" if value else "no"
    return str(value)
