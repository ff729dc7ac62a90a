"""Whether a text is complete for the shell that sources bf.cfg: asked of bash itself, which with ``-n`` reads and runs nothing.

A bf.cfg is sourced as a whole, so a quote that one of its lines leaves open keeps the card from being installed at all.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
from functools import lru_cache

from dpf.runtime.log import get_logger

log = get_logger(__name__)

COMMAND = ("bash", "--norc", "--noprofile", "-n")
DEADLINE = 5.0
"""Seconds; the longest text that a flavor can have is read in a tenth of one."""
CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL})
"""Signals that end it by what it reads, such as 20,000 parentheses within each other, and would again."""
_OPEN_END = re.compile(r"(?<!\\)(\\\\)*\\\n?\Z")
_WORD = re.compile(r"`[^`']*\w[^`']*'")
"""What bash quotes of the text beyond signs: it may be a part of a password."""
_WHERE = re.compile(r"^.*?bash: (line \d+: )?(warning: )?")


class NoAnswer(OSError):
    """The shell was too slow, or something killed it: that says nothing of the text, and it may be asked again."""

    def __init__(self, how: str) -> None:
        super().__init__(errno.EAGAIN, f"bash {how}; look at what this process is given of memory and processors")

    def __str__(self) -> str:
        return str(self.strerror)


@lru_cache(maxsize=64)
def unreadable(text: str) -> str:
    """What is wrong with the text, in the shell's words; empty if nothing is.

    Asking takes some 3 ms, of the caller's thread, and is not done twice for one text that was answered for. The shell is gone when
    this returns: after the deadline it is killed.

    :raises NoAnswer: if the shell did not come to an end by itself.
    :raises OSError: if no shell can be begun, for want of processes or memory.
    """
    if "\0" in text:
        return "it has a NUL character"
    # The one thing that bash finds complete and yet joins to the line behind it.
    if _OPEN_END.search(text):
        return "it has a backslash at its end"
    try:
        # No variables of ours: BASH_ENV names a file that is run.
        env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        asked = subprocess.run(
            COMMAND, input=text.encode(), capture_output=True, env=env, timeout=DEADLINE, check=False
        )
    except FileNotFoundError:
        log.warning("bfcfg_not_checked", message="there is no bash to ask")
        return ""
    except subprocess.TimeoutExpired as error:
        raise NoAnswer(f"has not read it within {DEADLINE:g} s") from error
    if asked.returncode < 0 and -asked.returncode not in CRASHES:
        raise NoAnswer(f"was ended by signal {-asked.returncode} before it had read it")
    said = asked.stderr.decode(errors="replace")
    # Of a here-document without an end, which takes all that is behind it, bash only warns.
    if asked.returncode == 0 and not said:
        return ""
    return _WORD.sub("a word of it", _WHERE.sub("", said.partition("\n")[0])) or "bash can't read it"
