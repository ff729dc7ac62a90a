"""What can be made to go wrong with a card while the fleet runs."""

from __future__ import annotations

from enum import StrEnum


class Fault(StrEnum):
    """A fault of one card; it lasts until it is cleared."""

    INSTALL_FAILS = "install-fails"
    INSTALL_HANGS = "install-hangs"
    WRONG_VERSION = "wrong-version"
    NEVER_JOINS = "never-joins"
    HOST_DOES_NOT_COME_BACK = "host-does-not-come-back"
    POD_CRASH_LOOPS = "pod-crash-loops"
    HOST_DEAD = "host-dead"
    """The card's host loses power at once, and boots when the fault is cleared."""

    @classmethod
    def parse(cls, text: str) -> Fault:
        """The fault of that name.

        :raises ValueError: naming those that there are.
        """
        try:
            return cls(text)
        except ValueError:
            raise ValueError(f"no fault {text!r}: choose from {', '.join(cls)}") from None
