"""Runs the program that a kubeconfig's user names for a token, as kubectl does.

What it prints is secret: no message and no log has any of it. At a terminal it may ask and explain, as with kubectl; else what
it says on its error output is lost, and it is ended when it takes too long, with all that it has started.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

import orjson

from dpf.runtime.errors import ConfigError

TIMEOUT = 60.0
"""Seconds that a plugin may take."""


@dataclass(frozen=True)
class ExecPlugin:
    """A program that prints an ``ExecCredential`` with a token."""

    command: str
    """A path, or a name to look for in ``PATH``."""
    api_version: str
    """Of the ``ExecCredential``: asked for, and expected."""
    args: tuple[str, ...] = field(default=(), repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Added to this process's own."""
    may_ask: bool = True
    """Whether it may ask whoever sits at the terminal, if somebody does."""
    cluster: bytes = field(default=b"", repr=False)
    """JSON of what it is told of the cluster; empty if it is told nothing."""

    async def token(self) -> tuple[str, datetime | None]:
        """A token, and when it ends if the plugin says so.

        :raises ConfigError: if the plugin cannot be run, fails, takes longer than :data:`TIMEOUT` or gives no token.
        """
        output = await self._run()
        try:
            found = orjson.loads(output)
            version, status = found["apiVersion"], found["status"]
            token, ends = status.get("token"), status.get("expirationTimestamp")
            expires = datetime.fromisoformat(ends) if ends else None
        except (ValueError, TypeError, LookupError, AttributeError):
            raise self._failed("printed no ExecCredential that can be read") from None
        if version != self.api_version:
            raise self._failed(f"printed an ExecCredential of another version than {self.api_version}")
        if not token or not isinstance(token, str):
            instead = status.get("clientCertificateData")
            raise self._failed("gave a client certificate, which is not supported" if instead else "gave no token")
        if expires is not None and expires.tzinfo is None:
            raise self._failed("gave an expirationTimestamp without a time zone")
        return token, expires

    async def _run(self) -> bytes:
        asks = self.may_ask and sys.stdin is not None and sys.stdin.isatty()
        spec = {"interactive": asks} | ({"cluster": orjson.Fragment(self.cluster)} if self.cluster else {})
        info = {"apiVersion": self.api_version, "kind": "ExecCredential", "spec": spec}
        terminal = None if asks else DEVNULL
        try:
            process = await asyncio.create_subprocess_exec(
                self.command,
                *self.args,
                env={**os.environ, **self.env, "KUBERNETES_EXEC_INFO": orjson.dumps(info).decode()},
                stdin=terminal,
                stdout=PIPE,
                stderr=terminal,
                start_new_session=not asks,
            )
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "its args or env have what no process can be given"
            raise self._failed(f"cannot be run: {why}") from None
        try:
            async with asyncio.timeout(TIMEOUT):
                output, _ = await process.communicate()
        except BaseException as error:
            _end(process, whole_session=not asks)
            if isinstance(error, TimeoutError):
                raise self._failed(f"was not done after {TIMEOUT:g} s") from None
            raise
        if process.returncode:
            raise self._failed(f"ended with {process.returncode}")
        return output

    def _failed(self, what: str) -> ConfigError:
        return ConfigError(f"the kubeconfig's credential plugin {self.command} {what}")


def _end(process: Process, *, whole_session: bool) -> None:
    """Ends a process whose output has not ended, and with it a script's own children: one of them may keep that output open
    though the script is done."""
    with suppress(ProcessLookupError, PermissionError):
        if whole_session:
            os.killpg(process.pid, signal.SIGKILL)
        elif process.returncode is None:
            process.kill()
