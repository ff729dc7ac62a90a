"""The bf.cfg of a DPU on the shared volume, where a DMS may have left it: it holds a join token."""

from __future__ import annotations

from dpf.provisioning.volume import Volume
from dpf_api import names


async def remove(volume: Volume, dpu: str) -> None:
    """Removes it; that it is gone is fine.

    :raises OSError: if the volume does not let it be removed, or does not answer in time.
    """
    await volume.ask((volume.folder / names.bfcfg_file(dpu)).unlink, missing_ok=True)
