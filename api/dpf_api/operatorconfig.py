"""DPFOperatorConfig: settings of the whole system, as far as provisioning reads them."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from dpf.runtime.meta import Model, Object, Resource
from dpf_api.schema import AGE, Column, Schema

_OPEN = {"x-kubernetes-preserve-unknown-fields": True}


class Networking(Model):
    """Sizes of packets."""

    control_plane_mtu: Annotated[int, Field(alias="controlPlaneMTU"), Schema(default=1500, minimum=0, maximum=9216)] = (
        1500
    )
    """MTU of the pod network in DPU clusters, in bytes."""

    high_speed_mtu: Annotated[int, Field(alias="highSpeedMTU"), Schema(default=1500, minimum=0, maximum=9216)] = 1500
    """MTU of the high-speed networks of the cards and of the host's virtual functions, in bytes."""


class DPFOperatorConfigSpec(Model):
    """Settings; those not listed here are kept as they are."""

    networking: Annotated[Networking, Schema(default={"controlPlaneMTU": 1500})] = Field(default_factory=Networking)
    """Sizes of packets."""


class DPFOperatorConfig(Object):
    """Settings of the whole system; there is one."""

    RESOURCE: ClassVar[Resource] = Resource(
        "operator.dpu.nvidia.com", "v1alpha1", "dpfoperatorconfigs", "DPFOperatorConfig"
    )
    COLUMNS: ClassVar[tuple[Column, ...]] = (AGE,)

    spec: Annotated[DPFOperatorConfigSpec, Schema(extra=_OPEN)] = Field(default_factory=DPFOperatorConfigSpec)
    """Settings; those not listed here are kept as they are."""
