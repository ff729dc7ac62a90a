"""``dpfctl get``: objects of DPF's kinds with the columns that their CRDs define."""

from __future__ import annotations

import argparse
import asyncio

from dpf.ctl import connect, output
from dpf.ctl.connect import Session
from dpf.ctl.kinds import KINDS, asked_for, kind_of, row
from dpf.runtime.meta import Object


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of ``dpfctl get``."""
    parser.add_argument("kinds", metavar="KIND", help=f"one or more, with commas between, or all: {', '.join(KINDS)}")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="objects, which KIND/NAME names too; all if none is named"
    )
    parser.add_argument("-l", "--selector", default="", metavar="LABELS", help="only objects with these labels")
    parser.add_argument("-o", "--output", choices=["table", "wide", "json", "yaml", "name"], default="table")
    connect.add_flags(parser)
    parser.set_defaults(run=lambda arguments: connect.run(arguments, lambda session: get(session, arguments)))


async def get(session: Session, arguments: argparse.Namespace) -> int:
    """Prints them; several kinds one after the other."""
    asked = _asked(arguments.kinds, arguments.names)
    names = [name for _, of_kind in asked for name in of_kind]
    connect.either(names, arguments.selector)
    found: list[list[Object]] = [await _found(session, kind, of_kind, arguments.selector) for kind, of_kind in asked]
    form = arguments.output
    if form in ("json", "yaml"):
        items = [each.model_dump(mode="json", by_alias=True, exclude_unset=True) for group in found for each in group]
        single = len(names) == 1 and len(items) == 1
        output.dump(items[0] if single else {"apiVersion": "v1", "kind": "List", "items": items}, form)
        return 0
    if form == "name":
        for each in (each for group in found for each in group):
            output.say(f"{each.RESOURCE}/{each.name}")
        return 0
    shown = [group for group in found if group]
    several = len({each.namespace for group in shown for each in group}) > 1 or not session.namespace
    tables = []
    for group in shown:
        rows = [row(each, wide=form == "wide", namespace=several) for each in group]
        if len(shown) > 1:
            rows = [{**cells, "name": f"{group[0].RESOURCE.kind.lower()}/{cells['name']}"} for cells in rows]
        tables.append(output.table(rows))
    if tables:
        output.say("\n\n".join(tables))
    else:
        where = f" in namespace {session.namespace}" if session.namespace else ""
        output.complain(f"nothing found{where}")
    return 0


def _asked(kinds: str, names: list[str]) -> list[tuple[type[Object], list[str]]]:
    if "/" in kinds:
        return asked_for(kinds, names)
    return [(kind_of(word), names) for word in (KINDS if kinds == "all" else kinds.split(","))]


async def _found(session: Session, kind: type[Object], names: list[str], selector: str) -> list[Object]:
    if not names:
        return await session.find(kind, labels=selector)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(session.one(kind, name)) for name in names]
    return [task.result() for task in tasks]
