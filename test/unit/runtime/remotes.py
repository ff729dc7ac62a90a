"""A registry of remote clusters, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dpf.runtime.meta import Key
from dpf.runtime.metrics import Metrics
from dpf.runtime.remote import RemoteClusters

ONE, TWO = Key("n", "one"), Key("n", "two")


@asynccontextmanager
async def keeping(metrics: Metrics | None = None) -> AsyncIterator[RemoteClusters]:
    """A registry that runs inside the block, and must not have ended by itself."""
    remotes = RemoteClusters(field_owner="test", metrics=metrics or Metrics())
    task = asyncio.create_task(remotes.run())
    await asyncio.sleep(0)
    try:
        yield remotes
        assert not task.done(), "no cluster may end the process"
    finally:
        task.cancel()
        await asyncio.wait([task])
