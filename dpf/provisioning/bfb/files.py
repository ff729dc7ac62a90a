"""The files that lie in the images' places: put there by us, or by somebody who had the image already.

A file is the image if it has the checksum that the BFB names, or the one that it had when the BFB became Ready. Where nothing is
named the server is asked: for a checksum beside the image, then for the image's size. What is not what was asked for by checksum
is replaced; what only looks wrong is left alone, and its BFB says so. A server that tells nothing leaves the file as good as it is.

What the file looked like when it was found right (its stamp) stands in the BFB's status beside its checksum. A manager that begins
compares the two: it reads no image whose stamp is the same, however many there are, and takes none for right by its size. It
stands in the status, and not in a file beside the image, because whoever swaps or restores the volume would bring that file along,
and because it is written with the same write as the checksum and goes with the BFB. A BFB that has no stamp yet, for an earlier
version made it Ready, has its image read once. So is one whose stamp differs; it is not Ready meanwhile, for what may be another
image must not be flashed.
"""

from __future__ import annotations

from pathlib import Path

from dpf.provisioning.bfb import web
from dpf.provisioning.bfb.source import DownloadFailed, Image, shown
from dpf.provisioning.bfb.storage import Stamp, digest, part_of, remove, stamp
from dpf.provisioning.volume import Volume
from dpf.runtime.events import EventRecorder
from dpf_api import names
from dpf_api.bfb import BFB, file_of


class Files:
    """The images' files, and what this process saw of them."""

    def __init__(self, volume: Volume, events: EventRecorder) -> None:
        self._volume = volume
        self._events = events
        self._seen: dict[str, Stamp] = {}
        """By uid: of the file that was found right. It knows the inode too, which the status does not."""

    def target(self, bfb: BFB) -> Path:
        """The image's place."""
        return self._volume.folder / file_of(bfb)

    def forget(self, uid: str) -> None:
        """The image of that BFB is downloaded anew, or gone."""
        self._seen.pop(uid, None)

    async def keep(self, bfb: BFB) -> None:
        """Notes what the file looks like that was downloaded just now.

        :raises VolumeSilent: if the volume does not answer.
        """
        if (found := await self.look(bfb)) is not None:
            self._seen[bfb.uid] = found

    def record(self, bfb: BFB) -> str:
        """What the status says of the file that was found right; empty if none was."""
        seen = self._seen.get(bfb.uid)
        return "" if seen is None else seen.record

    async def look(self, bfb: BFB) -> Stamp | None:
        """What the BFB's file looks like; None if it is gone.

        :raises VolumeSilent: if the volume does not answer.
        """
        return await self._volume.ask(stamp, self.target(bfb))

    def same(self, bfb: BFB, found: Stamp) -> bool:
        """Whether it is as it was when it was found right, by this process or as the status tells of an earlier one."""
        if bfb.uid not in self._seen and found.record == bfb.status.file_stamp:
            self._seen[bfb.uid] = found
        return found.size == bfb.status.file_size and self._seen.get(bfb.uid) == found

    async def take(self, bfb: BFB, named: str) -> Image | None:
        """The image that is there; None if it must be downloaded.

        :param named: the checksum that the BFB names, or empty.
        :raises DownloadFailed: FileDiffers.
        :raises VolumeSilent: if the volume does not answer.
        """
        target, known = self.target(bfb), bfb.status.checksum
        found = await self._volume.ask(stamp, target)
        if found is None:
            return None
        if known and named in {"", known} and self.same(bfb, found):
            return Image(found.size, known)
        image = await digest(self._volume, target)
        wanted = named or known
        if not wanted:
            await self._compare(bfb, image)
        elif image.checksum != wanted:
            note = f"{target.name} has {image.size} bytes and {image.checksum}, not {wanted}; downloaded again"
            self._events.warning(bfb, "ImageChanged", note)
            await self._volume.write(part_of(self._volume.folder, bfb.uid), remove, target)
            return None
        self._seen[bfb.uid] = found
        return image

    async def _compare(self, bfb: BFB, image: Image) -> None:
        url, name = bfb.spec.url, file_of(bfb)
        try:
            checksum = await web.sidecar(url)
        except DownloadFailed:
            checksum = ""
        size = None if checksum else await web.length(url)
        if checksum == image.checksum or size == image.size:
            return
        if not checksum and size is None:
            note = f"{name} was there already and is taken as it is: {shown(url)} tells neither checksum nor size"
            self._events.warning(bfb, "ImageNotCompared", note)
            return
        server = checksum or f"{size} bytes"
        raise DownloadFailed(
            "FileDiffers",
            f"{name} was there already with {image.size} bytes and {image.checksum}, but {shown(url)} has {server}; remove the "
            f"file to have the image downloaded, or annotate the BFB with {names.ANNOTATION_CHECKSUM}={image.checksum} to "
            "have the file taken",
        )
