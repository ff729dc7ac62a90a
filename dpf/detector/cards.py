"""What a host's PCI functions tell of its cards. A card that tells less than it should is a card all the same."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from dpf.detector.features import LABEL_VALUE, PART_NUMBER, PF0_NAME, PS_ID, SERIAL_NUMBER, Card
from dpf.host import commands, vpd
from dpf.host.pci import Sysfs

FLINT = 10.0
"""Seconds for flint to ask a card's firmware."""
AGAIN = 60.0
"""Seconds after which a card that did not answer is asked again, however often the host is looked at."""
VITAL, BOARD = "vpd", PS_ID
_PSID = re.compile(r"^PSID:\s*(\S+)", re.MULTILINE)

Problems = dict[tuple[str, str], str]
"""What is wrong: by device and aspect."""
T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """What one scan found."""

    cards: tuple[Card, ...]
    problems: Problems


@dataclass(frozen=True)
class Answer:
    """What a card told, or why it did not."""

    found: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""


@dataclass
class Scanner:
    """Finds cards. What takes a card long to tell, and does not change while it is there, is asked of it once.

    :param psid: whether to find out PSIDs.
    """

    sysfs: Sysfs
    psid: bool = False
    _answers: dict[tuple[str, str], tuple[Answer, float]] = field(default_factory=dict)

    async def scan(self) -> Found:
        """The cards, in PCI address order.

        :raises OSError: if there is no sysfs.
        """
        problems: Problems = {}
        slots: dict[str, None] = {}
        for slot, function in self.sysfs.functions():
            if _try(problems, (function, "ids"), partial(self.sysfs.is_dpu, function)):
                slots[slot] = None
        self._answers = {key: answer for key, answer in self._answers.items() if key[0] in slots}
        cards = await asyncio.gather(*(self._card(slot, problems) for slot in slots))
        return Found(tuple(cards), problems)

    async def _card(self, slot: str, problems: Problems) -> Card:
        pf0 = f"{slot}.0"
        name = _try(problems, (slot, PF0_NAME), partial(self.sysfs.netdev, pf0))
        if name == "":
            problems[slot, PF0_NAME] = f"function {pf0} has no network device: is its driver loaded?"
        answers = {VITAL: await self._once(slot, VITAL, self._vital)}
        if self.psid:
            answers[BOARD] = await self._once(slot, BOARD, self._board)
        found = {PF0_NAME: name or ""}
        for what, answer in answers.items():
            found |= answer.found
            if answer.problem:
                problems[slot, what] = answer.problem
        return Card(slot, _fit(slot, found, problems))

    async def _once(self, slot: str, what: str, ask: Callable[[str], Awaitable[Answer]]) -> Answer:
        now = asyncio.get_running_loop().time()
        answer, at = self._answers.get((slot, what), (None, now))
        if answer is None or (answer.problem and now - at >= AGAIN):
            answer = await ask(f"{slot}.0")
            self._answers[slot, what] = answer, now
        return answer

    async def _vital(self, function: str) -> Answer:
        """Serial and part number."""
        try:
            data = vpd.parse(await self.sysfs.vpd(function))
        except OSError as error:
            return Answer(problem=f"vital product data can't be read: {error.strerror}")
        if data.problem:
            return Answer(problem=f"vital product data is not as it should be: {data.problem}")
        return Answer({SERIAL_NUMBER: data.serial_number, PART_NUMBER: data.part_number})

    async def _board(self, function: str) -> Answer:
        """The PSID, from the driver if that knows it, else from the firmware."""
        if known := _try({}, (function, PS_ID), partial(self.sysfs.board_id, function)):
            return Answer({PS_ID: known})
        try:
            printed = await commands.run("flint", "-d", function, "q", timeout=FLINT)
        except commands.CommandFailed as error:
            return Answer(problem=str(error))
        if match := _PSID.search(printed):
            return Answer({PS_ID: match[1]})
        return Answer(problem=f"flint does not tell it: {' '.join(printed.split())[-200:] or 'no output'}")


def _try(problems: Problems, what: tuple[str, str], read: Callable[[], T]) -> T | None:
    """What ``read`` gives, or None and a problem."""
    try:
        return read()
    except (OSError, ValueError) as error:
        problems[what] = f"can't be read: {getattr(error, 'strerror', None) or error}"
        return None


def _fit(slot: str, found: Mapping[str, str], problems: Problems) -> dict[str, str]:
    """Those that there are and that can be a label's value."""
    fit = {}
    for name, value in found.items():
        if LABEL_VALUE.fullmatch(value):
            fit[name] = value
        elif value:
            problems[slot, name] = f"{value!r} can't be the value of a label"
    return fit
