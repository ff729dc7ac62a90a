"""Control planes from a shell.

``python -m dpf.sandbox.controlplane build`` finds or builds the programs and prints their folder;
``python -m dpf.sandbox.controlplane run --data-dir D`` runs a host and a DPU cluster until SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from dpf.runtime import log
from dpf.runtime.errors import ConfigError
from dpf.sandbox import signals
from dpf.sandbox.controlplane import binaries
from dpf.sandbox.controlplane.planes import ControlPlanes
from dpf.sandbox.controlplane.running import running
from dpf.sandbox.processes import NotReady


async def run(planes: ControlPlanes, *, until: int | None) -> None:
    """Runs both clusters until cancelled, or until the process ``until`` is gone; says when they are ready."""
    try:
        end = os.pidfd_open(until) if until is not None else None
    except ProcessLookupError:
        return
    me, loop = asyncio.current_task(), asyncio.get_running_loop()

    def gone(descriptor: int) -> None:
        loop.remove_reader(descriptor)  # it stays readable, and one cancel is enough
        if me is not None:
            me.cancel()

    if end is not None:
        loop.add_reader(end, gone, end)
    async with running(planes):
        sys.stdout.write(f"host: {planes.host.admin_kubeconfig}\ndpu: {planes.dpu.admin_kubeconfig}\nready\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m dpf.sandbox.controlplane", description="etcd and the control planes of a host and a DPU cluster"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="find or build the programs and print their folder")
    run_parser = commands.add_parser("run", help="run both clusters until SIGTERM")
    run_parser.add_argument("--data-dir", type=Path, required=True, help="folder that keeps the clusters")
    run_parser.add_argument("--audit", action="store_true", help="log the requests of ServiceAccounts")
    run_parser.add_argument(
        "--node-grace", type=int, default=50, help="seconds without a lease after which a node is not ready"
    )
    run_parser.add_argument("--until-pid", type=int, help="end when this process is gone")
    options = parser.parse_args()
    log.configure("warning", "console")
    try:
        programs = binaries.ensure()
        if options.command == "build":
            sys.stdout.write(f"{programs}\n")
        else:
            planes = ControlPlanes(
                options.data_dir.absolute(), programs, audit=options.audit, node_grace=options.node_grace
            )
            signals.run(run(planes, until=options.until_pid))
    except (ConfigError, NotReady) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
