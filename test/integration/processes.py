"""Managers as processes of their own, whose logs are read as they come."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from dpf.sandbox.processes import die_with_parent

ROOT = Path(__file__).parents[2]
TIMEOUT = 60.0
"""Seconds for a process to say something or to end, and for a lease of :data:`QUICK` besides."""
QUICK = (
    "--leader-elect-lease-duration=20s",
    "--leader-elect-renew-deadline=15s",
    "--leader-elect-retry-period=500ms",
)
"""Soon enough to be awaited, and no end to a leader whose machine stalls for seconds."""


class Process:
    """A running manager."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[dict[str, Any]] = []

    async def says(self, event: str) -> dict[str, Any]:
        """The next line of that event."""
        assert self._process.stdout is not None
        async with asyncio.timeout(TIMEOUT):
            async for line in self._process.stdout:
                self.lines.append(json.loads(line))
                if self.lines[-1]["event"] == event:
                    return self.lines[-1]
        raise AssertionError(f"it ended without saying {event}: {self.lines}")

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Its exit code, once it has ended."""
        async with asyncio.timeout(TIMEOUT):
            rest, _ = await self._process.communicate()
        self.lines += [json.loads(line) for line in rest.splitlines() if line.startswith(b"{")]
        return await self._process.wait()


@asynccontextmanager
async def managers(module: str, namespace: str) -> AsyncIterator[Callable[..., Awaitable[Process]]]:
    """Starts managers of one namespace that elect a leader, each with the flags it is given besides; none outlives the block."""
    started: list[asyncio.subprocess.Process] = []

    async def start(*flags: str) -> Process:
        common = [f"--namespace={namespace}", "--leader-elect", f"--leader-elect-namespace={namespace}"]
        common += ["--metrics-bind-address=0", "--health-probe-bind-address=0"]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", module, *common, *flags),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            preexec_fn=die_with_parent,
        )
        started.append(process)
        return Process(process)

    try:
        yield start
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
            sys.stdout.buffer.write((await process.communicate())[0])
