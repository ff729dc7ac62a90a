"""Brings a sandbox up and takes it down: for ``dpfctl sandbox up``, ``down`` and ``demo``."""

from __future__ import annotations

import argparse
import asyncio
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

from dpf.ctl.output import complain
from dpf.sandbox import control
from dpf.sandbox.control import ControlError
from dpf.sandbox.controlplane import binaries
from dpf.sandbox.layout import Layout
from dpf.sandbox.processes import tail

GONE_WITHIN = 60.0
"""Seconds that taking a sandbox down may take."""


def runs(layout: Layout) -> bool:
    """Whether a sandbox answers there."""
    return asyncio.run(control.answers(lambda: control.ask(layout.control_socket, "GET", "/processes")))


def bring_up(layout: Layout, arguments: argparse.Namespace, tell: Callable[[str], None]) -> int:
    """Starts a supervisor and returns when the sandbox is ready (0) or cannot become so (1)."""
    # Here and not in the supervisor, because the first time it builds for minutes and tells of it.
    binaries.ensure()
    _clear(layout)
    layout.logs.mkdir(parents=True, mode=0o700)
    log_file = layout.logs / "supervisor.log"
    command = [sys.executable, "-m", "dpf.sandbox.supervisor", "--data-dir", str(layout.data_dir)]
    command += ["--dpus", str(arguments.dpus), "--dpus-per-host", str(arguments.dpus_per_host)]
    command += ["--no-delays"] if arguments.no_delays else []
    command += ["--log-level", arguments.log_level]
    command += [word for manager in arguments.without for word in ("--without", manager)]
    with log_file.open("ab") as log:
        supervisor = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
        )
    failure = asyncio.run(_await_ready(layout, supervisor, tell))
    if failure:
        complain(f"error: {failure}")
        with suppress(ControlError):
            asyncio.run(_end(layout))
        supervisor.wait(GONE_WITHIN)
        complain(f"The logs are in {layout.logs}")
        return 1
    # It is left running, and is nobody's child any more when this command ends.
    supervisor.returncode = 0
    return 0


async def _await_ready(layout: Layout, supervisor: subprocess.Popen[bytes], tell: Callable[[str], None]) -> str:
    """Tells of each step; returns what went wrong, or nothing."""
    seen = 0
    while True:
        try:
            news = await control.ask(layout.control_socket, "GET", f"/progress?after={seen}", timeout=3600.0)
        except ControlError:
            if supervisor.poll() is not None:
                return f"the supervisor ended; the end of its log:\n{tail(layout.logs / 'supervisor.log')}"
            await asyncio.sleep(0.05)
            continue
        for step in news["steps"]:
            tell(step)
        seen += len(news["steps"])
        if news["ready"] or news["failure"]:
            return str(news["failure"])


def take_down(layout: Layout, *, keep_logs: bool = False) -> None:
    """Ends the sandbox, if one runs, and removes its data.

    :raises ControlError: if it does not end; its data stays.
    """
    if runs(layout):
        asyncio.run(_end(layout))
    _clear(layout, keep_logs=keep_logs)


async def _end(layout: Layout) -> None:
    """Asks the supervisor to end and returns when its process has.

    :raises ControlError: if it does not, within :data:`GONE_WITHIN`.
    """
    answer = await control.ask(layout.control_socket, "GET", "/pid")
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(answer["pid"])
        try:
            # It may be gone before it has answered.
            with suppress(ControlError):
                await control.ask(layout.control_socket, "POST", "/down")
            ended, _, _ = await asyncio.to_thread(select.select, [descriptor], [], [], GONE_WITHIN)
            if not ended:
                raise ControlError(f"the sandbox does not end: see {layout.logs}, and kill process {answer['pid']}")
        finally:
            os.close(descriptor)


def _clear(layout: Layout, *, keep_logs: bool = False) -> None:
    """Removes what a sandbox made, and the folder if nothing else is in it."""
    made = [layout.control_planes, layout.tenants, layout.kubeconfigs, layout.bfb_dir, layout.fleet_dir]
    made += [layout.run_dir, layout.images]
    for folder in made if keep_logs else [*made, layout.logs]:
        shutil.rmtree(folder, ignore_errors=True)
    layout.settings.unlink(missing_ok=True)
    with suppress(OSError):
        layout.data_dir.rmdir()
