"""What a sandbox was started with, kept in its data folder for the processes that belong to it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import orjson
from pydantic import TypeAdapter

from dpf.sandbox.fleet.cardstate import Durations
from dpf.sandbox.fleet.disk import write_private
from dpf.sandbox.layout import Inventory, Layout

LARGEST_WITH_PROCESSES = 48
"""DPUs up to which every ``dms`` is a process of its own."""

VISIBLE_DELAYS = Durations(install=4.0, boot=1.5, host_reboot=2.0)
"""Long enough for each phase of a DPU to be seen."""


@dataclass(frozen=True)
class Settings:
    """Chosen when the sandbox is brought up; the same for its whole life."""

    dpus: int
    dpus_per_host: int
    block: str
    """First of the sandbox's own addresses of 127.0.0.0/8."""
    durations: Durations
    in_process: bool
    """Whether ``dms`` runs inside the fleet's process."""
    without: tuple[str, ...] = ()
    """Managers that are left out, because their user runs them from a shell."""
    log_level: str = "info"
    """Of the managers."""
    bfb_url: str = ""
    """Of the image that the sandbox serves."""

    @property
    def inventory(self) -> Inventory:
        return Inventory(self.dpus, self.dpus_per_host, self.block)

    @classmethod
    def read(cls, layout: Layout) -> Settings:
        """The settings of the sandbox in a folder.

        :raises FileNotFoundError: if there is none.
        """
        return TypeAdapter(Settings).validate_json(layout.settings.read_bytes())

    def write(self, layout: Layout) -> None:
        write_private(layout.settings, orjson.dumps(asdict(self)))
