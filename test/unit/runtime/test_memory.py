"""What a process does about the garbage collector, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import gc, weakref
from dpf.runtime import memory
memory.start()
assert gc.get_threshold() == memory.THRESHOLDS, gc.get_threshold()
class Node: pass
garbage = []
for _ in range(1000):
    node = Node(); node.itself = node; garbage.append(weakref.ref(node))
del node
kept = [Node() for _ in range(1000)]
memory.settle()
assert not [each for each in garbage if each() is not None], "garbage is not frozen"
assert gc.get_freeze_count() > 1000
assert not [each for each in gc.get_objects() if isinstance(each, Node)], "what is kept is out of the collector's sight"
"""


def test_garbage_is_collected_once_caches_are_filled_and_what_is_left_is_out_of_the_collectors_sight() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)
