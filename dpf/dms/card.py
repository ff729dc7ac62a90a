"""What the server needs of a card. Two keep it: :mod:`dpf.dms.rshim` for a BlueField, :mod:`dpf.dms.simulated` for none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol

from dpf.runtime.errors import DpfError

Power = Literal["cycle", "reset"]
"""What is done to the host's power: off and on, or the reset line."""


class State(StrEnum):
    """Where a card is on its way from a pushed image to a running system."""

    EMPTY = "empty"
    INSTALLING = "installing"
    BOOTING = "booting"
    UP = "up"
    FAILED = "failed"


@dataclass(frozen=True)
class CardStatus:
    """What a card tells of itself.

    :param percent: of the installation, 0 to 100.
    :param version: the image that it runs, or was given last.
    :param id: what :meth:`Card.boot` called that boot; empty if the card can't tell.
    """

    state: State
    percent: int = 0
    version: str = ""
    message: str = ""
    id: str = ""

    @property
    def settled(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.state not in {State.INSTALLING, State.BOOTING}


class CardError(DpfError):
    """The card, or a tool that drives it, failed. ``passing``: another try may do better."""

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class Card(Protocol):
    """One card. Every method raises :class:`CardError` if the card does not do as it should."""

    async def mode(self) -> str:
        """The mode of operation, ``DPU`` or ``NIC``."""

    async def set_mode(self, mode: str) -> None:
        """Changes the mode; it may count from the next reset on."""

    async def firmware(self) -> Mapping[str, str]:
        """Versions of the card's firmware by part (``bmc``, ``nic``, ``uefi``), as far as the card tells: those that count from
        its next reset on."""

    async def boot(self, image: Path, version: str, config: bytes, request: str) -> None:
        """Pushes image and bf.cfg to the card, which installs them and boots; returns when the card has taken all of it, even if
        it was cancelled when that could not be stopped any more.

        :param request: names this boot; a card that can remember does nothing for one it has taken already.
        """

    async def status(self) -> CardStatus:
        """The state now."""

    def follow(self) -> AsyncIterator[CardStatus]:
        """The state now and whenever it has changed, until it is settled."""

    async def boot_id(self) -> str:
        """Identifies the host's present boot; empty if repeating a reboot request is harmless."""

    async def boot_time(self) -> int:
        """When the host was booted, nanoseconds since 1970."""

    async def reset(self, power: Power, request: str) -> None:
        """System-level reset: shuts the card's Arm side down, then resets card and host together."""

    async def power_cycle(self, power: Power, request: str) -> None:
        """Cycles or resets the host's power through its BMC."""
