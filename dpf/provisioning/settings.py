"""What the provisioning controllers were started with; made from flags, handed to whoever needs a part of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CertificateSource = Literal["self", "cert-manager"]


@dataclass(frozen=True)
class Settings:
    """Chosen once per process.

    :param bfb_dir: where this process sees the volume that it shares with every DMS pod.
    :param bfb_pvc: name of that volume's claim, as DMS pods mount it.
    :param dms_timeout: seconds that DMS may take for one command; 0 is no limit.
    :param dms_pod_timeout: seconds in which a DMS pod must be ready.
    :param certificates: who signs the certificates of DMS: this process's own small CA, or cert-manager.
    :param installs: installations that run at once.
    """

    bfb_dir: Path = Path("/bfb")
    bfb_pvc: str = ""
    dms_image: str = ""
    hostnetwork_image: str = ""
    image_pull_secrets: tuple[str, ...] = ()
    dms_timeout: int = 900
    dms_pod_timeout: float = 300.0
    certificates: CertificateSource = "self"
    installs: int = 64
