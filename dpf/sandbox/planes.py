"""The control planes of a sandbox: where they are kept, and how patient they are with nodes."""

from __future__ import annotations

from dpf.runtime.errors import ConfigError
from dpf.sandbox.controlplane import binaries
from dpf.sandbox.controlplane.planes import ControlPlanes
from dpf.sandbox.fleet.kubelet import LeaseTimes
from dpf.sandbox.layout import Layout


def prepare(layout: Layout, dpus: int) -> ControlPlanes:
    """Certificates and settings of two control planes, and the user's kubeconfigs.

    :raises ConfigError: if their programs have not been built.
    """
    programs = binaries.find()
    if programs is None:
        raise ConfigError("the control planes' programs are not built yet: run `make setup`")
    # A node may miss a renewal before it counts as lost.
    grace = LeaseTimes.for_fleet(dpus).duration + 10
    planes = ControlPlanes(layout.control_planes, programs, logs=layout.logs, node_grace=grace)
    planes.prepare()
    layout.kubeconfigs.mkdir(parents=True, exist_ok=True, mode=0o700)
    for plane, link in ((planes.host, layout.host_kubeconfig), (planes.dpu, layout.dpu_kubeconfig)):
        link.unlink(missing_ok=True)
        link.symlink_to(plane.admin_kubeconfig)
    return planes
