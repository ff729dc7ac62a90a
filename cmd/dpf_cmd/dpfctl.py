"""``dpfctl``: the user's tool. Of its subcommands only the one that is called is imported."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from dpf.ctl.output import complain
from dpf.runtime import log
from dpf.runtime.errors import DpfError
from dpf.runtime.options import Parser, installed_version

COMMANDS = {
    "describe": ("dpf.ctl.describe", "the tree of what owns what, each with its state and what it waits for"),
    "get": ("dpf.ctl.get", "objects of DPF's kinds with their columns"),
    "plan": ("dpf.ctl.plan", "what an edit of a manifest would do to which DPUs; changes nothing"),
    "retry": ("dpf.ctl.retry", "have a DPU or BFB in Error tried again now"),
    "wait": ("dpf.ctl.wait", "wait until objects are Ready, or gone, and show how far they are"),
    "completion": ("dpf.ctl.completion", "print a completion script for a shell"),
    "sandbox": ("dpf.ctl.sandbox", "the whole system on this machine, with simulated DPUs"),
}
"""Module and help of each subcommand. A module has ``add_arguments(parser)``, which sets ``run``."""


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of the command line.

    :param command: the subcommand whose arguments are needed; None for all.
    """
    parser = Parser(prog="dpfctl", description="dpfctl: shows what a DPF installation does and why it waits.")
    parser.add_argument("--version", action="version", version=f"dpfctl {installed_version()}")
    parser.set_defaults(build_parser=build_parser)
    groups = parser.add_subparsers(dest="group", required=True, metavar="COMMAND")
    for name, (module, help_) in COMMANDS.items():
        group = groups.add_parser(name, help=help_, description=help_)
        if command in (None, name):
            importlib.import_module(module).add_arguments(group)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line, runs the command and exits with its status.

    :param argv: the words; None for those of the process, whose logging is set up then too.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in words if not word.startswith("-")), "")
    arguments = build_parser(command).parse_args(words)
    if argv is None:
        # Standard output is the command's answer, which programs read: what is logged is for a person, elsewhere.
        log.configure("warning", "console")
    try:
        sys.exit(arguments.run(arguments))
    except DpfError as error:
        complain(f"error: {error}")
        sys.exit(1)
    except BrokenPipeError:
        # Whoever read the output has seen enough, as `| head`; nothing more is to be flushed.
        sys.stdout = None
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
