"""How far a download is, how fast, and whether it is too slow to hold up others."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

AVERAGE = 60.0
"""Seconds over which the rate is taken."""
PATIENCE = 180.0
"""Seconds for which a download may be slower than :data:`SLOWEST` while others wait for their turn."""
SLOWEST = 64 << 10
"""Bytes a second; an image of 2 GiB takes nine hours at that."""


@dataclass
class Progress:
    """What a running download tells; times are the event loop's, in seconds."""

    have: int = 0
    total: int = 0
    """0 if the server does not say."""
    rate: int = 0
    """Bytes a second, as of the last mark; 0 if not known yet."""
    _marks: deque[tuple[float, int]] = field(default_factory=deque)

    @property
    def begun(self) -> bool:
        """Whether anything was marked: before that a file that is there is read, or the server has not answered yet."""
        return bool(self._marks)

    @property
    def left(self) -> int | None:
        """Seconds to go at that rate; None if that can't be told."""
        return -(-(self.total - self.have) // self.rate) if self.rate > 0 and self.total >= self.have else None

    @property
    def missing(self) -> int:
        """Bytes that are still to come, as far as is known."""
        return max(0, self.total - self.have)

    def mark(self, at: float) -> bool:
        """Notes how far it is; whether it has moved since the last time. The rate is another one only then: what stands still
        would be written down every time otherwise."""
        moved = bool(self._marks) and self.have != self._marks[-1][1]
        while len(self._marks) > 1 and self._marks[1][0] <= at - PATIENCE:
            self._marks.popleft()
        if moved:
            since, had = next(mark for mark in self._marks if mark[0] >= at - AVERAGE or mark is self._marks[-1])
            self.rate = max(0, round((self.have - had) / (at - since))) if at > since else self.rate
        self._marks.append((at, self.have))
        return moved

    def slow(self, at: float) -> bool:
        """Whether it was slower than it may be, for as long as it may be."""
        if not self._marks or at - self._marks[0][0] < PATIENCE:
            return False
        since, had = self._marks[0]
        return self.have - had < SLOWEST * (at - since)
