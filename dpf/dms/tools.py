"""The programs that drive a card, with their failures as the card's."""

from __future__ import annotations

from dpf.dms.card import CardError
from dpf.host import commands


async def run(*command: str, timeout: float = 120.0, check: bool = True) -> str:
    """What the command printed; see :func:`dpf.host.commands.run`.

    :param timeout: seconds; the command is killed then.
    :raises CardError: if it is missing, fails (unless ``check`` is False) or takes too long.
    """
    try:
        return await commands.run(*command, timeout=timeout, check=check)
    except commands.CommandFailed as error:
        raise CardError(str(error), passing=error.passing) from error
