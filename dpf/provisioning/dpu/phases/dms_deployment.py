"""DMS Deployment: the pod through which the card is flashed runs on the host and answers."""

from __future__ import annotations

from dpf.provisioning.dpu import dmsserver
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Advance, Step
from dpf_api.dpu import Phase


def decide(seen: Seen) -> Step:
    return dmsserver.server(seen) or Advance(Phase.OS_INSTALLING)
