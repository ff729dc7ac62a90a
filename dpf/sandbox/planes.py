"""The control planes of a sandbox: where they are kept, and how patient they are with nodes."""

from __future__ import annotations

from pathlib import Path

from dpf.runtime.errors import ConfigError
from dpf.sandbox.api import Api
from dpf.sandbox.controlplane import binaries
from dpf.sandbox.controlplane.planes import ControlPlanes
from dpf.sandbox.fleet.kubelet import LeaseTimes
from dpf.sandbox.kamaji.tenant import Surroundings
from dpf.sandbox.layout import NAMESPACE, Layout, spare_address
from dpf.sandbox.settings import Settings


def node_grace(dpus: int) -> int:
    """Seconds without a lease after which a node of a fleet of that size is lost: it may miss a renewal before."""
    return LeaseTimes.for_fleet(dpus).duration + 10


def surroundings(layout: Layout, api: Api, settings: Settings) -> Surroundings:
    """What the stand-in for Kamaji needs to run control planes beside the sandbox's own, which must have been prepared.

    :raises ConfigError: if their programs have not been built.
    """
    programs = _programs()
    return Surroundings(
        api=api,
        etcd=ControlPlanes(layout.control_planes, programs).etcd,
        binaries=programs,
        folder=layout.tenants,
        logs=layout.logs,
        address=spare_address(settings.block),
        node_grace=node_grace(settings.dpus),
    )


def prepare(layout: Layout, dpus: int) -> ControlPlanes:
    """Certificates and settings of two control planes, and the user's kubeconfigs.

    :raises ConfigError: if their programs have not been built.
    """
    programs = _programs()
    planes = ControlPlanes(layout.control_planes, programs, logs=layout.logs, node_grace=node_grace(dpus))
    planes.prepare()
    layout.kubeconfigs.mkdir(parents=True, exist_ok=True, mode=0o700)
    # All that a user looks for in the host cluster is in one namespace, so that is where kubectl looks.
    host = planes.host.user_kubeconfig("admin", ("system:masters",), file="user", namespace=NAMESPACE)
    for target, link in ((host, layout.host_kubeconfig), (planes.dpu.admin_kubeconfig, layout.dpu_kubeconfig)):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    return planes


def _programs() -> Path:
    programs = binaries.find()
    if programs is None:
        raise ConfigError("the control planes' programs are not built yet: run `make setup`")
    return programs
