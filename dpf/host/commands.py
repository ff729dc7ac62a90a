"""Runs the programs that drive a card: mlxconfig, mlxfwreset, flint, ipmitool. Never a shell; always a deadline."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from dpf.runtime.errors import DpfError
from dpf.runtime.log import get_logger

log = get_logger(__name__)

LAST_WAIT = 2.0
"""Seconds that a killed program may take to be gone. One that hangs in the kernel stays; nobody waits for it."""


class CommandFailed(DpfError):
    """A program is missing, failed or took too long. ``passing``: another try may do better."""

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


async def run(*command: str, timeout: float = 120.0, check: bool = True) -> str:
    """What the command printed, on either of its streams.

    :param timeout: seconds; the command is killed then.
    :raises CommandFailed: if it is missing, fails (unless ``check`` is False) or takes too long; with the end of what it printed.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        raise CommandFailed(f"{command[0]} cannot be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(timeout):
            output, _ = await process.communicate()
    except TimeoutError:
        raise CommandFailed(f"{command[0]} was not done after {timeout:g} s", passing=True) from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WAIT):
                    await process.wait()
    text = output.decode(errors="replace")
    log.debug("tool_ran", tool=command[0], arguments=command[1:], code=process.returncode)
    if check and process.returncode:
        tail = " ".join(text.split())[-300:]
        raise CommandFailed(f"{command[0]} failed with {process.returncode}: {tail or 'no output'}")
    return text
