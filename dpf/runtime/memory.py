"""Memory of a long-lived process with a large cache.

CPython's cyclic collector costs more than reading the wire while a heap grows, and a full pass over a filled cache stalls the loop
for hundreds of milliseconds. So its thresholds are raised at the start, and once the caches are filled what is there is taken
out of its sight (``gc.freeze``) and freed memory is given back to the kernel.

The C library gives each thread, up to eight per core, a heap of its own, and none of them gives its holes to another. Threads here
read files and serve gRPC: they can share.
"""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

THRESHOLDS = (20_000, 20, 50)
ARENAS = 2
"""Heaps of the C library: one for the loop, one for all threads."""
_M_ARENA_MAX = -8
"""Of mallopt(3)."""


def start() -> None:
    """Call once, before anything is read."""
    gc.set_threshold(*THRESHOLDS)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)


def settle() -> None:
    """Call when the caches are filled: collects once, freezes what is left, trims the heap."""
    gc.collect()
    gc.freeze()
    trim()


def trim() -> None:
    """Gives freed memory back to the kernel; where the C library can't, nothing happens."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
