"""Dead hosts among others: 100 DPUs of which 10 hosts die, against the other 90 DPUs alone.

Five of the hosts are dead from the beginning, and five die when their cards are being flashed, so that the manager has to do with
hosts that were never there as well as with connections that break and peers that fall silent.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from time import monotonic

from dpf.runtime.conditions import is_true
from dpf.sandbox import control
from dpf.sandbox.fleet.faults import Fault
from dpf.sandbox.layout import NAMESPACE
from dpf_api.dpu import DPU, Phase
from test.bench.result import Result, median, say, spread
from test.bench.system import Sandbox, apply, prepared, sandbox

DPUS, DEAD = 100, 10
ROUNDS = 3
READY_WITHIN = 300.0


async def isolation() -> list[Result]:
    """Wall until the 90 are Ready, with the dead over without them; the two in turn, and the median of three ratios."""
    ratios, walls = [], []
    for _ in range(ROUNDS):
        without = await _wall(dead=0)
        walls.append(await _wall(dead=DEAD))
        ratios.append(walls[-1] / without)
        say(f"{DPUS - DEAD} DPUs: {without:.1f} s alone, {walls[-1]:.1f} s beside {DEAD} dead hosts")
    detail = f"{spread(ratios)}; {median(walls):.1f} s beside the dead"
    return [Result("isolation", median(ratios), "wall with dead hosts over without", 1.1, detail=detail)]


async def _wall(dead: int) -> float:
    """Seconds from the DPUSet until the living DPUs are Ready."""
    async with sandbox(DPUS - DEAD + dead) as box:
        cards = list(box.settings.inventory.cards())
        # Spread over the fleet, for hosts are taken in order.
        lost = [card.dpu for card in cards[:: DPUS // DEAD]] if dead else []
        dying = set(lost[::2])
        for card in set(lost) - dying:
            await _kill(box, card)
        living = {card.dpu for card in cards} - set(lost)
        dpuset, started = await prepared(box), monotonic()
        await apply(box, dpuset)
        async with asyncio.timeout(READY_WITHIN), aclosing(box.client.watch(DPU, NAMESPACE)) as changes:
            async for _, dpu in changes:
                if dpu.name in dying and dpu.status.phase is Phase.OS_INSTALLING:
                    dying.remove(dpu.name)
                    await _kill(box, dpu.name)
                if is_true(dpu.status.conditions, "Ready"):
                    living.discard(dpu.name)
                if not living:
                    break
        wall = monotonic() - started
        if dying:
            raise RuntimeError(f"these were to die and never came to be flashed: {sorted(dying)}")
        return wall


async def _kill(box: Sandbox, card: str) -> None:
    await control.ask(box.layout.fleet_socket, "PUT", f"/cards/{card}/fault", {"fault": Fault.HOST_DEAD.value})
