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
    DMS_SILENT = "dms-silent"
    HOST_DEAD = "host-dead"

    @property
    def meaning(self) -> str:
        """What happens, in a few words."""
        return _MEANINGS[self]

    @classmethod
    def parse(cls, text: str) -> Fault:
        """The fault of that name.

        :raises ValueError: naming those that there are.
        """
        try:
            return cls(text)
        except ValueError:
            raise ValueError(f"no fault {text!r}: choose from {', '.join(cls)}") from None


_MEANINGS = {
    Fault.INSTALL_FAILS: "the card resets the boot stream half-way through an installation",
    Fault.INSTALL_HANGS: "an installation stops half-way and never ends",
    Fault.WRONG_VERSION: "the card boots what it had before, from its other partition",
    Fault.NEVER_JOINS: "the card does not join its DPU cluster",
    Fault.HOST_DOES_NOT_COME_BACK: "the card's host does not boot after its next reboot",
    Fault.POD_CRASH_LOOPS: "the containers of the card's pods on its host end at once",
    Fault.DMS_SILENT: "the card's DMS accepts connections and never answers",
    Fault.HOST_DEAD: "the card's host loses power now, and boots when the fault is cleared",
}
