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
from dpf.sandbox import control, lock
from dpf.sandbox.control import ControlError, NotRunning
from dpf.sandbox.controlplane import binaries
from dpf.sandbox.layout import Layout, default_data_dir
from dpf.sandbox.processes import tail
from dpf.sandbox.settings import Settings

GONE_WITHIN = 60.0
"""Seconds that taking a sandbox down may take."""


def runs(layout: Layout) -> bool:
    """Whether a sandbox runs there.

    :raises ControlError: if one does that does not answer.
    """
    try:
        asyncio.run(control.ask(layout.control_socket, "GET", "/pid"))
    except NotRunning:
        return False
    except ControlError as error:
        raise ControlError(
            f"a sandbox runs in {layout.data_dir} and does not answer as it should ({error}): see {layout.logs}; "
            f"to give it up, kill {lock.holder(layout)}"
        ) from error
    return True


def refusal(layout: Layout) -> str:
    """Why no sandbox can be brought up there; empty if one can.

    :raises ControlError: see :func:`runs`.
    """
    if runs(layout):
        return f"a sandbox runs already in {layout.data_dir}; `dpfctl sandbox down` ends it"
    try:
        foreign = not _is_a_sandboxs(layout) and any(layout.data_dir.iterdir())
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"cannot use {layout.data_dir}: {error.strerror}"
    if foreign:
        return f"{layout.data_dir} is no sandbox's and not empty: name another by --data-dir, or empty it"
    return ""


def bring_up(layout: Layout, arguments: argparse.Namespace, tell: Callable[[str], None]) -> int:
    """Starts a supervisor and returns when the sandbox is ready (0) or cannot become so (1).

    What an earlier sandbox left in the folder is removed: the caller has asked :func:`refusal` whether there is anything else.

    :raises Taken: if somebody else has the folder.
    :raises ControlError: if the folder can't be written to.
    """
    with lock.held(layout) as folder:
        # Here and not in the supervisor, because the first time it builds for minutes and tells of it.
        binaries.ensure()
        _clear(layout)
        supervisor = _start(layout, arguments, folder)
        lock.name(folder, supervisor.pid)
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


def _start(layout: Layout, arguments: argparse.Namespace, folder: int) -> subprocess.Popen[bytes]:
    """Starts a supervisor.

    :param folder: the lock, which it inherits: so nobody gets it in between, and it is free when the supervisor has ended.
    """
    layout.logs.mkdir(parents=True, mode=0o700)
    log_file = layout.logs / "supervisor.log"
    command = [sys.executable, "-m", "dpf.sandbox.supervisor", "--data-dir", str(layout.data_dir)]
    command += ["--lock", str(folder)]
    command += ["--dpus", str(arguments.dpus), "--dpus-per-host", str(arguments.dpus_per_host)]
    command += ["--no-delays"] if arguments.no_delays else []
    command += ["--log-level", arguments.log_level]
    command += [word for manager in arguments.without for word in ("--without", manager)]
    with log_file.open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[folder],
            start_new_session=True,
            cwd="/",
        )


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
    """Ends the sandbox, if one runs, and removes its data. A folder that is no sandbox's is left as it is.

    :raises Taken: if somebody else has the folder, for example an ``up`` that has not started its supervisor yet.
    :raises ControlError: if it does not answer or does not end; its data stays.
    """
    ran = runs(layout)
    if ran:
        asyncio.run(_end(layout))
    elif not layout.data_dir.exists() or not _is_a_sandboxs(layout):
        return
    with lock.held(layout):
        _clear(layout, keep_logs=keep_logs)
        if not keep_logs:
            # Last, so that the rest is still known for a sandbox's if this is cut short.
            layout.marker.unlink(missing_ok=True)
            with suppress(OSError):
                layout.data_dir.rmdir()


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


def _is_a_sandboxs(layout: Layout) -> bool:
    """Whether what lies in the folder was made by a sandbox. Those of before there was a marker are known by their settings, or in
    the default folder by its name.
    """
    if layout.marker.exists() or layout.data_dir == default_data_dir().resolve():
        return True
    with suppress(OSError, ValueError):
        Settings.read(layout)
        return True
    return False


def _clear(layout: Layout, *, keep_logs: bool = False) -> None:
    """Removes what a sandbox made, but for the marker."""
    made = [layout.control_planes, layout.tenants, layout.kubeconfigs, layout.bfb_dir, layout.fleet_dir]
    made += [layout.run_dir, layout.images]
    for folder in made if keep_logs else [*made, layout.logs]:
        shutil.rmtree(folder, ignore_errors=True)
    layout.settings.unlink(missing_ok=True)
