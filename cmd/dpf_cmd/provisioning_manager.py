"""provisioning-manager: controllers of BFB, DPUSet, DPU and DPUCluster, and their admission webhooks."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from dpf.provisioning.admission import register
from dpf.provisioning.assembly import add_controllers
from dpf.provisioning.configure import configure
from dpf.provisioning.dpu.dms import dial
from dpf.provisioning.settings import CertificateSource, Settings
from dpf.runtime.errors import ConfigError
from dpf.runtime.manager import Manager, run_process
from dpf.runtime.options import ManagerOptions, Seconds, parse
from dpf_api.names import DMS_PORT

NAME = "provisioning-manager"
DMS_POD_TIMEOUT = Seconds(300)
OVERDUE = Seconds(1800)
DELETION_TIMEOUT = Seconds(600)
CARDS = 32
"""More than a host has."""
LAST_PORT = 65535 - CARDS


@dataclass(frozen=True)
class Options:
    """Its flags."""

    manager: ManagerOptions = field(default_factory=ManagerOptions)
    dms_image: Annotated[str, "image of the DMS pods; needed to provision"] = ""
    hostnetwork_image: Annotated[str, "image of the hostnetwork pods; needed to provision"] = ""
    image_pull_secrets: Annotated[tuple[str, ...], "Secrets that both kinds of pod pull their images with"] = ()
    bfb_pvc: Annotated[str, "claim of the volume that holds images, as DMS pods mount it; needed to provision"] = ""
    bfb_dir: Annotated[Path, "where this process sees that volume"] = Path("/bfb")
    dms_timeout: Annotated[
        int,
        "seconds that one try of a card to install and boot may take; after 30 minutes all tries have ended, also with 0, "
        "which is no limit of its own",
    ] = 900
    dms_pod_timeout: Annotated[Seconds, "how long a DMS pod may take to be ready"] = DMS_POD_TIMEOUT
    dms_metrics_port: Annotated[
        int,
        "port on its host of /metrics of the first card's DMS, by plain HTTP, the card's index is added; of pods made from now on; "
        "0 is none",
    ] = 0
    drain_timeout: Annotated[Seconds, "after which a drain that is waited for is called overdue"] = OVERDUE
    image_timeout: Annotated[Seconds, "after which an image that is waited for is called overdue"] = OVERDUE
    join_timeout: Annotated[Seconds, "after which a card that does not join its cluster is called overdue"] = OVERDUE
    deletion_timeout: Annotated[
        Seconds,
        "how long a deleted DPU waits for its DPU cluster to let its Node be removed, and for the shared volume to let its bf.cfg "
        "be removed; 0 is for ever",
    ] = DELETION_TIMEOUT
    all_dpuclusters: Annotated[
        bool, "DPUClusters of all namespaces, each with the kubeconfig Secret beside it, not only those of --namespace"
    ] = False
    webhook_bind_address: Annotated[
        str, "HOST:PORT to serve and register admission webhooks on; 0 leaves them out, as from a shell"
    ] = ":9443"
    installs: Annotated[int, "cards that are flashed at once"] = 64
    certificates: Annotated[
        CertificateSource, "who signs the certificates of DMS: this process's own CA, or cert-manager"
    ] = "self"

    def __post_init__(self) -> None:
        """
        :raises ConfigError: if DMS could not listen where its metrics are to be.
        """
        port = self.dms_metrics_port
        if port and not 0 < port <= LAST_PORT:
            raise ConfigError(f"argument --dms-metrics-port: must be 1 to {LAST_PORT}, or 0, not {port}")
        if abs(port - DMS_PORT) < CARDS:
            raise ConfigError(f"argument --dms-metrics-port: from {DMS_PORT} on each card has a port for gNMI already")

    def settings(self) -> Settings:
        """What the controllers see of it."""
        return Settings(
            bfb_dir=self.bfb_dir,
            bfb_pvc=self.bfb_pvc,
            dms_image=self.dms_image,
            hostnetwork_image=self.hostnetwork_image,
            image_pull_secrets=self.image_pull_secrets,
            dms_timeout=self.dms_timeout,
            dms_pod_timeout=self.dms_pod_timeout,
            dms_metrics_port=self.dms_metrics_port,
            drain_timeout=self.drain_timeout,
            image_timeout=self.image_timeout,
            join_timeout=self.join_timeout,
            deletion_timeout=self.deletion_timeout,
            all_dpuclusters=self.all_dpuclusters,
            certificates=self.certificates,
            installs=self.installs,
        )


def main() -> None:
    """Runs the process."""
    options = parse(Options, prog=NAME, description=str(__doc__))

    def setup(manager: Manager) -> None:
        add_controllers(manager, options.settings(), configure, dial)
        if options.webhook_bind_address != "0":
            register.server(manager, options.webhook_bind_address)

    sys.exit(run_process(NAME, options.manager, setup))


if __name__ == "__main__":
    main()
