"""Stands in for NVIDIA's maintenance operator: says of every NodeMaintenance of a simulated host that it is ready.

There is no workload on these hosts that would have to be drained.
"""

from __future__ import annotations

from collections.abc import Container

from dpf.runtime.errors import ApiError
from dpf.runtime.log import get_logger
from dpf.sandbox.api import Api, Json
from dpf.sandbox.fleet.nodes import timestamp

log = get_logger(__name__)

GROUP = "/apis/maintenance.nvidia.com/v1alpha1"


async def answer_maintenance(api: Api, hosts: Container[str]) -> None:
    """Makes NodeMaintenance objects Ready until cancelled; those that are being deleted are left alone."""
    async for event, obj in api.follow(f"{GROUP}/nodemaintenances"):
        if event == "DELETED" or not needs_answer(obj, hosts):
            continue
        metadata = obj["metadata"]
        path = f"{GROUP}/namespaces/{metadata['namespace']}/nodemaintenances/{metadata['name']}/status"
        condition = {"type": "Ready", "status": "True", "reason": "Ready", "message": "Maintenance requested"}
        body = {"status": {"conditions": [{**condition, "lastTransitionTime": timestamp()}]}}
        try:
            await api.patch(path, body)
        except ApiError as error:
            log.warning("maintenance_not_answered", name=metadata["name"], error=str(error))


def needs_answer(obj: Json, hosts: Container[str]) -> bool:
    """Whether the object asks for a simulated host and was not answered yet."""
    if obj["metadata"].get("deletionTimestamp") or obj.get("spec", {}).get("nodeName") not in hosts:
        return False
    conditions = (obj.get("status") or {}).get("conditions") or []
    return not any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
