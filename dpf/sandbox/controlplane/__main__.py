"""``python -m dpf.sandbox.controlplane build`` makes sure of the programs; ``run --data-dir D`` runs both clusters until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

from dpf.runtime import log
from dpf.runtime.errors import ConfigError
from dpf.sandbox.controlplane import binaries
from dpf.sandbox.controlplane.planes import ControlPlanes
from dpf.sandbox.controlplane.running import running


async def run(folder: Path, *, audit: bool, until: int | None) -> None:
    """Runs both clusters until SIGTERM or SIGINT, or until the process ``until`` is gone; says when they are ready."""
    stop = asyncio.Event()
    if until is not None:
        asyncio.get_running_loop().add_reader(os.pidfd_open(until), stop.set)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    planes = ControlPlanes(folder, binaries.ensure(), audit=audit)
    async with running(planes):
        sys.stdout.write(f"host: {planes.host.admin_kubeconfig}\ndpu: {planes.dpu.admin_kubeconfig}\nready\n")
        sys.stdout.flush()
        await stop.wait()


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m dpf.sandbox.controlplane", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="find or build etcd, kube-apiserver and kube-controller-manager")
    run_parser = commands.add_parser("run", help="run a host and a DPU cluster")
    run_parser.add_argument("--data-dir", type=Path, required=True)
    run_parser.add_argument("--audit", action="store_true", help="log the requests of ServiceAccounts")
    run_parser.add_argument("--until-pid", type=int, help="end when this process is gone")
    options = parser.parse_args()
    log.configure("warning", "console")
    try:
        if options.command == "build":
            sys.stdout.write(f"{binaries.ensure()}\n")
        else:
            asyncio.run(run(options.data_dir, audit=options.audit, until=options.until_pid))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
