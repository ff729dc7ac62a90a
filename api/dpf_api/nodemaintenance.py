"""NodeMaintenance of the maintenance operator, as far as DPF writes and reads it: it drains a host when asked."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from dpf.runtime.meta import Condition, Model, Object, Resource
from dpf_api.schema import AGE, CONDITIONS, IMMUTABLE, READY, Column, Schema


class PodEvictionFilter(Model):
    """Which pods are evicted."""

    by_resource_name_regex: str = ""
    """Pods that use a resource whose name matches."""


class DrainSpec(Model):
    """How the host is emptied."""

    force: Annotated[bool, Schema(default=False)] = False
    """Whether pods without a controller are deleted too."""

    delete_empty_dir: Annotated[bool, Schema(default=False)] = False
    """Whether pods with data in an emptyDir are deleted too."""

    timeout_seconds: Annotated[int, Schema(default=300, minimum=0)] = 300
    """Seconds until draining is given up; 0 means never."""

    pod_selector: str = ""
    """Only pods with these labels; all if left out."""

    pod_eviction_filters: list[PodEvictionFilter] = Field(default_factory=list)
    """Only pods that one of the filters names; all if left out."""


class NodeMaintenanceSpec(Model):
    """Which host, for whom, and how."""

    requestor_id: Annotated[str, Field(alias="requestorID"), Schema(required=True, rules=(IMMUTABLE,))] = ""
    """Who asked first. Can't be changed."""

    additional_requestors: Annotated[list[str], Schema(extra={"x-kubernetes-list-type": "set"})] = Field(
        default_factory=list
    )
    """Who else needs it; it lasts until the last one is gone."""

    node_name: Annotated[str, Schema(required=True, rules=(IMMUTABLE,))] = ""
    """The Node to be maintained. Can't be changed."""

    cordon: Annotated[bool, Schema(default=True)] = True
    """Whether no new pods may come to the Node."""

    wait_for_pod_completion: dict[str, Any] | None = None
    """Pods that are waited for before draining begins."""

    drain_spec: DrainSpec | None = None
    """How the Node is emptied; it is not if this is left out."""


class NodeMaintenanceStatus(Model):
    """How far the maintenance is."""

    conditions: Annotated[list[Condition], CONDITIONS] = Field(default_factory=list)
    """Ready is True when the Node is empty and may be worked on."""

    drain: dict[str, Any] | None = None
    """How far draining is."""


class NodeMaintenance(Object):
    """A wish to have a Node drained, until all who asked for it are done."""

    RESOURCE: ClassVar[Resource] = Resource("maintenance.nvidia.com", "v1alpha1", "nodemaintenances", "NodeMaintenance")
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        Column("Node", ".spec.nodeName"),
        Column("Requestor", ".spec.requestorID"),
        READY,
        AGE,
    )

    spec: NodeMaintenanceSpec = Field(default_factory=NodeMaintenanceSpec)
    """Which host, for whom, and how."""

    status: NodeMaintenanceStatus = Field(default_factory=NodeMaintenanceStatus)
    """How far the maintenance is."""
