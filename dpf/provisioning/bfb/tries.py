"""What this process knows of BFBs' downloads beyond what their status says: how often one failed, when it is due, whether one runs.

It is of no object but the one with that uid, and is let go with it. After a restart a failed download is tried at once.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from dpf.provisioning.bfb.progress import Progress
from dpf.runtime.meta import Key, now
from dpf_api.bfb import BFB


@dataclass
class Tries:
    """Of one BFB."""

    uid: str
    _failures: int = 0
    _due: datetime | None = None
    _tried: object = None
    _idle: asyncio.Event | None = None
    """Set when its download has ended."""
    progress: Progress | None = None
    """Of the download that runs."""

    def begin(self, mendable: object) -> None:
        """A try begins, with so much of what its user may mend."""
        self._tried = mendable

    def failed(self, first: float, most: float) -> float:
        """Seconds until the next try; doubled each time."""
        self._failures += 1
        pause: float = min(first * 2.0 ** (self._failures - 1), most)
        self._due = now() + timedelta(seconds=pause)
        return pause

    def forget(self) -> None:
        """The failures: it went well, or somebody asks for a try at once."""
        self._failures, self._due, self._tried = 0, None, None

    def wait(self, mendable: object) -> float:
        """Seconds until a failed BFB is due for its next try; 0 for one that this process did not see fail, and for one that
        its user has mended since."""
        if self._due is None or (self._tried is not None and self._tried != mendable):
            return 0.0
        return max(0.0, (self._due - now()).total_seconds())

    def run(self) -> Progress:
        """Its download runs, until :meth:`end`."""
        self._idle = asyncio.Event()
        self.progress = Progress()
        return self.progress

    def end(self) -> None:
        """Its download has ended."""
        self.progress = None
        if self._idle is not None:
            self._idle.set()

    async def ended(self, within: float) -> bool:
        """Whether its download, which was cancelled, has ended; waits so many seconds for it."""
        if self._idle is None:
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._idle.wait()
        return self._idle.is_set()


class AllTries:
    """Of all BFBs."""

    def __init__(self) -> None:
        self._tries: dict[Key, Tries] = {}

    def of(self, bfb: BFB) -> Tries:
        """The BFB's; those of an earlier namesake are dropped."""
        tries = self.known(bfb.key)
        if tries is None or tries.uid != bfb.uid:
            tries = self._tries[bfb.key] = Tries(bfb.uid)
        return tries

    def known(self, key: Key) -> Tries | None:
        """Of the BFB that was last seen with that name."""
        return self._tries.get(key)

    def drop(self, key: Key) -> None:
        """Nothing is held of that BFB any more."""
        self._tries.pop(key, None)

    def promised(self, uid: str) -> int:
        """Bytes that downloads of others are still going to write."""
        return sum(each.progress.missing for each in self._tries.values() if each.progress and each.uid != uid)
