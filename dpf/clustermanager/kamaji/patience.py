"""How long a control plane is waited for: what is late is called overdue, with the next step, and waited for all the same.

How long it was is read off the condition Created, so a restart does not begin the time anew. What only a person could end (no
address, no DataStore) does not count: when that ended is remembered here, and whoever was restarted since has Kamaji's own word for
it, when it wrote the kubeconfig.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from dpf.clustermanager.common import CREATED
from dpf.clustermanager.kamaji.judge import NOT_READY, OVERDUE
from dpf.runtime.conditions import find, new
from dpf.runtime.meta import Condition, Key
from dpf.runtime.options import written
from dpf_api.dpucluster import DPUCluster
from dpf_api.kamaji import NAME_LABEL, TenantControlPlane


class Patience:
    """Judges what is not ready by how long it has not been."""

    def __init__(self, limit: float, clock: Callable[[], datetime]) -> None:
        """
        :param limit: seconds that a control plane may take.
        """
        self._limit = limit
        self._clock = clock
        self._begun: dict[Key, datetime] = {}

    def forget(self, cluster: Key) -> None:
        """The cluster is not waited for any more."""
        self._begun.pop(cluster, None)

    def judge(
        self, cluster: DPUCluster, control_plane: TenantControlPlane, finding: Condition
    ) -> tuple[Condition, float | None]:
        """The finding, or that it is overdue; and the seconds after which it will be, if it is not yet."""
        if finding.reason != NOT_READY:
            self.forget(cluster.key)
            return finding, None
        left = self._limit - self._waited(cluster, control_plane)
        if left > 0:
            return finding, left
        where = f"-n {cluster.namespace}"
        message = (
            f"{finding.message}. It takes longer than {written(self._limit)}: look at what its status says "
            f"(kubectl describe tenantcontrolplane {control_plane.name} {where}) and at how its pods are "
            f"(kubectl describe pods -l {NAME_LABEL}={control_plane.name} {where})"
        )
        return new(CREATED, False, OVERDUE, message, generation=finding.observed_generation), None

    def _waited(self, cluster: DPUCluster, control_plane: TenantControlPlane) -> float:
        now, said = self._clock(), find(cluster.status.conditions, CREATED)
        if said is None or said.status != "False" or said.last_transition_time is None:
            return 0.0
        if said.reason not in (NOT_READY, OVERDUE):
            self._begun[cluster.key] = now
        moments = (
            said.last_transition_time,
            control_plane.metadata.creation_timestamp,
            control_plane.status.kubeconfig.admin.last_update,
            self._begun.get(cluster.key),
        )
        return max(0.0, (now - max(moment for moment in moments if moment is not None)).total_seconds())
