"""``dpfctl``: the user's tool."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dpf.ctl import sandbox
from dpf.ctl.output import complain
from dpf.sandbox.control import ControlError


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line, runs the command and exits with its status."""
    parser = argparse.ArgumentParser(prog="dpfctl", description="Works with the DOCA Platform Framework.")
    groups = parser.add_subparsers(dest="group", required=True, metavar="COMMAND")
    help_ = "the whole system on this machine, with simulated DPUs"
    sandbox.add_commands(groups.add_parser("sandbox", help=help_, description=help_))
    arguments = parser.parse_args(argv)
    try:
        sys.exit(arguments.run(arguments))
    except ControlError as error:
        complain(f"error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
