"""A manager process for the tests: it takes as long for a widget as the test wants, and says on the widget what it does."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from dpf.runtime.client import Client
from dpf.runtime.controller import Controller, For
from dpf.runtime.manager import Manager, run_process
from dpf.runtime.options import ManagerOptions, parse
from dpf.runtime.predicates import generation_changed
from dpf.runtime.testing import eventually
from test.unit.runtime.widgets import Widget

NAME = "widget-manager"


class Slow:
    """Annotates a widget when it begins, waits until somebody annotates it with ``go``, annotates it again."""

    def __init__(self, client: Client, identity: str) -> None:
        self._client = client
        self._identity = identity

    async def reconcile(self, obj: Widget) -> None:
        await self._client.merge_patch(obj, {"metadata": {"annotations": {"begun": self._identity}}})
        await eventually(
            self._client, Widget, obj.name, obj.namespace, until=lambda w: "go" in w.annotations, timeout=600
        )
        await self._client.merge_patch(obj, {"metadata": {"annotations": {"done": self._identity}}})


@dataclass(frozen=True)
class Options:
    """Its flags."""

    manager: ManagerOptions = field(default_factory=ManagerOptions)
    identity: str = "us"


def main() -> int:
    """Runs the process."""
    options = parse(Options, prog=NAME, description=str(__doc__))

    def setup(manager: Manager) -> None:
        slow = Slow(manager.cluster.client, options.identity)
        manager.add(Controller("widget", slow, watches=[For(Widget, when=generation_changed)]))

    return run_process(NAME, options.manager, setup)


if __name__ == "__main__":
    sys.exit(main())
