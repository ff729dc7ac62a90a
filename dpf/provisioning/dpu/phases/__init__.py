"""The phases of a DPU, a module each; a module's ``decide`` is a pure function of what was observed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dpf.provisioning.dpu import jointoken
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.phases import (
    dms_deployment,
    dpu_cluster_config,
    error,
    host_network,
    initializing,
    node_effect,
    os_installing,
    pending,
    ready,
    rebooting,
)
from dpf.provisioning.dpu.steps import Step
from dpf_api.dpu import Phase

PHASES: Mapping[Phase, Callable[[Seen], Step]] = {
    Phase.INITIALIZING: initializing.decide,
    Phase.NODE_EFFECT: node_effect.decide,
    Phase.PENDING: pending.decide,
    Phase.DMS_DEPLOYMENT: dms_deployment.decide,
    Phase.OS_INSTALLING: os_installing.decide,
    Phase.REBOOTING: jointoken.kept(rebooting.decide),
    Phase.HOST_NETWORK_CONFIGURATION: jointoken.kept(host_network.decide),
    Phase.DPU_CLUSTER_CONFIG: jointoken.kept(dpu_cluster_config.decide),
    Phase.READY: ready.decide,
    Phase.ERROR: error.decide,
    Phase.DELETING: initializing.decide,
}
"""What decides in each phase. A DPU says Deleting only while its finalizer is at work; should its deletion have been undone
by hand, it starts anew."""
