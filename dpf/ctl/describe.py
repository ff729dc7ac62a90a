"""``dpfctl describe``: the tree of what owns what, each object with its state and what it waits for."""

from __future__ import annotations

import argparse
import asyncio

from dpf.ctl import connect, output, tree
from dpf.ctl.connect import Session
from dpf.ctl.kinds import KINDS, of_one_kind
from dpf.runtime.errors import ConfigError
from dpf.runtime.k8s import Pod
from dpf_api.bfb import BFB
from dpf_api.dpu import DPU
from dpf_api.dpucluster import DPUCluster
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.dpuset import DPUSet
from dpf_api.operatorconfig import DPFOperatorConfig

WIDTH = 120
"""Characters of a message that are shown unless ``--wide`` is given."""
CONDITIONED = {each: each.lower() for each in ("DPUSet", "DPU", "BFB", "DPUCluster", "Pod")}
"""Kinds in the tree that have conditions, and as they are written."""
COLOURS = {"True": output.GREEN, "False": output.RED, "Unknown": output.YELLOW}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of ``dpfctl describe``."""
    parser.add_argument("kind", nargs="?", default="all", metavar="KIND", help=f"all (default), {', '.join(KINDS)}")
    parser.add_argument(
        "name", nargs="?", default="", metavar="NAME", help="one object of that kind, which KIND/NAME names too"
    )
    parser.add_argument(
        "--show-conditions",
        default="none",
        metavar="WHOSE",
        help="failed: those that are not True; all; or those of a KIND or KIND/NAME (default: none)",
    )
    parser.add_argument(
        "--grouping",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="DPUs of one set in the same state, none of whose conditions are shown, as one line "
        "(default, unless one DPU is asked for)",
    )
    parser.add_argument("-w", "--wide", action="store_true", help="whole messages")
    parser.add_argument(
        "-c", "--color", action=argparse.BooleanOptionalAction, help="default: on a terminal, if NO_COLOR is not set"
    )
    parser.add_argument("-o", "--output", choices=["table", "json", "yaml"], default="table")
    connect.add_flags(parser)
    parser.set_defaults(run=lambda arguments: connect.run(arguments, lambda session: describe(session, arguments)))


async def describe(session: Session, arguments: argparse.Namespace) -> int:
    """Prints the tree."""
    kind, name, plural = _asked(arguments.kind, arguments.name)
    conditions = whose(arguments.show_conditions)
    world = await read(session)
    if name and kind == DPFOperatorConfig.RESOURCE.kind:
        # The tree grows from one of them: that which is asked for.
        world.configs = [each for each in world.configs if each.name == name]
    whole = tree.build(world)
    shown = tree.only(whole, kind, name) if kind and kind != whole.kind else whole
    if name and not any((each.kind, each.name) == (kind, name) for each in tree.every(shown)):
        raise ConfigError(f"there is no {kind} {name!r}; `dpfctl get {plural}` lists those there are")
    if arguments.output != "table":
        output.dump(shown.plain(), arguments.output)
        return 0
    if not whole.children and not whole.kind:
        output.complain("there are no objects of DPF" + (f" in {session.namespace}" if session.namespace else ""))
        return 0
    whose_kind, _, whose_name = conditions.partition("/")
    if whose_name and not any((each.kind, each.name) == (whose_kind, whose_name) for each in tree.every(shown)):
        raise ConfigError(f"--show-conditions={arguments.show_conditions}: no {whose_kind} {whose_name!r} is shown")
    alone = kind == DPU.RESOURCE.kind and bool(name)
    if (arguments.grouping is None and not alone) or arguments.grouping:
        shown = tree.grouped(shown, conditions)
    rows = list(tree.lines(shown, conditions))
    if not arguments.wide:
        rows = [{**row, "message": _short(row["message"])} for row in rows]
    if len({row["namespace"] for row in rows if row["namespace"]}) <= 1:
        rows = [{key: cell for key, cell in row.items() if key != "namespace"} for row in rows]
    coloured = output.painted(always=arguments.color)
    output.say(output.table(rows, paint if coloured else lambda _, cell: cell, empty=""))
    return 0


def _asked(word: str, name: str) -> tuple[str, str, str]:
    """Kind and name, each empty if there is none, and the kind's plural.

    :raises ConfigError: if there is no such kind, or two objects are named.
    """
    if word == "all" and name:
        raise ConfigError(f"all is no kind: say of which one {name!r} is, or leave it out")
    if word == "all":
        return "", "", word
    kind, names = of_one_kind(word, [name] if name else [])
    if len(names) > 1:
        raise ConfigError(f"describe shows one object or all of a kind, not {' and '.join(names)}")
    return kind.RESOURCE.kind, "".join(names), kind.RESOURCE.plural


def whose(text: str) -> str:
    """Whose conditions to show, as :func:`tree.lines` takes it.

    :raises ConfigError: if the words mean nothing.
    """
    if text in ("none", "failed", "all"):
        return text
    word, slash, name = text.partition("/")
    short = word.partition(".")[0].lower()
    kind = next((each for each, small in CONDITIONED.items() if short in (small, f"{small}s")), "")
    if not kind or (slash and not name):
        kinds = ", ".join(CONDITIONED.values())
        raise ConfigError(
            f"--show-conditions={text} means nothing: write none, failed, all, KIND or KIND/NAME, where KIND is one of {kinds}"
        )
    return kind + slash + name


async def read(session: Session) -> tree.World:
    """Everything that the tree shows. What a user may not read, or the cluster does not know, is left out, but for DPUs."""
    async with asyncio.TaskGroup() as group:
        dpus = group.create_task(session.find(DPU))
        dpusets = group.create_task(session.if_there(DPUSet))
        bfbs = group.create_task(session.if_there(BFB))
        flavors = group.create_task(session.if_there(DPUFlavor))
        clusters = group.create_task(session.if_there(DPUCluster))
        configs = group.create_task(session.if_there(DPFOperatorConfig))
    places = {each.namespace for each in dpus.result()}
    async with asyncio.TaskGroup() as group:
        pods = [group.create_task(_pods(session, place)) for place in sorted(places)]
    return tree.World(
        configs=configs.result(),
        bfbs=bfbs.result(),
        flavors=flavors.result(),
        clusters=clusters.result(),
        dpusets=dpusets.result(),
        dpus=dpus.result(),
        pods=[pod for task in pods for pod in task.result()],
    )


async def _pods(session: Session, namespace: str) -> list[Pod]:
    return await connect.Session(session.client, session.kubeconfig, namespace).if_there(Pod)


def paint(column: str, cell: str) -> str:
    """The colours of the tree: what is Ready, what is not, and what is only said besides."""
    if column == "ready":
        return output.colour(cell, COLOURS.get(cell.strip(), ""))
    if column == "reason":
        return output.colour(cell, output.YELLOW)
    return output.colour(cell, output.DIM) if column in ("since", "namespace") else cell


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else line[: WIDTH - 3] + "..."
