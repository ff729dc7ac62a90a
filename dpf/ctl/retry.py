"""``dpfctl retry``: asks, by an annotation, that DPUs or BFBs in Error are tried again now."""

from __future__ import annotations

import argparse
import getpass
import os
from collections.abc import Mapping

from dpf.ctl import connect, output
from dpf.ctl.connect import Session
from dpf.ctl.kinds import of_one_kind
from dpf.runtime.errors import ConfigError
from dpf.runtime.meta import now
from dpf_api.bfb import BFB
from dpf_api.dpu import DPU
from dpf_api.names import ANNOTATION_RETRY

RETRIABLE: Mapping[str, type[DPU] | type[BFB]] = {"DPU": DPU, "BFB": BFB}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of ``dpfctl retry``."""
    parser.add_argument("kind", metavar="KIND", help="dpu or bfb")
    parser.add_argument("names", nargs="*", metavar="NAME", help="objects in Error, which KIND/NAME names too")
    parser.add_argument("--all", action="store_true", help="all of the kind that are in Error")
    connect.add_flags(parser)
    parser.set_defaults(run=lambda arguments: connect.run(arguments, lambda session: retry(session, arguments)))


async def retry(session: Session, arguments: argparse.Namespace) -> int:
    """Annotates them. One that is not in Error is left as it is, and the exit status is 1."""
    asked, names = of_one_kind(arguments.kind, arguments.names)
    kind = RETRIABLE.get(word := asked.RESOURCE.kind)
    if kind is None:
        raise ConfigError(f"a {word} can't be tried again; only DPUs and BFBs come into Error")
    if arguments.all == bool(names):
        raise ConfigError("name what is to be tried again, or give --all")
    found = await session.find(kind) if arguments.all else [await session.one(kind, name) for name in names]
    refused = 0
    for obj in found:
        if obj.status.phase.value != "Error" or obj.deleting:
            if not arguments.all:
                refused += 1
                state = "being deleted" if obj.deleting else f"in phase {obj.status.phase.value}"
                output.complain(f"error: {_title(obj)} is {state}, not in Error: there is nothing to try again")
            continue
        who = f"{_user()} {now().isoformat(timespec='seconds')}"
        await session.client.merge_patch(obj, {"metadata": {"annotations": {ANNOTATION_RETRY: who}}})
        why = f" (failed: {obj.status.reason}: {obj.status.message})" if obj.status.reason else ""
        output.say(f"{_title(obj)} is tried again{why}")
    if arguments.all and not any(each.status.phase.value == "Error" for each in found):
        output.say(f"no {word} is in Error")
    return 1 if refused else 0


def _user() -> str:
    """Who asks: a name, or the number where it has none, as in a container that runs as any user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _title(obj: DPU | BFB) -> str:
    return f"{obj.RESOURCE.kind.lower()}/{obj.name}"
