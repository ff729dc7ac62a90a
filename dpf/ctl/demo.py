"""``dpfctl sandbox demo``: the main job before your eyes, from nothing to Ready DPUs and back to nothing.

Each line bears the seconds since the command began; how long things took is said at the end. What is shown is read by a watch of
the DPUs, as ``kubectl get dpus -w`` would; with a terminal as a table that changes in place, else as one line per change. It fails
if a DPU ends in Error, if not all are Ready in time, if a card was flashed, joined or had its host rebooted other than once, if a
process had to be restarted, or if the sandbox cannot be taken down.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from dpf.ctl.lifecycle import bring_up, refusal, take_down
from dpf.ctl.output import Clock, complain, say, table
from dpf.ctl.samples import samples
from dpf.runtime.errors import DpfError
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.sandbox import control
from dpf.sandbox.api import Api, Json
from dpf.sandbox.layout import Layout
from dpf.sandbox.lock import Taken
from dpf.sandbox.manifests import Applier
from dpf.sandbox.settings import Settings
from dpf_api.dpu import Phase

DPUS = "/apis/provisioning.dpu.nvidia.com/v1alpha1/dpus"
ORDER = [phase.value for phase in Phase]
"""Phases as a DPU goes through them."""
ONCE = ("installs", "activates", "hostReboots", "joins")
"""What must have been done to each card exactly once."""
ROWS = 24
"""Rows of the live table; a bigger fleet shows those that changed last."""

_REQUESTS = re.compile(r'^apiserver_request_total\{.*verb="(?P<verb>[A-Z]+)".*\} (?P<count>[0-9.e+]+)$', re.MULTILINE)


class DemoFailed(Exception):
    """Something is not as it should be."""


def run_demo(arguments: argparse.Namespace) -> int:
    """Runs the demo; 0 if everything was as it should be. Everything is taken down in any case, but for what another runs there."""
    folder = arguments.data_dir or Path(tempfile.mkdtemp(prefix="dpf-demo-"))
    layout = Layout(folder.expanduser().resolve())
    clock, failed, ours = Clock(), True, True
    if why := refusal(layout):
        complain(f"error: {why}")
        return 1
    say(f"A sandbox with {arguments.dpus} simulated DPUs comes up.")
    try:
        if bring_up(layout, arguments, clock.tell) == 0:
            asyncio.run(_provision(layout, arguments.dpus, clock))
            failed = False
    except Taken as error:
        complain(f"error: {error}")
        ours = False
    except (DemoFailed, DpfError, control.ControlError) as error:
        complain(f"error: {error}\nThe logs are in {layout.logs}")
    finally:
        failed |= ours and not _taken_down(layout, clock, keep_logs=failed)
    return int(failed)


def _taken_down(layout: Layout, clock: Clock, *, keep_logs: bool) -> bool:
    try:
        take_down(layout, keep_logs=keep_logs)
    except control.ControlError as error:
        complain(f"error: {error}")
        return False
    clock.tell("everything is taken down again")
    return True


async def _provision(layout: Layout, dpus: int, clock: Clock) -> None:
    settings = Settings.read(layout)
    host, dpu = Kubeconfig.load(layout.host_kubeconfig), Kubeconfig.load(layout.dpu_kubeconfig)
    async with Api(host, user_agent="dpfctl") as api, Api(dpu, user_agent="dpfctl") as dpu_api:
        before = [await requests(server) for server in (api, dpu_api)]
        await Applier(api).apply(samples(settings))
        clock.tell("BFB, DPUFlavor and DPUSet are applied")
        journey = Journey(clock)
        limit = 60.0 + 1.0 * dpus
        try:
            async with asyncio.timeout(limit):
                await _watch(api, journey, dpus)
        except TimeoutError:
            rows = journey.rows()
            shown = table(rows) if rows else "there is none: look at the log of provisioning-manager"
            raise DemoFailed(f"after {limit:.0f} s not all DPUs are Ready:\n{shown}") from None
        after = [await requests(server) for server in (api, dpu_api)]
    cards = await control.ask(layout.fleet_socket, "GET", "/cards")
    processes = await control.ask(layout.control_socket, "GET", "/processes")
    say(journey.summary())
    for name, old, new in zip(("host", "DPU"), before, after, strict=True):
        total = sum(new.values()) - sum(old.values())
        writes = sum(new[verb] - old[verb] for verb in ("POST", "PUT", "PATCH", "DELETE", "APPLY"))
        say(f"{name} cluster: {total / dpus:.1f} requests per DPU by everybody, {writes / dpus:.1f} of them writes")
    check(cards, processes)
    say("Each card was flashed once, and joined the DPU cluster once.")
    say(
        '\nTry next:\n  dpfctl sandbox up && eval "$(dpfctl sandbox env)"\n  dpfctl sandbox samples | kubectl apply -f -'
    )
    say("  kubectl get dpus -A -w\n  dpfctl sandbox kill provisioning-manager\n")


def check(cards: list[dict[str, Any]], processes: list[dict[str, Any]]) -> None:
    """Whether everything was done once.

    :param cards: as ``dpfctl sandbox cards`` has them.
    :param processes: as ``dpfctl sandbox ps`` has them. Pods of hosts that were rebooted started again with them.
    :raises DemoFailed: if not.
    """
    wrong = [card for card in cards if {card[what] for what in ONCE} != {1}]
    if wrong:
        raise DemoFailed(f"these cards were not flashed, rebooted and joined exactly once:\n{table(wrong)}")
    dead = [each for each in processes if each["restarts"] and not each["name"].endswith(("-dms", "-hostnetwork"))]
    if dead:
        raise DemoFailed(f"these processes ended and were started again:\n{table(dead)}")


async def _watch(api: Api, journey: Journey, dpus: int) -> None:
    """Follows the DPUs until all are Ready."""
    with _view(journey) as show:
        async for event, obj in api.follow(DPUS):
            if event != "DELETED" and journey.observe(obj):
                show(obj)
            if journey.errors:
                raise DemoFailed(f"DPU {journey.errors[0]}")
            if journey.ready == dpus:
                return


class Journey:
    """What was seen of the DPUs: when each entered which phase.

    :param clock: that of the command; the journey begins now.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begun = clock.seconds
        self._phases: dict[str, list[tuple[str, float]]] = {}
        self._nodes: dict[str, str] = {}
        self._waits: dict[str, str] = {}
        self.errors: list[str] = []

    @property
    def ready(self) -> int:
        """How many DPUs are Ready."""
        return sum(phases[-1][0] == "Ready" for phases in self._phases.values())

    def observe(self, dpu: Json) -> bool:
        """Takes note of a DPU; whether its phase is a new one."""
        name, status = dpu["metadata"]["name"], dpu.get("status") or {}
        phase = status.get("phase") or "Initializing"
        self._nodes[name] = dpu["spec"].get("nodeName", "")
        waiting = [c for c in status.get("conditions") or [] if c["status"] != "True" and c.get("message")]
        self._waits[name] = waiting[-1]["message"] if waiting else ""
        if phase == "Error":
            self.errors.append(f"{name}: {self._waits[name] or 'phase Error'}")
        seen = self._phases.setdefault(name, [])
        if seen and seen[-1][0] == phase:
            return False
        seen.append((phase, self._clock.seconds))
        return True

    def tell(self, dpu: Json) -> None:
        """Prints the phase of a DPU, which is a new one."""
        name = dpu["metadata"]["name"]
        phase, at = self._phases[name][-1]
        self._clock.tell(f"{name}  {phase}", at)

    def rows(self) -> list[dict[str, Any]]:
        """Name, node, phase, when it began, and what it waits for; the last changed last."""
        latest = sorted(self._phases.items(), key=lambda item: item[1][-1][1])[-ROWS:]
        return [
            {
                "dpu": name,
                "node": self._nodes[name],
                "phase": phases[-1][0],
                "at": f"{phases[-1][1]:.1f} s",
                "waits for": self._waits[name] if phases[-1][0] != "Ready" else "",
            }
            for name, phases in (sorted(latest) if len(self._phases) <= ROWS else latest)
        ]

    def summary(self) -> str:
        """How long it took: until the last DPU was Ready, and in each phase."""
        spent: dict[str, list[float]] = defaultdict(list)
        for phases in self._phases.values():
            for (phase, begun), (_, ended) in pairwise(phases):
                spent[phase].append(ended - begun)
        rows = [
            {"phase": phase, "median": f"{median(times):.2f} s", "longest": f"{max(times):.2f} s"}
            for phase, times in sorted(spent.items(), key=lambda each: ORDER.index(each[0]))
        ]
        took = max(phases[-1][1] for phases in self._phases.values()) - self._begun
        ready = f"{self.ready} DPUs are Ready {took:.1f} s after the DPUSet was applied"
        return f"\n{ready}. So long a DPU was in each phase:\n\n{table(rows)}\n"


@contextmanager
def _view(journey: Journey) -> Iterator[Any]:
    """A function that shows a change: in a live table on a terminal, else as a line."""
    if not sys.stdout.isatty():
        yield journey.tell
        return
    with Live(console=Console(), refresh_per_second=8, get_renderable=lambda: _render(journey)):
        yield lambda obj: None


def _render(journey: Journey) -> Table:
    view = Table(title=f"{journey.ready} Ready", box=None, title_justify="left", pad_edge=True)
    for head in ("DPU", "NODE", "PHASE", "AT", "WAITS FOR"):
        view.add_column(head, no_wrap=True, overflow="ellipsis")
    for row in journey.rows():
        style = "green" if row["phase"] == "Ready" else ""
        view.add_row(*(str(value) for value in row.values()), style=style)
    return view


async def requests(api: Api) -> dict[str, float]:
    """How many requests a server has answered, by verb, as its metrics tell; streams are left out."""
    counts: dict[str, float] = defaultdict(float)
    for found in _REQUESTS.finditer(await api.text("/metrics")):
        if found["verb"] not in ("WATCH", "CONNECT"):
            counts[found["verb"]] += float(found["count"])
    return counts
