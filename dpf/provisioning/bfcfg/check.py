"""Whether a bf.cfg can be made from a flavor: asked when the flavor is created, and again before a host is touched for a DPU that
names it, as it may have been created while no webhook answered.

To find out takes some 10 ms, most of it until bash has answered, and up to seconds where it has much to say: so it is done beside
the event loop, and by what the flavor says is remembered, as a thousand DPUs have a flavor or two among them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from time import monotonic
from typing import TypeVar

from dpf.provisioning.bfcfg.discovery import MOST, Way
from dpf.provisioning.bfcfg.join import command
from dpf.provisioning.bfcfg.render import BfCfg, Unfit, render
from dpf_api.dpuflavor import DPUFlavorSpec

R = TypeVar("R")

HOST_NAME = "n" * 63
"""The longest of a DPU whose card can join: it is the card's host name."""

LONGEST_JOIN = command(Way(f"{'h' * 253}:65535", (f"sha256:{'0' * 64}",) * MOST), "t" * 23)
"""For a cluster with the longest name that a server can have, and the most pins."""

AT_ONCE = 2
"""Threads, and so shells, for all flavors together: flavors are few, and what takes long here takes a processor."""
REMEMBERED = 256
SILENT = 30.0
"""Seconds for which a shell that gave no answer is not asked the same again: a thousand DPUs may have the flavor."""

_threads = ThreadPoolExecutor(AT_ONCE, "bfcfg")
_verdicts: OrderedDict[bytes, Verdict] = OrderedDict()
_silent: dict[bytes, tuple[float, OSError]] = {}
"""By flavor, until when the shell is not asked, and why."""


@dataclass(frozen=True)
class Verdict:
    """What was found of a flavor.

    :param unfit: what keeps a bf.cfg from being made; None if nothing does, whatever DPU and cluster are called.
    """

    unfit: Unfit | None


def unfit(flavor: DPUFlavorSpec) -> Unfit | None:
    """What keeps a bf.cfg from being made from the flavor; None if nothing does. It asks the shell, and waits for the answer.

    :raises OSError: if the shell gave none.
    """
    try:
        render(BfCfg(HOST_NAME, flavor, LONGEST_JOIN, extra_reboot=True))
    except Unfit as error:
        return error
    return None


def known(flavor: DPUFlavorSpec) -> Verdict | None:
    """What :func:`judge` found of the flavor; None if it was not asked, or long ago."""
    return _verdicts.get(_name(flavor))


async def judge(flavor: DPUFlavorSpec, *, anew: bool = False) -> Verdict:
    """As :func:`unfit`, beside the event loop; what was found before is not looked for again.

    :param anew: ask a shell again that gave no answer a moment ago: a person wants to know.
    :raises OSError: if the shell gave no answer; who asks the same within :data:`SILENT` seconds is told so at once.
    """
    name = _name(flavor)

    def work() -> Verdict:
        # Somebody may have asked the same while this waited for its turn.
        if (found := _verdicts.get(name)) is not None:
            return found
        until, error = _silent.get(name, (0.0, None))
        if error is not None and monotonic() < until and not anew:
            raise error.with_traceback(None)
        try:
            return _remembered(name, Verdict(unfit(flavor)))
        except OSError as error:
            for old in [each for each, (until, _) in list(_silent.items()) if until < monotonic()]:
                _silent.pop(old, None)
            _silent[name] = monotonic() + SILENT, error
            raise

    found = _verdicts.get(name)
    return found if found is not None else await beside(work)


async def beside(work: Callable[[], R]) -> R:
    """Does work that may ask the shell in a thread, when it is its turn. If whoever waits is cancelled, work that has not begun is
    not done; work that has comes to its end, the shell's deadline at the latest, and nobody hears of it."""
    return await asyncio.get_running_loop().run_in_executor(_threads, work)


def _remembered(name: bytes, verdict: Verdict) -> Verdict:
    _verdicts[name] = verdict
    while len(_verdicts) > REMEMBERED:
        _verdicts.popitem(last=False)
    return verdict


def _name(flavor: DPUFlavorSpec) -> bytes:
    return sha256(flavor.model_dump_json(by_alias=True).encode()).digest()
