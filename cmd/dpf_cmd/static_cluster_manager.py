"""static-cluster-manager: makes DPUClusters of type static usable: clusters that exist and whose kubeconfig is given."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from dpf.clustermanager.static import static_cluster_controller
from dpf.runtime.manager import Manager, run_process
from dpf.runtime.options import ManagerOptions, parse

NAME = "static-cluster-manager"


@dataclass(frozen=True)
class Options:
    """Its flags."""

    manager: ManagerOptions = field(default_factory=ManagerOptions)


def main() -> None:
    """Runs the process."""
    options = parse(Options, prog=NAME, description=str(__doc__))

    def setup(manager: Manager) -> None:
        manager.add(static_cluster_controller(manager.cluster))

    sys.exit(run_process(NAME, options.manager, setup))


if __name__ == "__main__":
    main()
