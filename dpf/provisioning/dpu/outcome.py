"""How work that was begun beside the workers stands, as the phases see it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dpf.runtime.jobs import Job
from dpf_api.dpu import Firmware


@dataclass(frozen=True)
class Progress:
    """What an installation tells of itself.

    :param percent: of the installation, as the card reports.
    :param lost: whether DMS does not answer at the moment; the text says why.
    :param activated_at: when the card was asked to activate what it was given; None if it was not yet.
    """

    text: str = ""
    percent: int = 0
    lost: bool = False
    activated_at: datetime | None = None


@dataclass(frozen=True)
class Outcome:
    """Of a job: waiting for its turn, running, done, or failed with an error."""

    done: bool = False
    error: Exception | None = None
    queued: bool = False
    progress: Progress = Progress()
    firmware: Firmware | None = None
    """Versions that the card told when it was done."""

    @classmethod
    def of(cls, job: Job[Any] | None) -> Outcome | None:
        """Of a job, if there is one."""
        if job is None:
            return None
        progress = job.progress or Progress()
        if not job.done:
            return cls(queued=job.queued, progress=progress)
        try:
            firmware = job.result()
        except Exception as error:  # noqa: BLE001  (what a job raised is what the phase decides on)
            return cls(done=True, error=error, progress=progress)
        return cls(done=True, progress=progress, firmware=firmware)
