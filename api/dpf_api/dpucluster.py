"""DPUCluster: a Kubernetes cluster that cards join, and who manages its control plane."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from dpf.runtime.meta import Condition, Model, Object, Resource
from dpf_api.names import GROUP, VERSION
from dpf_api.schema import AGE, AS_BEFORE, CONDITIONS, PHASE, READY, REASON, Column, Rule, Schema, kept

TYPE_KAMAJI = "kamaji"
TYPE_STATIC = "static"
TYPE_PATTERN = "^(kamaji|static|[^/]+/.*)$"

KUBECONFIG_ONCE = Rule("oldSelf == '' || self == oldSelf", "kubeconfig is immutable")

SECRET_NAME = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"  # noqa: S105 - of which shape its name is
LONGEST_SECRET_NAME = 253
VERSION_LIKE = "^v?[0-9]+[.][0-9]+([.][0-9]+)?([-+.][-+.0-9A-Za-z]*)?$"

KUBECONFIG_IS_A_NAME = Rule(
    f"{AS_BEFORE} || self == '' || (self.size() <= {LONGEST_SECRET_NAME} && self.matches('{SECRET_NAME}'))",
    f"must be a name that a Secret can have: at most {LONGEST_SECRET_NAME} of a-z, 0-9, - and ., with a-z or 0-9 at both ends"
    " and on both sides of each dot",
    optional_old_self=True,
)
VERSION_IS_ONE = Rule(
    f"{AS_BEFORE} || self == '' || self.matches('{VERSION_LIKE}')",
    "must be a Kubernetes version such as v1.30.2, or empty",
    optional_old_self=True,
)
VERSION_IS_WHOLE = Rule(
    "oldSelf.hasValue() && oldSelf.value().version == self.version && oldSelf.value().type == self.type"
    f" || self.type != '{TYPE_KAMAJI}' || self.version == '' || self.version.matches('^v?[0-9]+[.][0-9]+[.][0-9]+')",
    f"spec.version of a cluster of type {TYPE_KAMAJI} needs three numbers, such as v1.30.2",
    field_path=".version",
    optional_old_self=True,
)


class Phase(StrEnum):
    """Where a cluster is between created and usable."""

    PENDING = "Pending"
    CREATING = "Creating"
    READY = "Ready"
    NOT_READY = "NotReady"
    FAILED = "Failed"


class ConditionType(StrEnum):
    """Types of a DPUCluster's conditions."""

    CREATED = "Created"
    READY = "Ready"
    KEEPALIVED_READY = "KeepalivedReady"


class Keepalived(Model):
    """A virtual IP, held by one of several nodes at a time."""

    vip: Annotated[str, Schema(required=True, pattern="^[0-9a-fA-F.:]+$")] = ""
    """The virtual IP: an address without a prefix length."""

    virtual_router_id: Annotated[int, Field(alias="virtualRouterID"), Schema(required=True, minimum=1, maximum=255)] = 0
    """VRRP router id; unique in the network that the virtual IP is in."""

    interface: Annotated[str, Schema(required=True, pattern=r"^[^\s/]{1,15}$", extra={"minLength": 1})] = ""
    """Network interface of the nodes that bears the virtual IP."""

    node_selector: dict[str, str] = Field(default_factory=dict)
    """Which control-plane nodes may hold it; all if left out."""


class ClusterEndpoint(Model):
    """How the cluster's API server is reached."""

    keepalived: Keepalived | None = None
    """By a virtual IP that keepalived holds."""


class DPUClusterSpec(Model):
    """What the cluster is to be."""

    type: Annotated[str, Schema(required=True, pattern=TYPE_PATTERN)] = ""
    """Who manages the control plane: kamaji (made for you), static (you bring it), or <vendor>/<name> for others."""

    max_nodes: Annotated[int, Schema(default=1000, minimum=1, maximum=1000)] = 1000
    """How many DPUs may be given to the cluster."""

    version: Annotated[str, Schema(required=True, rules=(VERSION_IS_ONE,))] = ""
    """Kubernetes version of the control plane, such as v1.30.2."""

    kubeconfig: Annotated[str, Schema(rules=(KUBECONFIG_ONCE, KUBECONFIG_IS_A_NAME))] = ""
    """Secret in the same namespace that holds the admin kubeconfig under the key admin.conf. Set once."""

    cluster_endpoint: ClusterEndpoint | None = None
    """How the cluster's API server is reached."""


class DPUClusterStatus(Model):
    """How the cluster is."""

    phase: Annotated[Phase, Schema(required=True, default=Phase.PENDING)] = Phase.PENDING
    """Where the cluster is between created and usable."""

    reason: str = ""
    """One word on why the cluster is not Ready; empty when it is."""

    message: str = ""
    """The reason in a sentence."""

    version: str = ""
    """Kubernetes version that the API server reports."""

    endpoint: str = ""
    """URL of the API server."""

    assigned_dpus: Annotated[int, Field(alias="assignedDPUs"), Schema(minimum=0)] = 0
    """How many DPUs were given to the cluster."""

    observed_generation: Annotated[int, Schema(minimum=0, extra={"format": "int64"})] = 0
    """The generation of the spec that this status speaks of."""

    conditions: Annotated[list[Condition], CONDITIONS] = Field(default_factory=list)
    """What is true of the cluster: Created, Ready, KeepalivedReady."""


class DPUCluster(Object):
    """A Kubernetes cluster that cards join."""

    RESOURCE: ClassVar[Resource] = Resource(GROUP, VERSION, "dpuclusters", "DPUCluster")
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY,
        PHASE,
        Column("Type", ".spec.type"),
        Column("MaxNodes", ".spec.maxNodes", "integer"),
        Column("Version", ".spec.version"),
        Column("DPUs", ".status.assignedDPUs", "integer", description="how many were given to it"),
        REASON,
        Column("Running", ".status.version", wide=True, description="version that its API server reports"),
        Column("Endpoint", ".status.endpoint", wide=True),
        AGE,
    )

    spec: Annotated[DPUClusterSpec, Schema(required=True, rules=(kept("kubeconfig", once="''"), VERSION_IS_WHOLE))] = (
        Field(default_factory=DPUClusterSpec)
    )
    """What the cluster is to be."""

    status: Annotated[DPUClusterStatus, Schema(default={"phase": "Pending"})] = Field(default_factory=DPUClusterStatus)
    """How the cluster is."""
