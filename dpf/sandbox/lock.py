"""Who has a sandbox's folder: ``dpfctl sandbox up`` and ``down`` while they are at work, and the supervisor for its life.

It is a lock on the marker that the kernel takes away from a holder that ends, however it ends. In the marker stands who that is.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dpf.sandbox.control import ControlError
from dpf.sandbox.layout import Layout


class Taken(ControlError):
    """Somebody else has the folder, so nothing in it may be touched. The message is for the user."""


@contextmanager
def held(layout: Layout) -> Iterator[int]:
    """Has the folder, which is made if need be, and its marker.

    The descriptor that it yields is the lock: a process that inherits it has the folder too, until it ends.

    :raises Taken: if somebody has it.
    :raises ControlError: if the folder can't be written to.
    """
    try:
        descriptor = _lock(layout)
    except BlockingIOError:
        raise Taken(
            f"{layout.data_dir} is in use, by another `dpfctl sandbox` or by a sandbox that does not answer: wait for it, "
            f"or kill {holder(layout)}"
        ) from None
    except OSError as error:
        raise ControlError(f"cannot use {layout.data_dir}: {error.strerror}") from None
    try:
        name(descriptor, os.getpid())
        yield descriptor
    finally:
        os.close(descriptor)


def name(descriptor: int, pid: int) -> None:
    """Writes down whose the folder is. A full disk is no reason not to have it."""
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{pid}\n".encode(), 0)


def holder(layout: Layout) -> str:
    """Who has the folder, in words; sandboxes of before did not write it down."""
    with suppress(OSError, ValueError):
        return f"process {int(layout.marker.read_text())}"
    return "its supervisor"


def _lock(layout: Layout) -> int:
    """The open marker, locked.

    :raises BlockingIOError: if another has locked it.
    :raises OSError: if it can't be made.
    """
    while True:
        layout.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(layout.marker, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it may have taken the folder down in between: then this is the lock of a file that is no more.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), layout.marker.stat()):
                    return descriptor
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
