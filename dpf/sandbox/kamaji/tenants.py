"""All control planes: one task for each TenantControlPlane that there is."""

from __future__ import annotations

import asyncio

from dpf.sandbox.kamaji import objects
from dpf.sandbox.kamaji.tenant import Surroundings, Tenant
from dpf.sandbox.processes import Supervised


class Tenants:
    """Watches TenantControlPlanes and keeps a control plane for each.

    :param namespace: where to look; everywhere if empty.
    """

    def __init__(self, around: Surroundings, *, namespace: str = "") -> None:
        self._around = around
        self._tenants: dict[str, Tenant] = {}
        scope = f"/namespaces/{namespace}" if namespace else ""
        self._path = f"{objects.PATH}{scope}/tenantcontrolplanes"

    @property
    def processes(self) -> list[Supervised]:
        """Those of all control planes."""
        return [process for tenant in self._tenants.values() for process in tenant.processes]

    async def run(self) -> None:
        """Works until cancelled; all control planes have ended then."""
        async with asyncio.TaskGroup() as group:
            async for event, obj in self._around.api.follow(self._path):
                uid = obj["metadata"]["uid"]
                tenant = self._tenants.get(uid)
                if event == "DELETED":
                    # Let go by its own task, which has ended then; or by force.
                    if tenant is not None:
                        tenant.lose()
                elif tenant is not None:
                    tenant.see(obj)
                else:
                    self._tenants[uid] = Tenant(self._around, obj)
                    group.create_task(self._live(uid))

    async def _live(self, uid: str) -> None:
        try:
            await self._tenants[uid].run()
        finally:
            del self._tenants[uid]
