"""DPUSet: DPUs made from one template for the cards of a set of hosts, and how changes reach them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from dpf.runtime.meta import Condition, LabelSelector, Model, Object, Resource
from dpf_api.names import ANNOTATION_HOST_POWER_CYCLE_REQUIRED, BOOLEANS, GROUP, VERSION
from dpf_api.nodeeffect import NODE_EFFECT, NodeEffect, default_node_effect
from dpf_api.schema import AGE, CONDITIONS, REASON, Column, IntOrString, Rule, Schema


class StrategyType(StrEnum):
    """How a changed template reaches DPUs that exist."""

    RECREATE = "Recreate"
    ROLLING_UPDATE = "RollingUpdate"


class ConditionType(StrEnum):
    """Types of a DPUSet's conditions."""

    READY = "Ready"
    PROGRESSING = "Progressing"


class RollingUpdate(Model):
    """The pace of a rolling update."""

    max_unavailable: IntOrString | None = None
    """How many DPUs may be unavailable at a time: a number above 0, or a share of all from 1% to 100%."""


MAX_UNAVAILABLE = Rule(
    "!has(self.type) || self.type != 'RollingUpdate' || !has(self.rollingUpdate)"
    " || !has(self.rollingUpdate.maxUnavailable) || (type(self.rollingUpdate.maxUnavailable) == int"
    " ? int(self.rollingUpdate.maxUnavailable) > 0"
    " : string(self.rollingUpdate.maxUnavailable).matches('^0*(100|[1-9][0-9]?)%$'))",
    "rollingUpdate.maxUnavailable must be a number above 0 or a percentage from 1% to 100%",
    ".rollingUpdate.maxUnavailable",
)


class Strategy(Model):
    """How a changed template reaches DPUs that exist."""

    type: Annotated[StrategyType, Schema(default=StrategyType.RECREATE)] = StrategyType.RECREATE
    """Recreate: a DPU gets the new template when it is deleted and made anew. RollingUpdate: a few at a time."""

    rolling_update: RollingUpdate | None = None
    """The pace of a RollingUpdate."""


class BFBReference(Model):
    """The image of the DPUs."""

    name: str = ""
    """Name of the BFB, in the DPUSet's namespace."""


class ClusterTemplate(Model):
    """The DPUs' place in their DPU cluster."""

    node_labels: dict[str, str] = Field(default_factory=dict)
    """Labels for the Nodes of the cards in the DPU cluster."""


class DPUTemplateSpec(Model):
    """The spec that the DPUs get."""

    bfb: BFBReference = Field(default_factory=BFBReference)
    """The image."""

    dpu_flavor: str = ""
    """Name of the DPUFlavor, in the DPUSet's namespace."""

    node_effect: Annotated[NodeEffect, NODE_EFFECT] = Field(default_factory=default_node_effect)
    """What happens to a host while its card is provisioned."""

    cluster: ClusterTemplate | None = None
    """The DPUs' place in their DPU cluster."""

    automatic_node_reboot: Annotated[bool, Schema(default=True)] = True
    """Whether hosts may be rebooted or power-cycled without asking when their card needs it."""


class DPUTemplate(Model):
    """What the DPUs are made from."""

    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations of the DPUs."""

    spec: DPUTemplateSpec | None = None
    """Spec of the DPUs."""


class DPUSetSpec(Model):
    """Which cards, and what they are to become."""

    strategy: Annotated[Strategy | None, Schema(rules=(MAX_UNAVAILABLE,))] = None
    """How a changed template reaches DPUs that exist."""

    node_selector: LabelSelector | None = None
    """Which Nodes of the host cluster; all if left out."""

    dpu_selector: dict[str, str] = Field(default_factory=dict)
    """Which cards of a Node, by the Node's labels on them; the first one if left out."""

    dpu_template: DPUTemplate = Field(default_factory=DPUTemplate)
    """What the DPUs are made from."""


class DPUSetStatus(Model):
    """How far the DPUs of the set are."""

    dpu_statistics: dict[str, int] = Field(default_factory=dict)
    """How many DPUs are in each phase."""

    replicas: Annotated[int, Schema(minimum=0)] = 0
    """How many DPUs there are to be: one for each card that is selected, and those whose node just tells no more of their card."""

    ready_replicas: Annotated[int, Schema(minimum=0)] = 0
    """How many of them are Ready."""

    updated_replicas: Annotated[int, Schema(minimum=0)] = 0
    """How many DPUs have the image and flavor that the template says."""

    reason: str = ""
    """One word on why not all are Ready; empty when they are."""

    observed_generation: Annotated[int, Schema(minimum=0, extra={"format": "int64"})] = 0
    """The generation of the spec that this status speaks of."""

    conditions: Annotated[list[Condition], CONDITIONS] = Field(default_factory=list)
    """What is true of the set: Ready, and Progressing, which tells how a changed template gets on."""


_ANNOTATION = f"self.spec.dpuTemplate.annotations['{ANNOTATION_HOST_POWER_CYCLE_REQUIRED}']"

POWER_CYCLE_IS_BOOLEAN = Rule(
    "oldSelf.hasValue() || !has(self.spec) || !has(self.spec.dpuTemplate) || !has(self.spec.dpuTemplate.annotations)"
    f" || !('{ANNOTATION_HOST_POWER_CYCLE_REQUIRED}' in self.spec.dpuTemplate.annotations)"
    f" || {_ANNOTATION} in {BOOLEANS}",
    f"spec.dpuTemplate.annotations: {ANNOTATION_HOST_POWER_CYCLE_REQUIRED} must be a boolean such as true or false",
    optional_old_self=True,
)


LONGEST_NAME = 63
"""Characters of a label's value."""

NAME_FITS = Rule(
    f"oldSelf.hasValue() || self.metadata.name.size() <= {LONGEST_NAME}",
    f"metadata.name may have {LONGEST_NAME} characters: it becomes a label of the set's DPUs",
    optional_old_self=True,
)
"""Asked of new DPUSets only: one stored before makes no DPUs, and can be changed and deleted."""


class DPUSet(Object):
    """DPUs for the cards of a set of hosts, all made from one template."""

    RESOURCE: ClassVar[Resource] = Resource(GROUP, VERSION, "dpusets", "DPUSet")
    RULES: ClassVar[tuple[Rule, ...]] = (POWER_CYCLE_IS_BOOLEAN, NAME_FITS)
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        Column("Desired", ".status.replicas", "integer"),
        Column("Ready", ".status.readyReplicas", "integer"),
        Column("Updated", ".status.updatedReplicas", "integer", description="with the template's image and flavor"),
        Column("BFB", ".spec.dpuTemplate.spec.bfb.name"),
        REASON,
        Column("Flavor", ".spec.dpuTemplate.spec.dpuFlavor", wide=True),
        Column("Strategy", ".spec.strategy.type", wide=True),
        AGE,
    )

    spec: DPUSetSpec = Field(default_factory=DPUSetSpec)
    """Which cards, and what they are to become."""

    status: DPUSetStatus = Field(default_factory=DPUSetStatus)
    """How far the DPUs of the set are."""
