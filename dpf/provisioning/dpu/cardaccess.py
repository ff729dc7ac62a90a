"""What the phases ask of the way to a DPU's card; :mod:`dpf.provisioning.dpu.card` goes it."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from dpf.provisioning.dpu.install import Order
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.rebootpolicy import Policy
from dpf_api.dpu import DPU


class Card(Protocol):
    """The way to a DPU's card."""

    async def prepare(self, seen: Seen, attempt: int) -> Order:
        """Makes the order: renders the configuration, with a join command for the DPU's cluster."""

    def start(self, dpu: DPU, order: Order, activated: datetime | None) -> None:
        """Begins the installation as a job.

        :param activated: when the card was asked to activate it, if a job before this one has; while it is still at that its
            time runs from then.
        """

    async def reboot(self, seen: Seen, policy: Policy) -> None:
        """Asks for the reboot that is on record."""

    def follow_reboot(self, dpu: DPU, seconds: float) -> None:
        """Begins to ask whether the reboot failed, for so long at most, as a job that ends with
        :class:`dpf.provisioning.dpu.install.RebootFailed` then."""
