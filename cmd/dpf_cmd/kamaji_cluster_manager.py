"""kamaji-cluster-manager: makes DPUClusters of type kamaji: control planes that Kamaji runs as pods of the host cluster."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Annotated

from dpf.clustermanager.kamaji import Settings, kamaji_cluster_controller
from dpf.runtime.errors import ConfigError
from dpf.runtime.manager import Manager, run_process
from dpf.runtime.options import ManagerOptions, Seconds, parse

NAME = "kamaji-cluster-manager"
CONTROL_PLANE_TIMEOUT = Seconds(600)


@dataclass(frozen=True)
class Options:
    """Its flags."""

    manager: ManagerOptions = field(default_factory=ManagerOptions)
    data_store: Annotated[
        str, "DataStore of Kamaji that control planes keep their data in; config/rbac names it as well"
    ] = Settings.data_store
    replicas: Annotated[int, "pods of a control plane"] = Settings.replicas
    keepalived_image: Annotated[str, "image that holds the virtual IP"] = Settings.keepalived_image
    configuration_image: Annotated[str, "image with a shell, which writes keepalived's configuration"] = (
        Settings.configuration_image
    )
    image_pull_secrets: Annotated[tuple[str, ...], "Secrets that keepalived's pods pull their images with"] = ()

    control_plane_timeout: Annotated[Seconds, "after which a control plane that is not ready is called overdue"] = (
        CONTROL_PLANE_TIMEOUT
    )

    def __post_init__(self) -> None:
        """
        :raises ConfigError: if control planes would have no pods, or no time.
        """
        if self.replicas < 1:
            raise ConfigError(f"argument --replicas: must be at least 1, not {self.replicas}")
        if self.control_plane_timeout <= 0:
            raise ConfigError("argument --control-plane-timeout: must be more than 0")

    def settings(self) -> Settings:
        """What the controller sees of it."""
        return Settings(
            data_store=self.data_store,
            replicas=self.replicas,
            keepalived_image=self.keepalived_image,
            configuration_image=self.configuration_image,
            image_pull_secrets=self.image_pull_secrets,
            control_plane_timeout=self.control_plane_timeout,
        )


def main() -> None:
    """Runs the process."""
    options = parse(Options, prog=NAME, description=str(__doc__))

    def setup(manager: Manager) -> None:
        manager.add(kamaji_cluster_controller(manager.cluster, manager.events, options.settings()))

    sys.exit(run_process(NAME, options.manager, setup))


if __name__ == "__main__":
    main()
