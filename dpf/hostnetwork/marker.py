"""Tells the kubelet how things are: a file that is there while all is well, one that says what is not, and the last words."""

from __future__ import annotations

from pathlib import Path

from dpf.host import files
from dpf.hostnetwork.decide import Problem

READY = "ready"


class Marker:
    """See :class:`dpf.hostnetwork.hostnetwork.Report`.

    :param marker: there while all is as it should be, and only then.
    :param status: one line: ``ready``, or what is wrong.
    """

    def __init__(self, marker: Path, status: Path) -> None:
        self._marker = marker
        self._status = status

    def tell(self, problem: Problem | None) -> None:
        if problem is not None:
            files.remove(self._marker)
        text = READY if problem is None else f"{problem.reason}: {problem.message}"
        _put(self._status, f"{text}\n")
        if problem is None:
            _put(self._marker, "")

    def clear(self) -> None:
        """Removes both files: nothing is known, as when a process before this one was killed."""
        files.remove(self._marker)
        files.remove(self._status)


def last_words(path: Path, text: str) -> None:
    """Leaves a line where the kubelet looks for why a container ended; nothing if there is no such place."""
    if path.exists():
        path.write_text(f"{text}\n")


def _put(path: Path, content: str) -> None:
    """Writes a file unless it says so already."""
    if not path.exists() or path.read_text() != content:
        files.put(path, content, durable=False)
