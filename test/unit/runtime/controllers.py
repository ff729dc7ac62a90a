"""A controller of widgets whose world a test makes, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from dpf.runtime.client import Client
from dpf.runtime.cluster import Cluster
from dpf.runtime.controller import Controller, For, Owns, Result, Watch, WatchRemote, WatchRemoteHealth
from dpf.runtime.informer import Informer
from dpf.runtime.k8s import Node
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.metrics import Metrics
from test.unit.runtime.widgets import Widget

Act = Callable[[Widget], Awaitable[Result | None]]


async def nothing(_: Widget) -> None:
    return None


class Recording:
    """Records what it is called with, and when; then does as it is told."""

    def __init__(self, act: Act = nothing) -> None:
        self.calls: list[tuple[str, float]] = []
        self.act = act

    async def reconcile(self, obj: Widget) -> Result | None:
        self.calls.append((obj.name, round(asyncio.get_running_loop().time(), 3)))
        return await self.act(obj)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


class Running:
    """A controller at work on a cache without a server."""

    def __init__(self, controller: Controller[Widget], metrics: Metrics) -> None:
        self.controller = controller
        self.metrics = metrics.controller(controller.name, controller.workers)
        self.cluster = Cluster("test", Client(Kubeconfig(server="http://127.0.0.1:1"), field_owner="test"))
        controller.register(self.cluster, metrics)
        self.widgets: Informer[Widget] = self.cluster.cache[Widget]

    async def __aenter__(self) -> Running:
        self._task = asyncio.create_task(self.controller.run())
        await asyncio.sleep(0)
        for informer in self.cluster.cache.informers():
            if not informer.synced.is_set():
                informer.replace([], 1)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


def running(
    reconciler: Recording, *more: Owns | Watch[Node] | WatchRemote[Node] | WatchRemoteHealth, **options: object
) -> Running:
    watches = [For(Widget), *more]
    return Running(Controller("widget", reconciler, watches=watches, **options), Metrics())  # type: ignore[arg-type]
