"""The BFB controller: downloads an image, watches over its file, removes it.

    Initializing -> Downloading -> Ready          a file that vanishes or changes: Downloading again
                               -> Error           tried again, later each time, or when an annotation asks for it

The download is a job beside the workers; killed and started again it goes on where it was. While DPUs use an image it is not
removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from dpf.provisioning.bfb.download import DownloadFailed, Image, Source, digest, download, in_thread, part_of, tag_of
from dpf.provisioning.bfb.file import BY_FILE, file_of
from dpf.provisioning.dpu.indexes import BFB_NAME
from dpf.provisioning.metrics import Counts
from dpf.runtime import conditions
from dpf.runtime.cluster import Cluster
from dpf.runtime.controller import Controller, Finalizing, For, Result, Watch
from dpf.runtime.errors import Waiting
from dpf.runtime.events import EventRecorder
from dpf.runtime.jobs import Job, Jobs
from dpf.runtime.log import get_logger
from dpf.runtime.meta import Key, now
from dpf.runtime.predicates import all_of, differs, generation_changed
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


@dataclass
class Progress:
    """What a running download tells."""

    have: int = 0
    total: int = 0


class BFBReconciler(Finalizing[BFB]):
    """Makes an image's file as its BFB says."""

    finalizer = names.FINALIZER_BFB

    def __init__(
        self, cluster: Cluster, events: EventRecorder, counts: Counts, jobs: Jobs[Image], folder: Path
    ) -> None:
        self._client = cluster.client
        self._bfbs = cluster.cache[BFB]
        self._bfbs.add_index(BY_FILE)
        self._dpus = cluster.cache[DPU]
        self._dpus.add_index(BFB_NAME)
        self._events = events
        self._counts = counts
        self._jobs = jobs
        self._folder = folder
        # By uid, and only of what this process saw fail: after a restart a failed download is tried at once.
        self._failures: dict[str, int] = {}
        self._due: dict[str, datetime] = {}
        self._idle: dict[str, asyncio.Event] = {}
        """Set when the BFB's download has let go of the volume."""

    async def reconcile(self, bfb: BFB) -> Result | None:
        job = self._jobs.take(bfb.key, bfb.uid)
        if job is not None:
            return await self._judge(bfb, job)
        if bfb.status.phase is Phase.READY:
            return await self._look(bfb)
        if names.ANNOTATION_RETRY in bfb.annotations:
            bfb = await self._retry(bfb)
        if bfb.status.phase is Phase.ERROR and (wait := self._wait(bfb)) > 0:
            return Result(requeue_after=wait)
        return await self._begin(bfb)

    async def finalize(self, bfb: BFB) -> Result | None:
        self._jobs.cancel(bfb.key)
        users = self._dpus.keys_by(BFB_NAME, str(bfb.key))
        if users:
            shown = ", ".join(key.name for key in users[:5]) + (" ..." if len(users) > 5 else "")
            message = f"waiting for {len(users)} DPUs that use it to go: {shown}"
            await self._say(bfb, Phase.DELETING, "InUse", message)
            raise Waiting("InUse", message)
        if (idle := self._idle.get(bfb.uid)) is not None:
            await idle.wait()
        try:
            await in_thread(self._remove, bfb)
        except OSError as error:
            self._events.warning(bfb, "FailedDelete", f"{error.filename}: {error.strerror}")
            raise
        self._events.normal(bfb, "Removed", f"{file_of(bfb)} is gone from the volume")
        self._forget(bfb)
        self._idle.pop(bfb.uid, None)
        return None

    def _remove(self, bfb: BFB) -> None:
        part = part_of(self._folder, bfb.uid)
        files = [part, tag_of(part)] if self._taken(bfb) else [part, tag_of(part), self._target(bfb)]
        for path in files:
            path.unlink(missing_ok=True)

    def _taken(self, bfb: BFB) -> Key | None:
        """Another BFB whose file this one's would be; the older one has it. The webhook refuses a second one if it is there."""

        def age(each: BFB) -> tuple[datetime | None, str]:
            return each.metadata.creation_timestamp, each.uid

        others = [each for each in self._bfbs.by(BY_FILE, file_of(bfb)) if each.uid != bfb.uid]
        first = min([bfb, *others], key=age)
        return None if first.uid == bfb.uid else first.key

    def _forget(self, bfb: BFB) -> None:
        self._failures.pop(bfb.uid, None)
        self._due.pop(bfb.uid, None)

    def _target(self, bfb: BFB) -> Path:
        return self._folder / file_of(bfb)

    async def _begin(self, bfb: BFB) -> Result | None:
        """Takes a file that is there already, or starts the download."""
        bfb = await self._say(bfb, Phase.DOWNLOADING, "Downloading", f"downloading {bfb.spec.url}")
        if (other := self._taken(bfb)) is not None:
            return await self._fail(bfb, "FileNameTaken", f"{file_of(bfb)} is the file of BFB {other} already")

        async def work(job: Job[Image]) -> Image:
            idle = self._idle[bfb.uid] = asyncio.Event()
            try:
                return await self._fetch(bfb, job)
            finally:
                idle.set()

        self._jobs.start(bfb.key, bfb.uid, work)
        return Result(requeue_after=PROGRESS_EVERY)

    async def _fetch(self, bfb: BFB, job: Job[Image]) -> Image:
        """The image's file: the one that is there, if it is right, or a download."""
        target = self._target(bfb)
        if (image := await in_thread(_known, target, bfb)) is not None:
            return image
        progress: Progress | None = None

        def told(have: int, total: int) -> None:
            nonlocal progress
            if progress is None:
                progress = job.progress = Progress()
                note = f"going on behind the {have} bytes that are there" if have else f"{total or '?'} bytes"
                self._events.normal(bfb, "ResumedDownload" if have else "StartedDownload", f"{bfb.spec.url}: {note}")
            else:
                self._counts.downloaded_bytes += have - progress.have
            progress.have, progress.total = have, total

        source = Source(bfb.spec.url, bfb.spec.checksum)
        return await download(source, part_of(self._folder, bfb.uid), target, told)

    async def _judge(self, bfb: BFB, job: Job[Image]) -> Result | None:
        if not job.done:
            progress = job.progress or Progress()
            message = f"{progress.have} of {progress.total or '?'} bytes of {bfb.spec.url}"
            await self._say(
                bfb, Phase.DOWNLOADING, "Downloading", message, have=progress.have, size=progress.total or None
            )
            return Result(requeue_after=PROGRESS_EVERY)
        try:
            image = job.result()
        except DownloadFailed as error:
            return await self._fail(bfb, error.reason, error.message)
        except OSError as error:
            return await self._fail(bfb, "VolumeFailed", f"{error.filename}: {error.strerror}")
        self._forget(bfb)
        self._counts.downloads["success"] += 1
        self._events.normal(bfb, "SuccessfulDownload", f"{self._target(bfb).name}: {image.size} bytes")
        await self._say(bfb, Phase.READY, "", "", have=image.size, size=image.size, checksum=image.checksum)
        return Result(requeue_after=LOOK)

    async def _fail(self, bfb: BFB, reason: str, message: str) -> Result:
        failures = self._failures[bfb.uid] = self._failures.get(bfb.uid, 0) + 1
        pause = min(RETRY[0] * 2.0 ** (failures - 1), RETRY[1])
        self._due[bfb.uid] = now() + timedelta(seconds=pause)
        self._counts.downloads["failure"] += 1
        self._events.warning(bfb, "FailedDownload", f"{reason}: {message}; tried again in {pause:g} s")
        await self._say(bfb, Phase.ERROR, reason, message)
        return Result(requeue_after=pause)

    async def _retry(self, bfb: BFB) -> BFB:
        """Takes the annotation that asks for a try at once. Until it is gone nothing is begun, so it is taken once."""
        bfb = await self._client.merge_patch(bfb, {"metadata": {"annotations": {names.ANNOTATION_RETRY: None}}})
        if bfb.status.phase is Phase.ERROR:
            self._events.normal(bfb, "Retrying", f"asked for by annotation; failed before: {bfb.status.message}")
            self._forget(bfb)
        return bfb

    def _wait(self, bfb: BFB) -> float:
        """Seconds until a failed BFB is due for its next try; 0 for one that this process did not see fail."""
        due = self._due.get(bfb.uid)
        return 0.0 if due is None else max(0.0, (due - now()).total_seconds())

    async def _look(self, bfb: BFB) -> Result | None:
        """A file that vanished or has another size is downloaded again."""
        target = self._target(bfb)
        try:
            size = (await in_thread(target.stat)).st_size
        except FileNotFoundError:
            self._events.warning(bfb, "ImageVanished", f"{target.name} is gone from the volume; downloaded again")
            return await self._begin(bfb)
        if size != bfb.status.file_size:
            note = f"{target.name} has {size} bytes instead of {bfb.status.file_size}; downloaded again"
            self._events.warning(bfb, "ImageChanged", note)
            await in_thread(target.unlink, missing_ok=True)
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
        size: int | None = None,
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
            file_size=old.file_size if size is None else size,
            downloaded_bytes=old.downloaded_bytes if have is None else have,
            checksum=old.checksum if phase is Phase.DELETING else checksum,
            observed_generation=generation,
            conditions=kept,
        )
        return await self._client.status(bfb).set(status)


def _known(target: Path, bfb: BFB) -> Image | None:
    """A file that somebody put in the image's place, if it is what the BFB asks for."""
    if not target.is_file():
        return None
    image = digest(target)
    if bfb.spec.checksum and image.checksum != bfb.spec.checksum:
        log.warning("image_is_another", bfb=str(bfb.key), file=target.name)
        target.unlink(missing_ok=True)
        return None
    return image


def bfb_controller(
    cluster: Cluster, events: EventRecorder, counts: Counts, jobs: Jobs[Image], folder: Path, workers: int
) -> Controller[BFB]:
    """The controller of BFBs; ``jobs`` are its downloads."""

    def used(dpu: DPU) -> Iterable[Key]:
        return [Key(dpu.namespace, dpu.spec.bfb)] if dpu.spec.bfb else []

    controller = Controller(
        "bfb",
        BFBReconciler(cluster, events, counts, jobs, folder),
        watches=[
            For(BFB),
            Watch(DPU, to=used, when=all_of(generation_changed, differs(lambda dpu: dpu.spec.bfb))),
        ],
        workers=workers,
    )
    jobs.bind(controller)
    return controller
