"""The image folder: BFBs shared with the manager and other servers, and the bf.cfg that each card got last.

Nothing in it is named by a path. A file is under its name whole or not at all.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import secrets
import shutil
import threading
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from dpf.gnxi import dms
from dpf.host import files
from dpf.runtime import threads
from dpf.runtime.log import get_logger

log = get_logger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


SILENT = 10.0
"""Seconds that the folder may take to tell what is in it: it may be a server's at the other end of a wire (NFS)."""


class BadName(ValueError):
    """A version that is no plain file name ending in .bfb or .cfg."""


class Images:
    """Files by version.

    :param owner: names this server among those that share the folder.
    """

    def __init__(self, folder: Path, owner: str) -> None:
        self.name = str(folder)
        """What it is called in messages."""
        self._folder = folder
        self._owner = owner
        self._start = secrets.token_hex(4)
        # A bf.cfg is looked at and removed in one thread while another may put the next in its place.
        self._configs = threading.Lock()

    def path(self, version: str) -> Path:
        """Where a version lies, or would.

        :raises BadName: if it is not a name that a version may have.
        """
        if not _NAME.fullmatch(version) or not version.endswith((".bfb", dms.CONFIG_SUFFIX)):
            raise BadName(f"{version!r} is not the name of a .bfb or .cfg file")
        return self._folder / version

    async def tidy(self) -> None:
        """Removes what is left of transfers to a server that was killed: nobody goes on with them. At the start alone, and a silent
        folder is not waited for."""
        try:
            await threads.within(SILENT, f"parts in {self._folder}", self._tidy)
        except OSError as error:
            log.warning("part_not_removed", path=error.filename, error=error.strerror)

    def _tidy(self) -> None:
        # With the suffix, for another host's name may end with this one's.
        mine = f".*.bfb.{glob.escape(self._owner)}"
        for part in [*self._folder.glob(f"{mine}.part"), *self._folder.glob(f"{mine}.{'[0-9a-f]' * 8}.part")]:
            if self._start not in part.name:
                files.remove(part)

    def find(self, version: str) -> Path | None:
        """The file of a version, if it is there."""
        try:
            path = self.path(version)
        except BadName:
            return None
        return path if path.is_file() else None

    def complete(self, version: str, size: int) -> bool:
        """Whether an image is there and, where the sender told a size, has it."""
        path = self.find(version)
        return path is not None and (size == 0 or path.stat().st_size == size)

    def room(self) -> int:
        """Bytes that the folder can still take."""
        return shutil.disk_usage(self._folder).free

    def write_config(self, version: str, data: bytes) -> None:
        """Stores a bf.cfg; it holds a join token, so nobody else may read it."""
        with self._configs:
            files.put(self.path(version), data, mode=0o600)

    def forget(self, version: str, sha256: str) -> None:
        """Removes the bf.cfg with that digest; one that has come in its place stays."""
        path = self.path(version)
        for left in (path, files.part_of(path)):
            with self._configs, suppress(FileNotFoundError):
                if left == files.part_of(path) or hashlib.sha256(left.read_bytes()).hexdigest() == sha256:
                    left.unlink()

    def begin(self, version: str) -> tuple[BinaryIO, Path]:
        """A file to write an image to; :meth:`finish` puts it in its place."""
        # By owner: two servers may be given the same image at the same time. And by start: what one that was killed has left is
        # removed, however late, and never what was begun since.
        part = self.path(version).with_name(f".{version}.{self._owner}.{self._start}.part")
        return part.open("wb"), part

    def drop(self, file: BinaryIO, part: Path) -> None:
        """Ends what :meth:`begin` began; after :meth:`finish` there is nothing left of it. What can't be removed now is at the next
        start."""
        try:
            try:
                file.close()
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            log.warning("part_not_removed", path=str(part), error=error.strerror)

    def finish(self, version: str, file: BinaryIO, part: Path) -> None:
        """Puts a written image in its place, on disk before under its name."""
        file.flush()
        os.fsync(file.fileno())
        file.close()
        part.replace(self.path(version))
        files.sync_folder(self._folder)
