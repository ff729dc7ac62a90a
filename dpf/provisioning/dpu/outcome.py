"""How work that was begun beside the workers stands, as the phases see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dpf.runtime.jobs import Job
from dpf_api.dpu import Firmware


@dataclass(frozen=True)
class Outcome:
    """Of a job: running, done, or failed with an error."""

    done: bool = False
    error: Exception | None = None
    progress: str = ""
    percent: int = 0
    firmware: Firmware | None = None
    """Versions that the card told when it was done."""

    @classmethod
    def of(cls, job: Job[Any] | None) -> Outcome | None:
        """Of a job, if there is one."""
        if job is None:
            return None
        text, percent = job.progress or ("", 0)
        if not job.done:
            return cls(progress=text, percent=percent)
        try:
            firmware = job.result()
        except Exception as error:  # noqa: BLE001  (what a job raised is what the phase decides on)
            return cls(done=True, error=error, progress=text, percent=percent)
        return cls(done=True, percent=100, firmware=firmware)
