"""``python -m dpf.sandbox.fleet``: started by the supervisor, which writes the options to the sandbox's settings file."""

from __future__ import annotations

import argparse
import gc
from pathlib import Path

from dpf.runtime import log
from dpf.sandbox import signals
from dpf.sandbox.fleet.containers import ENTRY_POINTS
from dpf.sandbox.fleet.fleet import FleetOptions, run_fleet
from dpf.sandbox.layout import Layout
from dpf.sandbox.settings import Settings


def main() -> None:
    """Runs the fleet of the sandbox in a data folder until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m dpf.sandbox.fleet", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the sandbox")
    arguments = parser.parse_args()
    log.configure("info", "json")
    gc.set_threshold(20_000, 50, 50)
    layout = Layout(arguments.data_dir)
    settings = Settings.read(layout)
    entry_points = dict(ENTRY_POINTS)
    if settings.in_process:
        # Loads gRPC, which a fleet of processes does not need.
        from dpf.sandbox.fleet.inprocess import run_dms_in_process

        entry_points["dms"] = run_dms_in_process
    options = FleetOptions(layout, settings.inventory, settings.durations, entry_points)
    signals.run(run_fleet(options))


if __name__ == "__main__":
    main()
