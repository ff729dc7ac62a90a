"""DPUFlavor: how a card's system is set up: kernel, sysctl, firmware, OVS, files. Rendered into bf.cfg.

The spec is frozen: a changed flavor would silently part the cards installed before from those after.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from dpf.runtime.meta import Model, Object, Resource
from dpf_api.names import GROUP, VERSION
from dpf_api.schema import AGE, Column, Quantity, Rule, Schema, kept


class Operation(StrEnum):
    """What is done with a file that is there already."""

    OVERRIDE = "override"
    APPEND = "append"


class Grub(Model):
    """The boot loader of the DPU."""

    kernel_parameters: list[str] = Field(default_factory=list)
    """Words for the kernel's command line, each with its value: hugepages=3072."""


class Sysctl(Model):
    """Kernel settings of the DPU."""

    parameters: list[str] = Field(default_factory=list)
    """Settings as key=value."""


class NVConfig(Model):
    """Settings of the card's firmware."""

    device: Annotated[str, Schema(pattern=r"^\s*\*\s*$")] = ""
    """Which devices it is for. Only * is possible: all of the card."""

    parameters: list[str] = Field(default_factory=list)
    """Settings as KEY=VALUE, set with mlxconfig. They take effect with the next reset of the card."""

    host_power_cycle_required: bool = False
    """Whether the settings take effect only with a power cycle of the host: hosts of cards with this flavor are power-cycled then,
    as if their DPUs bore the annotation host-power-cycle-required."""


class OVS(Model):
    """Open vSwitch on the DPU."""

    raw_config_script: str = ""
    """Body of a shell script that sets up OVS, run once on the DPU."""


class ConfigFile(Model):
    """A file to be written on the DPU."""

    path: str = ""
    """Absolute path of the file."""

    operation: Operation = Operation.OVERRIDE
    """Whether the content replaces what is there (override, the default) or is put behind it (append)."""

    raw: str = ""
    """Content of the file, as it stands."""

    permissions: str = ""
    """Mode of the file in octal digits, in quotes: "0644", which is the default."""


class ContainerdConfig(Model):
    """containerd on the DPU."""

    registry_endpoint: str = ""
    """URL of a mirror that images of nvcr.io are pulled from; on one line, without blanks."""


RESERVED_FITS = Rule(
    "!has(self.systemReservedResources) || self.systemReservedResources.all(name, has(self.dpuResources)"
    " && name in self.dpuResources && !quantity(string(self.systemReservedResources[name]))"
    ".isGreaterThan(quantity(string(self.dpuResources[name]))))",
    "systemReservedResources must be part of dpuResources: each resource named there, and no more of it than there",
    ".systemReservedResources",
)
_Amount = Annotated[Quantity, Schema(extra={"maxLength": 64})]
_RESOURCES = Schema(extra={"maxProperties": 128})
# The server bounds what a rule may cost at worst, so RESERVED_FITS needs to know how much it can be given.


class DPUFlavorSpec(Model):
    """How the system of a card is set up. Whatever is left out is left as the image has it."""

    grub: Grub = Field(default_factory=Grub)
    """The boot loader."""

    sysctl: Sysctl = Field(default_factory=Sysctl)
    """Kernel settings."""

    nvconfig: Annotated[list[NVConfig], Schema(extra={"maxItems": 1})] = Field(default_factory=list)
    """Settings of the firmware; at most one element."""

    ovs: OVS = Field(default_factory=OVS)
    """Open vSwitch."""

    bfcfg_parameters: list[str] = Field(default_factory=list)
    """Lines for the head of bf.cfg as NAME=value, together complete for a shell; ubuntu_PASSWORD=<hash> sets the password of the
    user ubuntu."""

    config_files: list[ConfigFile] = Field(default_factory=list)
    """Files to be written on the DPU."""

    containerd_config: ContainerdConfig = Field(default_factory=ContainerdConfig)
    """The container runtime."""

    dpu_resources: Annotated[dict[str, _Amount], _RESOURCES] = Field(default_factory=dict)
    """What a card that is given this flavor must have in all."""

    system_reserved_resources: Annotated[dict[str, _Amount], _RESOURCES] = Field(default_factory=dict)
    """What of dpuResources the system itself needs; the rest is for DPU services."""


class DPUFlavor(Object):
    """How the system of a DPU is set up."""

    RESOURCE: ClassVar[Resource] = Resource(GROUP, VERSION, "dpuflavors", "DPUFlavor")
    RULES: ClassVar[tuple[Rule, ...]] = (kept("spec"),)
    COLUMNS: ClassVar[tuple[Column, ...]] = (AGE,)

    spec: Annotated[
        DPUFlavorSpec, Schema(rules=(Rule("self == oldSelf", "DPUFlavor spec is immutable"), RESERVED_FITS))
    ] = Field(default_factory=DPUFlavorSpec)
    """How the system is set up. Can't be changed."""
