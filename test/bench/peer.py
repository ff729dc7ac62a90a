"""A peer for the framework benches: our library at the smallest useful job, as one process.

For every widget whose ``status.observedGeneration`` is behind it sets a status with one condition; with ``CACHE_ONLY=1`` it only
looks. Environment: KUBECONFIG, WORKERS (32), STATS (a file of two int64 that it maps: calls of the reconciler, time of the
first in nanoseconds). SIGUSR1 trims its memory, SIGTERM ends it.
"""

from __future__ import annotations

import asyncio
import gc
import mmap
import os
import signal
import struct
import time
from functools import partial
from pathlib import Path
from typing import ClassVar

import uvloop
from pydantic import Field

from dpf.runtime import conditions, memory
from dpf.runtime.client import Client
from dpf.runtime.cluster import Cluster
from dpf.runtime.controller import Controller, For
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import Condition, Model, Object, Resource
from dpf.runtime.metrics import Metrics


class WidgetSpec(Model):
    size: int = 0


class WidgetStatus(Model):
    observed_generation: int = 0
    size: int = 0
    conditions: list[Condition] = Field(default_factory=list)


class Widget(Object):
    RESOURCE: ClassVar[Resource] = Resource("bench.dpf.dev", "v1", "widgets", "Widget")

    spec: WidgetSpec = Field(default_factory=WidgetSpec)
    status: WidgetStatus = Field(default_factory=WidgetStatus)


class Reconciler:
    """Sets the status of widgets that lack it, and counts its calls where the driver can see."""

    def __init__(self, client: Client, stats: mmap.mmap, *, writes: bool) -> None:
        self.client = client
        self.stats = stats
        self.writes = writes
        self.calls = 0
        self.first = 0

    async def reconcile(self, widget: Widget) -> None:
        self.calls += 1
        self.first = self.first or time.time_ns()
        struct.pack_into("<qq", self.stats, 0, self.calls, self.first)
        generation = widget.metadata.generation
        if not self.writes or widget.status.observed_generation == generation:
            return
        ready = conditions.new("Ready", True, "Done", "the size was taken over", generation=generation)
        await self.client.status(widget).set(
            WidgetStatus(
                observed_generation=generation,
                size=widget.spec.size,
                conditions=conditions.set_condition(widget.status.conditions, ready),
            )
        )


def trim() -> None:
    """Collects and gives memory back."""
    gc.collect()
    memory.trim()


async def main(stats: mmap.mmap) -> None:
    """Runs until SIGTERM."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, trim)
    metrics = Metrics()
    client = Client(Kubeconfig.load(), field_owner="peer")
    client.transport.observer = partial(metrics.count_request, "bench")
    async with client:
        cluster = Cluster("bench", client)
        reconciler = Reconciler(client, stats, writes=os.environ.get("CACHE_ONLY") != "1")
        workers = int(os.environ.get("WORKERS", "32"))
        controller = Controller("widget", reconciler, watches=[For(Widget)], workers=workers)
        controller.register(cluster, metrics)
        tasks = [asyncio.create_task(cluster.cache.run()), asyncio.create_task(controller.run())]
        await stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


if __name__ == "__main__":
    memory.start()
    with Path(os.environ["STATS"]).open("r+b") as file:
        uvloop.run(main(mmap.mmap(file.fileno(), 16)))
