"""Logs what is wrong once, not at every look: when it begins, when its words change, and when it is over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpf.runtime.log import get_logger

log = get_logger(__name__)


class Findings:
    """What was found to be wrong at the last look.

    :param context: fields that each line has.
    """

    def __init__(self, **context: Any) -> None:
        self._context = context
        self._known: dict[tuple[str, str], str] = {}

    def tell(self, found: Mapping[tuple[str, str], str]) -> None:
        """Takes what is wrong now: a message for each thing (first word) and aspect of it (second)."""
        for (thing, what), message in found.items():
            if self._known.get((thing, what)) != message:
                log.warning("finding", device=thing, what=what, message=message, **self._context)
        for thing, what in self._known.keys() - found.keys():
            log.info("finding_over", device=thing, what=what, **self._context)
        self._known = dict(found)
