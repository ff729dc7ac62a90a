"""Holds tasks that somebody starts now and then, such as the watches of clusters that come and go."""

from __future__ import annotations

import asyncio


class TaskHolder:
    """A task group for as long as it is run; what is part of a manager runs it as its own ``run``.

    :param what: whose tasks they are, for the error when one is started too early.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Holds tasks until cancelled, which cancels them."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await asyncio.Event().wait()
            finally:
                self._group = None

    @property
    def group(self) -> asyncio.TaskGroup:
        """Where tasks are started.

        :raises RuntimeError: if this is not being run.
        """
        if self._group is None:
            raise RuntimeError(f"{self._what} were started before their manager ran them")
        return self._group
