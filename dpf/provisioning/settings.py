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
    :param dms_metrics_port: of the metrics of the first card's DMS on a host, the card's index is added; 0 is none.
    :param drain_timeout: seconds after which a drain is called overdue; it is waited for all the same.
    :param image_timeout: the same for an image that is being downloaded.
    :param join_timeout: the same for a card that is to join its cluster.
    :param deletion_timeout: seconds for which a DPU that is being deleted waits for its DPU cluster and the
        shared volume; 0 is for ever.
    :param all_dpuclusters: whether DPUClusters of all namespaces count, or those of the one that the process looks at.
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
    dms_metrics_port: int = 0
    drain_timeout: float = 1800.0
    image_timeout: float = 1800.0
    join_timeout: float = 1800.0
    deletion_timeout: float = 600.0
    all_dpuclusters: bool = False
    certificates: CertificateSource = "self"
    installs: int = 64
