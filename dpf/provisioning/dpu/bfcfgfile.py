"""The bf.cfg of a DPU on the shared volume, where a DMS may have left it: it holds a join token."""

from __future__ import annotations

from pathlib import Path

from dpf.host import files
from dpf.provisioning.volume import Volume
from dpf_api import names


async def remove(volume: Volume, dpu: str) -> None:
    """Removes it, and what a DMS has written of it that was killed in between; that both are gone is fine.

    :raises OSError: if the volume does not let it be removed, or does not answer in time.
    """
    await volume.ask(_remove, volume.folder / names.bfcfg_file(dpu))


def _remove(path: Path) -> None:
    for left in (path, files.part_of(path)):
        files.remove(left)
