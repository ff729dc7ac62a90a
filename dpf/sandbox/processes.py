"""Local processes of the sandbox: started, watched, restarted; none outlives the process that started it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dpf.runtime.log import get_logger

log = get_logger(__name__)

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL."""
PROBE = 0.1
"""Seconds between readiness probes while a process starts."""
STEADY = 30.0
"""Seconds of running after which an exit counts as a first one again."""
FIRST_BACKOFF, LONGEST_BACKOFF = 0.2, 10.0


def die_with_parent() -> None:
    """Run in a child before exec: the kernel kills it when its parent's thread is gone, even by SIGKILL."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


async def end(process: asyncio.subprocess.Process, grace: float = GRACE) -> None:
    """Ends a process within its grace period, seconds; returns when it is gone."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(grace):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class NotReady(Exception):
    """A process did not become ready."""


@dataclass
class Supervised:
    """A process that is restarted whenever it ends.

    :param probe: whether it is ready; None means as soon as it runs.
    """

    name: str
    command: Sequence[str]
    log_file: Path
    probe: Callable[[], Awaitable[bool]] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    grace: float = GRACE
    """Seconds between SIGTERM and SIGKILL when it is ended."""
    restarts: int = 0
    _process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process is not None else None

    async def run(self) -> None:
        """Keeps the process running until cancelled, then ends it."""
        crashes, loop = 0, asyncio.get_running_loop()
        while True:
            started = loop.time()
            code = await self._run_once()
            crashes = 0 if loop.time() - started > STEADY else crashes + 1
            pause = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** (max(crashes, 1) - 1))
            log.warning("process_ended", process=self.name, code=code, restart_in=pause)
            await asyncio.sleep(pause)
            self.restarts += 1

    async def _run_once(self) -> int:
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | dict(self.env),
                preexec_fn=die_with_parent,
                start_new_session=True,
            )
        try:
            return await self._process.wait()
        finally:
            await end(self._process, self.grace)

    async def ready(self) -> bool:
        """Whether it runs and says that it is ready."""
        if self.pid is None:
            return False
        return self.probe is None or await self.probe()

    async def wait_ready(self, timeout: float) -> None:
        """Returns when it is ready.

        :raises NotReady: after ``timeout`` seconds, or as soon as it has ended three times.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        while not await self.ready():
            if self.restarts >= 3:
                raise NotReady(f"{self.name} keeps ending; the end of {self.log_file}:\n{tail(self.log_file)}")
            if asyncio.get_running_loop().time() > deadline:
                raise NotReady(
                    f"{self.name} is not ready after {timeout:.0f} s; the end of {self.log_file}:\n{tail(self.log_file)}"
                )
            await asyncio.sleep(PROBE)

    def kill(self) -> bool:
        """Kills the process with SIGKILL; whether there was one."""
        if self.pid is None:
            return False
        os.kill(self.pid, signal.SIGKILL)
        return True


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log file, indented."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return "    (no log)"
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:]) or "    (empty)"
