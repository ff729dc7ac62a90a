"""The BFB controller: downloads an image, watches over its file, removes it.

    Initializing -> Downloading -> Ready          a file that vanishes or changes: Downloading again
                               -> Error           tried again, later each time, or when an annotation asks for it

The download is a job beside the workers; killed and started again it goes on where it was. While DPUs use an image it is not
removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from dpf.provisioning.bfb import web
from dpf.provisioning.bfb.checksum import named
from dpf.provisioning.bfb.download import Place, download
from dpf.provisioning.bfb.file import BY_FILE
from dpf.provisioning.bfb.files import Files
from dpf.provisioning.bfb.progress import PATIENCE, SLOWEST, Progress
from dpf.provisioning.bfb.source import DownloadFailed, Image, Source, shown
from dpf.provisioning.bfb.storage import VOLUME, part_of, remove, tag_of, volume_failed
from dpf.provisioning.bfb.tries import AllTries, Tries
from dpf.provisioning.indexes import BFB_NAME
from dpf.provisioning.metrics import Counts
from dpf.provisioning.volume import Volume, VolumeSilent
from dpf.runtime import conditions
from dpf.runtime.cluster import Cluster
from dpf.runtime.controller import Controller, Finalizing, For, Forgetting, Result, Watch
from dpf.runtime.errors import Waiting
from dpf.runtime.events import EventRecorder
from dpf.runtime.jobs import Job, Jobs
from dpf.runtime.log import get_logger
from dpf.runtime.meta import Key
from dpf.runtime.predicates import all_of, differs, generation_changed
from dpf_api import names
from dpf_api.bfb import BFB, BFBStatus, ConditionType, Phase, file_of
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
ENDING = 1.0
"""Seconds that a deletion waits at once for its download to end, as most do."""


class BFBReconciler(Finalizing[BFB], Forgetting):
    """Makes an image's file as its BFB says."""

    finalizer = names.FINALIZER_BFB

    def __init__(
        self, cluster: Cluster, events: EventRecorder, counts: Counts, jobs: Jobs[Image], volume: Volume
    ) -> None:
        self._client = cluster.client
        self._bfbs = cluster.cache[BFB]
        self._bfbs.add_index(BY_FILE)
        self._dpus = cluster.cache[DPU]
        self._dpus.add_index(BFB_NAME)
        self._events = events
        self._counts = counts
        self._jobs = jobs
        self._volume = volume
        self._files = Files(self._volume, events)
        self._tries = AllTries()

    async def reconcile(self, bfb: BFB) -> Result | None:
        if (known := self._tries.known(bfb.key)) is not None and known.uid != bfb.uid:
            await self.gone(bfb.key)
        tries = self._tries.of(bfb)
        job = self._jobs.take(bfb.key, bfb.uid)
        if job is not None:
            return await self._judge(bfb, job)
        if names.ANNOTATION_RETRY in bfb.annotations:
            bfb = await self._retry(bfb)
        if bfb.status.phase is Phase.READY:
            return await self._look(bfb)
        if bfb.status.phase is Phase.ERROR and (wait := tries.wait(self._mendable(bfb))) > 0:
            return Result(requeue_after=wait)
        return await self._begin(bfb, bfb.status.checksum)

    async def finalize(self, bfb: BFB) -> Result | None:
        self._jobs.cancel(bfb.key)
        users = self._dpus.keys_by(BFB_NAME, str(bfb.key))
        again = None
        if not users:
            # The file is gone for good then: a DPU that was created just now may not be in the cache yet.
            there = await self._client.list(DPU, bfb.namespace)
            users = [dpu.key for dpu in there if dpu.spec.bfb == bfb.name]
            # Of one that is gone before it gets there nobody would be told.
            again = LOOK
        if users:
            shown = ", ".join(key.name for key in users[:5]) + (" ..." if len(users) > 5 else "")
            message = f"waiting for {len(users)} DPUs that use it to go: {shown}"
            # What was only being compared with its checksum is not known to be the image.
            kept = bfb.status.checksum if bfb.status.phase in (Phase.READY, Phase.DELETING) else ""
            await self._say(bfb, Phase.DELETING, "InUse", message, checksum=kept)
            raise Waiting("InUse", message, retry_after=again)
        await self._download_ended(bfb)
        try:
            await self._volume.ask(remove, *self._leftovers(bfb))
        except VolumeSilent as error:
            await self._wait_deleting(bfb, *volume_failed(error))
        except OSError as error:
            self._events.warning(bfb, "FailedDelete", f"{error.filename}: {error.strerror}")
            raise
        self._events.normal(bfb, "Removed", f"{file_of(bfb)} is gone from the volume")
        self._files.forget(bfb.uid)
        self._tries.drop(bfb.key)
        return None

    async def gone(self, key: Key) -> None:
        """Ends the download of a BFB whose finalizer somebody took off, and removes what it has written so far. An image that is
        whole stays: whoever took the finalizer off may want it.

        :raises Waiting: while the download still holds the volume.
        """
        self._jobs.cancel(key)
        if (tries := self._tries.known(key)) is None:
            return
        part = part_of(self._volume.folder, tries.uid)
        if not await self._ended(tries):
            raise Waiting(
                "DownloadEnding", f"the download of BFB {key}, which is gone, is being ended", retry_after=LOOK
            )
        try:
            await self._volume.ask(remove, part, tag_of(part))
        except OSError as error:
            log.warning("bfb_part_left_behind", object=str(key), file=str(part), error=str(error))
        self._files.forget(tries.uid)
        self._tries.drop(key)

    async def _download_ended(self, bfb: BFB) -> None:
        """:raises Waiting: while the BFB's download still holds the volume."""
        if not await self._ended(self._tries.of(bfb)):
            message = "its download is being ended; if this stays so the volume does not take what is written: look at its storage"
            await self._wait_deleting(bfb, "DownloadEnding", message)

    async def _ended(self, tries: Tries) -> bool:
        return await tries.ended(ENDING) and not self._volume.busy(part_of(self._volume.folder, tries.uid))

    async def _wait_deleting(self, bfb: BFB, reason: str, message: str) -> NoReturn:
        await self._say(bfb, Phase.DELETING, reason, message, checksum=bfb.status.checksum)
        raise Waiting(reason, message, retry_after=LOOK)

    def _leftovers(self, bfb: BFB) -> list[Path]:
        part = self._part(bfb)
        return [part, tag_of(part)] if self._taken(bfb) else [part, tag_of(part), self._files.target(bfb)]

    def _taken(self, bfb: BFB) -> Key | None:
        """Another BFB whose file this one's would be; the older one has it. The webhook refuses a second one if it is there."""

        def age(each: BFB) -> tuple[datetime | None, str]:
            return each.metadata.creation_timestamp, each.uid

        others = [each for each in self._bfbs.by(BY_FILE, file_of(bfb)) if each.uid != bfb.uid]
        first = min([bfb, *others], key=age)
        return None if first.uid == bfb.uid else first.key

    def _part(self, bfb: BFB) -> Path:
        return part_of(self._volume.folder, bfb.uid)

    async def _begin(self, bfb: BFB, checksum: str = "") -> Result | None:
        """Takes a file that is there already, or starts the download.

        :param checksum: of the image that is expected to be there still.
        """
        bfb = await self._say_begun(bfb, checksum)
        tries = self._tries.of(bfb)
        tries.begin(self._mendable(bfb))
        if (other := self._taken(bfb)) is not None:
            return await self._fail(bfb, "FileNameTaken", f"{file_of(bfb)} is the file of BFB {other} already")

        async def work(job: Job[Image]) -> Image:
            job.progress = tries.run()
            try:
                return await self._fetch(bfb, job.progress)
            finally:
                tries.end()

        self._jobs.start(bfb.key, bfb.uid, work)
        return Result(requeue_after=PROGRESS_EVERY)

    async def _say_begun(self, bfb: BFB, checksum: str) -> BFB:
        message = (
            f"looking whether {file_of(bfb)} still is {checksum}" if checksum else f"downloading {shown(bfb.spec.url)}"
        )
        return await self._say(bfb, Phase.DOWNLOADING, "Downloading", message, checksum=checksum)

    async def _fetch(self, bfb: BFB, progress: Progress) -> Image:
        """The image's file: the one that is there, if it is right, or a download."""
        try:
            checksum = named(bfb)
        except ValueError as error:
            raise DownloadFailed("InvalidChecksum", f"annotation {names.ANNOTATION_CHECKSUM} {error}") from error
        await self._volume.quiet(self._part(bfb))
        if (image := await self._files.take(bfb, checksum)) is not None:
            return image
        self._files.forget(bfb.uid)
        clock, url = asyncio.get_running_loop().time, bfb.spec.url

        def told(have: int, total: int) -> None:
            if progress.begun:
                self._counts.downloaded_bytes += have - progress.have
            else:
                note = f"going on behind the {have} bytes that are there" if have else f"{total or '?'} bytes"
                self._events.normal(bfb, "ResumedDownload" if have else "StartedDownload", f"{shown(url)}: {note}")
            progress.have, progress.total = have, total
            if not progress.begun:
                progress.mark(clock())

        place = Place(self._volume, self._part(bfb), self._files.target(bfb), lambda: self._tries.promised(bfb.uid))
        image = await download(Source(url, checksum or await web.sidecar(url)), place, told)
        await self._files.keep(bfb)
        return image

    async def _judge(self, bfb: BFB, job: Job[Image]) -> Result | None:
        if not job.done:
            return await self._follow(bfb, job)
        try:
            image = job.result()
        except DownloadFailed as error:
            return await self._fail(bfb, error.reason, error.message)
        except OSError as error:
            return await self._fail(bfb, *volume_failed(error))
        self._tries.of(bfb).forget()
        self._counts.downloads["success"] += 1
        self._events.normal(bfb, "SuccessfulDownload", f"{file_of(bfb)}: {image.size} bytes")
        await self._say(
            bfb,
            Phase.READY,
            "",
            "",
            have=image.size,
            size=image.size,
            checksum=image.checksum,
            stamp=self._files.record(bfb),
        )
        return Result(requeue_after=LOOK)

    async def _follow(self, bfb: BFB, job: Job[Image]) -> Result | None:
        """Tells how far a download is; ends one that is too slow to have others wait for it."""
        at, progress, url = asyncio.get_running_loop().time(), job.progress, shown(bfb.spec.url)
        again = Result(requeue_after=PROGRESS_EVERY)
        if progress is None:
            message = f"waiting for one of {DOWNLOADS} downloads at a time to end"
            await self._say(bfb, Phase.DOWNLOADING, "Queued", message, checksum=bfb.status.checksum)
        elif not (progress.begun and progress.mark(at)) and self._volume.stuck(self._part(bfb)):
            message = (
                "the volume does not take what is written to it; look at its storage and at the mount of --bfb-dir"
            )
            await self._say(bfb, Phase.DOWNLOADING, "VolumeSilent", message, checksum=bfb.status.checksum)
        elif (others := self._jobs.queued) and progress.slow(at):
            self._jobs.cancel(bfb.key)
            slow = f"{url}: less than {SLOWEST} bytes/s for {PATIENCE:g} s while {others} other images wait"
            return await self._fail(bfb, "TooSlow", f"{slow}; goes on behind {progress.have} bytes, look at its server")
        elif progress.have or progress.total:
            await self._say_progress(bfb, progress, url)
        return again

    async def _say_progress(self, bfb: BFB, progress: Progress, url: str) -> None:
        left = "" if progress.left is None else f", {progress.left} s left"
        pace = f" at {progress.rate} bytes/s{left}" if progress.rate else ""
        message = f"{progress.have} of {progress.total or '?'} bytes of {url}{pace}"
        await self._say(
            bfb,
            Phase.DOWNLOADING,
            "Downloading",
            message,
            have=progress.have,
            size=progress.total or None,
            rate=progress.rate,
            left=progress.left,
        )

    async def _fail(self, bfb: BFB, reason: str, message: str) -> Result:
        pause = self._tries.of(bfb).failed(*RETRY)
        self._counts.downloads["failure"] += 1
        self._events.warning(bfb, "FailedDownload", f"{reason}: {message}; tried again in {pause:g} s")
        checksum = bfb.status.checksum if reason in VOLUME else ""
        await self._say(bfb, Phase.ERROR, reason, message, checksum=checksum)
        return Result(requeue_after=pause)

    async def _retry(self, bfb: BFB) -> BFB:
        """Takes the annotation that asks for a try at once. Until it is gone nothing is begun, so it is taken once; it goes when
        the BFB is in Error no more, so that at no time it looks as if nobody had asked. Of a BFB that did not fail it is taken
        too: kept, it would count for a failure one day."""
        if bfb.status.phase is Phase.ERROR:
            self._events.normal(bfb, "Retrying", f"asked for by annotation; failed before: {bfb.status.message}")
            self._tries.of(bfb).forget()
            bfb = await self._say_begun(bfb, bfb.status.checksum)
        return await self._client.merge_patch(bfb, {"metadata": {"annotations": {names.ANNOTATION_RETRY: None}}})

    def _mendable(self, bfb: BFB) -> object:
        """What failures tell a user to change, and is seen without a look at volume or server."""
        return bfb.annotations.get(names.ANNOTATION_CHECKSUM), self._taken(bfb)

    async def _look(self, bfb: BFB) -> Result | None:
        """A file that vanished is downloaded again; one that was written to is compared first."""
        try:
            found = await self._files.look(bfb)
        except OSError as error:
            return await self._fail(bfb, *volume_failed(error))
        if found is None:
            self._events.warning(bfb, "ImageVanished", f"{file_of(bfb)} is gone from the volume; downloaded again")
            return await self._begin(bfb)
        if not self._files.same(bfb, found):
            return await self._begin(bfb, bfb.status.checksum)
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
        rate: int = 0,
        left: int | None = None,
        checksum: str = "",
        stamp: str | None = None,
    ) -> BFB:
        """Writes the status, if it is another one.

        :param stamp: of the file; the one that is known stays as long as the checksum does.
        """
        ready, old = phase is Phase.READY, bfb.status
        if stamp is None:
            stamp = old.file_stamp if checksum else ""
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
            bytes_per_second=rate,
            seconds_left=left,
            checksum=checksum,
            file_stamp=stamp,
            observed_generation=generation,
            conditions=kept,
        )
        return await self._client.status(bfb).set(status)


def bfb_controller(
    cluster: Cluster, events: EventRecorder, counts: Counts, jobs: Jobs[Image], volume: Volume, workers: int
) -> Controller[BFB]:
    """The controller of BFBs; ``jobs`` are its downloads."""

    def of_file(bfb: BFB) -> Iterable[Key]:
        return cluster.cache[BFB].keys_by(BY_FILE, file_of(bfb))

    def used(dpu: DPU) -> Iterable[Key]:
        return [Key(dpu.namespace, dpu.spec.bfb)] if dpu.spec.bfb else []

    controller = Controller(
        "bfb",
        BFBReconciler(cluster, events, counts, jobs, volume),
        watches=[
            For(BFB),
            # One that goes leaves its file to the next.
            Watch(BFB, to=of_file, when=lambda change: change.type == "DELETED"),
            Watch(DPU, to=used, when=all_of(generation_changed, differs(lambda dpu: dpu.spec.bfb))),
        ],
        workers=workers,
    )
    jobs.bind(controller)
    return controller
