"""The BFB controller: downloads an image, watches over its file, removes it.

    Initializing -> Downloading -> Ready          a file that vanishes or changes: Downloading again
                               -> Error           tried again, later each time

The download is a job beside the workers; killed and started again it goes on where it was. While DPUs use an image it is not
removed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from dpf.provisioning.bfb.download import DownloadFailed, Image, Source, digest, download, part_of
from dpf.runtime import conditions
from dpf.runtime.cluster import Cluster
from dpf.runtime.controller import Controller, For, Result, Watch
from dpf.runtime.errors import Waiting
from dpf.runtime.events import EventRecorder
from dpf.runtime.informer import Index
from dpf.runtime.jobs import Job, Jobs
from dpf.runtime.log import get_logger
from dpf.runtime.meta import Key, now
from dpf_api import names
from dpf_api.bfb import BFB, BFBStatus, ConditionType, Phase
from dpf_api.dpu import DPU

log = get_logger(__name__)

LOOK = 5.0
"""Seconds between looks at the file of a Ready image; a look is one stat of the volume and no request."""
PROGRESS_EVERY = 5.0
"""Seconds between writes of how far a download is."""
RETRY = (5.0, 300.0)
"""Seconds until a failed download is tried again: at first, and at most; doubled each time."""
DOWNLOADS = 8
"""Images downloaded at once."""

BFB_USERS: Index[DPU] = Index("bfb-users", lambda dpu: [f"{dpu.namespace}/{dpu.spec.bfb}"] if dpu.spec.bfb else [])


@dataclass
class Progress:
    """What a running download tells."""

    have: int = 0
    total: int = 0


class BFBReconciler:
    """Makes an image's file as its BFB says."""

    finalizer = names.FINALIZER_BFB

    def __init__(self, cluster: Cluster, events: EventRecorder, jobs: Jobs[Image], folder: Path) -> None:
        self._client = cluster.client
        self._dpus = cluster.cache[DPU]
        self._dpus.add_index(BFB_USERS)
        self._events = events
        self._jobs = jobs
        self._folder = folder
        # By uid, and only of what this process saw fail: after a restart a failed download is tried at once.
        self._failures: dict[str, int] = {}
        self._due: dict[str, datetime] = {}

    async def reconcile(self, bfb: BFB) -> Result | None:
        job = self._jobs.take(bfb.key, bfb.uid)
        if job is not None:
            return await self._judge(bfb, job)
        if bfb.status.phase is Phase.READY:
            return await self._look(bfb)
        if bfb.status.phase is Phase.ERROR and (wait := self._wait(bfb)) > 0:
            return Result(requeue_after=wait)
        return await self._begin(bfb)

    async def finalize(self, bfb: BFB) -> Result | None:
        self._jobs.cancel(bfb.key)
        users = self._dpus.keys_by(BFB_USERS, str(bfb.key))
        if users:
            shown = ", ".join(key.name for key in users[:5]) + (" ..." if len(users) > 5 else "")
            message = f"waiting for {len(users)} DPUs that use it to go: {shown}"
            await self._say(bfb, Phase.DELETING, "InUse", message)
            raise Waiting("InUse", message)
        part = part_of(self._folder, bfb.uid)
        try:
            for path in (self._target(bfb), part, part.with_name(f"{part.name}.tag")):
                path.unlink(missing_ok=True)
        except OSError as error:
            self._events.warning(bfb, "FailedDelete", f"{error.filename}: {error.strerror}")
            raise
        self._forget(bfb)
        return None

    def _forget(self, bfb: BFB) -> None:
        self._failures.pop(bfb.uid, None)
        self._due.pop(bfb.uid, None)

    def _target(self, bfb: BFB) -> Path:
        return self._folder / (bfb.spec.file_name or names.bfb_file(bfb.namespace, bfb.name))

    async def _begin(self, bfb: BFB) -> Result | None:
        """Takes a file that is there already, or starts the download."""
        target = self._target(bfb)
        bfb = await self._say(bfb, Phase.DOWNLOADING, "Downloading", f"downloading {bfb.spec.url}")

        async def work(job: Job[Image]) -> Image:
            if target.is_file() and (image := _known(target, bfb)) is not None:
                return image
            progress = job.progress = Progress()

            def told(have: int, total: int) -> None:
                progress.have, progress.total = have, total

            source = Source(bfb.spec.url, bfb.spec.checksum)
            return await download(source, part_of(self._folder, bfb.uid), target, told)

        self._jobs.start(bfb.key, bfb.uid, work)
        return Result(requeue_after=PROGRESS_EVERY)

    async def _judge(self, bfb: BFB, job: Job[Image]) -> Result | None:
        if not job.done:
            progress = job.progress or Progress()
            message = f"{progress.have} of {progress.total or '?'} bytes of {bfb.spec.url}"
            await self._say(bfb, Phase.DOWNLOADING, "Downloading", message, have=progress.have, size=progress.total)
            return Result(requeue_after=PROGRESS_EVERY)
        try:
            image = job.result()
        except DownloadFailed as error:
            return await self._fail(bfb, error.reason, error.message)
        except OSError as error:
            return await self._fail(bfb, "VolumeFailed", f"{error.filename}: {error.strerror}")
        self._forget(bfb)
        self._events.normal(bfb, "SuccessfulDownload", f"{self._target(bfb).name}: {image.size} bytes")
        await self._say(bfb, Phase.READY, "", "", have=image.size, size=image.size, checksum=image.checksum)
        return Result(requeue_after=LOOK)

    async def _fail(self, bfb: BFB, reason: str, message: str) -> Result:
        failures = self._failures[bfb.uid] = self._failures.get(bfb.uid, 0) + 1
        pause = min(RETRY[0] * 2.0 ** (failures - 1), RETRY[1])
        self._due[bfb.uid] = now() + timedelta(seconds=pause)
        self._events.warning(bfb, "FailedDownload", message)
        await self._say(bfb, Phase.ERROR, reason, message)
        return Result(requeue_after=pause)

    def _wait(self, bfb: BFB) -> float:
        """Seconds until a failed BFB is due for its next try; 0 for one that this process did not see fail."""
        due = self._due.get(bfb.uid)
        return 0.0 if due is None else max(0.0, (due - now()).total_seconds())

    async def _look(self, bfb: BFB) -> Result | None:
        """A file that vanished or has another size is downloaded again."""
        target = self._target(bfb)
        try:
            size = target.stat().st_size
        except FileNotFoundError:
            log.warning("image_vanished", bfb=str(bfb.key))
            return await self._begin(bfb)
        if size != bfb.status.file_size:
            log.warning("image_changed", bfb=str(bfb.key), size=size, expected=bfb.status.file_size)
            target.unlink(missing_ok=True)
            return await self._begin(bfb)
        return Result(requeue_after=LOOK)

    async def _say(
        self,
        bfb: BFB,
        phase: Phase,
        reason: str,
        message: str,
        *,
        have: int | None = None,
        size: int = 0,
        checksum: str = "",
    ) -> BFB:
        """Writes the status, if it is another one."""
        ready, old = phase is Phase.READY, bfb.status
        generation = bfb.metadata.generation
        kept = old.conditions
        for kind in (ConditionType.DOWNLOADED, ConditionType.READY):
            word = kind.value if ready else reason or phase.value
            kept = conditions.set_condition(
                kept, conditions.new(kind.value, ready, word, message, generation=generation)
            )
        status = BFBStatus(
            phase=phase,
            reason=reason,
            message=message,
            file_size=size or old.file_size,
            downloaded_bytes=old.downloaded_bytes if have is None else have,
            checksum=checksum,
            observed_generation=generation,
            conditions=kept,
        )
        return await self._client.status(bfb).set(status)


def _known(target: Path, bfb: BFB) -> Image | None:
    """A file that somebody put in the image's place, if it is what the BFB asks for."""
    image = digest(target)
    if bfb.spec.checksum and image.checksum != bfb.spec.checksum:
        log.warning("image_is_another", bfb=str(bfb.key), file=target.name)
        target.unlink(missing_ok=True)
        return None
    return image


def bfb_controller(
    cluster: Cluster, events: EventRecorder, jobs: Jobs[Image], folder: Path, workers: int
) -> Controller[BFB]:
    """The controller of BFBs; ``jobs`` are its downloads."""

    def used(dpu: DPU) -> Iterable[Key]:
        return [Key(dpu.namespace, dpu.spec.bfb)] if dpu.spec.bfb else []

    controller = Controller(
        "bfb",
        BFBReconciler(cluster, events, jobs, folder),
        watches=[
            For(BFB),
            Watch(DPU, to=used, when=lambda change: change.type == "DELETED"),
        ],
        workers=workers,
    )
    jobs.bind(controller)
    return controller
