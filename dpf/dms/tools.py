"""Runs the programs that drive a card: mlxconfig, flint, mlxfwreset, ipmitool. Never a shell; always a deadline."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from dpf.dms.card import CardError
from dpf.runtime.log import get_logger

log = get_logger(__name__)


async def run(*command: str, timeout: float = 120.0, check: bool = True) -> str:
    """Standard output of the command.

    :param timeout: seconds; the command is killed then.
    :raises CardError: if it is missing, fails (unless ``check`` is False) or takes too long; with the end of what it printed.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        raise CardError(f"{command[0]} cannot be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(timeout):
            output, _ = await process.communicate()
    except TimeoutError:
        raise CardError(f"{command[0]} was not done after {timeout:g} s", passing=True) from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    text = output.decode(errors="replace")
    log.debug("tool_ran", tool=command[0], arguments=command[1:], code=process.returncode)
    if check and process.returncode:
        tail = " ".join(text.split())[-300:]
        raise CardError(f"{command[0]} failed with {process.returncode}: {tail or 'no output'}")
    return text
