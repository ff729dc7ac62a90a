"""The bf.cfg of a DPU on the shared volume, where a DMS may have left it: it holds a join token."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

from dpf_api import names

SILENT = 30.0
"""Seconds after which a volume that does not answer counts as silent, as for the images on it."""


async def remove(folder: Path, dpu: str, *, seconds: float = SILENT) -> None:
    """Removes it; that it is gone is fine.

    :param folder: where the volume is mounted.
    :raises OSError: if the volume does not let it be removed, or does not answer in time: no worker waits longer for it.
    """
    path = folder / names.bfcfg_file(dpu)
    try:
        async with asyncio.timeout(seconds):
            await asyncio.to_thread(path.unlink, missing_ok=True)
    except TimeoutError:
        why = "the shared volume does not answer; look at its storage and at the mount of --bfb-dir"
        raise OSError(errno.ETIMEDOUT, why, str(path)) from None
