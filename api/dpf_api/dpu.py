"""DPU: one card, what it is to become and how far it is.

``status.install`` and ``status.reboot`` are the memory of the two steps that must not be done twice. They are written before
the step is begun, so that a manager that takes over knows what was asked of the card and asks it how far it got.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from dpf.runtime.meta import Condition, Model, Object, Resource, Timestamp
from dpf_api.names import GROUP, VERSION
from dpf_api.nodeeffect import NODE_EFFECT, NodeEffect, default_node_effect
from dpf_api.schema import (
    AGE,
    CONDITIONS,
    IMMUTABLE,
    PHASE,
    READY,
    REASON,
    REQUIRED,
    SET_ONCE,
    Column,
    Rule,
    Schema,
    kept,
)


class Phase(StrEnum):
    """Where a DPU is on its way, in the order of the way."""

    INITIALIZING = "Initializing"
    NODE_EFFECT = "Node Effect"
    PENDING = "Pending"
    DMS_DEPLOYMENT = "DMS Deployment"
    OS_INSTALLING = "OS Installing"
    REBOOTING = "Rebooting"
    HOST_NETWORK_CONFIGURATION = "Host Network Configuration"
    DPU_CLUSTER_CONFIG = "DPU Cluster Config"
    READY = "Ready"
    ERROR = "Error"
    DELETING = "Deleting"


class ConditionType(StrEnum):
    """Types of a DPU's conditions, in the order of the way."""

    INITIALIZED = "Initialized"
    NODE_EFFECT_READY = "NodeEffectReady"
    BFB_READY = "BFBReady"
    DMS_RUNNING = "DMSRunning"
    OS_INSTALLED = "OSInstalled"
    REBOOTED = "Rebooted"
    HOST_NETWORK_READY = "HostNetworkReady"
    READY = "Ready"
    DPU_NODE_HEALTHY = "DPUNodeHealthy"
    """Only there once the card's Node had something amiss that does not keep it from being Ready."""


class ClusterReference(Model):
    """The DPU cluster that a card joins."""

    name: Annotated[str, Schema(rules=(SET_ONCE,))] = ""
    """Name of the DPUCluster. Filled in by the allocator when left out; can't be changed then."""

    namespace: Annotated[str, Schema(rules=(SET_ONCE,))] = ""
    """Namespace of the DPUCluster."""

    node_labels: dict[str, str] = Field(default_factory=dict)
    """Labels for the card's Node in the DPU cluster."""


CLUSTER = Schema(rules=(kept("name", once="''"), kept("namespace", once="''")))
CLUSTER_KEPT = Rule(
    "!has(oldSelf.cluster) || !has(oldSelf.cluster.name) || oldSelf.cluster.name == '' || has(self.cluster)",
    "cluster is immutable and can't be removed once it has a name",
)


class DPUSpec(Model):
    """What the card is to become."""

    node_name: Annotated[str, Schema(required=True, rules=(IMMUTABLE,))] = ""
    """Node of the host cluster that the card is in. Can't be changed."""

    bfb: Annotated[str, REQUIRED] = ""
    """Name of the BFB to install, in the DPU's namespace."""

    pci_address: Annotated[str, Schema(rules=(IMMUTABLE,))] = ""
    """PCI address of the card on its host. Can't be changed."""

    node_effect: Annotated[NodeEffect, NODE_EFFECT] = Field(default_factory=default_node_effect)
    """What happens to the host while the card is provisioned."""

    cluster: Annotated[ClusterReference, CLUSTER] = Field(default_factory=ClusterReference)
    """The DPU cluster that the card joins; left out, one is chosen."""

    dpu_flavor: str = ""
    """Name of the DPUFlavor that the system is set up by, in the DPU's namespace."""

    automatic_node_reboot: Annotated[bool, Schema(default=True)] = True
    """Whether the host may be rebooted or power-cycled without asking when the card needs it."""


class Install(Model):
    """The latest installation: what was asked of the card. Version and configSHA256 together are its identity."""

    attempt: Annotated[int, Schema(minimum=0)] = 0
    """Which attempt it is, from 0; a new one is a new flash."""

    version: str = ""
    """File name of the BFB that is or was installed."""

    config_sha256: Annotated[str, Field(alias="configSHA256")] = ""
    """SHA-256 of the bf.cfg that is or was installed with it."""

    started_at: Timestamp | None = None
    """When it was begun. The card is asked in its turn: activatedAt."""

    activated_at: Timestamp | None = None
    """When the card was asked to activate it, in its turn. Its time, half an hour, runs from here."""

    finished_at: Timestamp | None = None
    """When the card reported that it is done."""

    boot_id: Annotated[str, Field(alias="bootID")] = ""
    """Boot id of the host when the system was installed. Another one means that the host was rebooted since."""

    join_token_expires_at: Timestamp | None = None
    """Until when the card may join with the token it was given, if that was renewed; left out, a day from startedAt."""

    join_token_deleted: bool = False
    """Whether the join token is gone from the DPU cluster: the card has joined."""

    resets_itself: bool | None = None
    """Whether its bf.cfg has the card reboot itself, as the host was not to be rebooted when the attempt began."""

    percent: Annotated[int, Schema(minimum=0, maximum=100)] = 0
    """How far the installation is, as the card reports."""

    cluster_uid: Annotated[str, Field(alias="clusterUID")] = ""
    """Uid of the DPUCluster that the card was told to join. One made anew under the same name is another cluster."""


class Reboot(Model):
    """The latest reboot that was asked of the host."""

    id: str = ""
    """Identifies the request; asking again with the same id does nothing."""

    method: str = ""
    """How: WARM (card and host are reset) or COLD (the host's power is cycled)."""

    issued_at: Timestamp | None = None
    """When it was asked for."""


class Retry(Model):
    """How often a DPU that had failed was tried again."""

    count: Annotated[int, Schema(minimum=0)] = 0
    """How often so far."""

    last_at: Timestamp | None = None
    """When it was last tried again."""

    pending: bool = False
    """Whether a retry was decided on and has not begun yet."""


class Firmware(Model):
    """Versions of the card's firmware."""

    bmc: str = ""
    """Version of the board management controller."""

    nic: str = ""
    """Version of the network controller."""

    uefi: str = ""
    """Version of UEFI."""


class DMSCertificate(Model):
    """The certificate that the DPU's DMS shows. What is left out is the business of whoever signs it."""

    address: str = ""
    """Address of the host that it holds for."""

    expires_at: Timestamp | None = None
    """When it ends."""

    renew_at: Timestamp | None = None
    """When the next one is made."""

    retry_at: Timestamp | None = None
    """When a renewal that failed is tried again."""

    authorities: list[str] = Field(default_factory=list)
    """Fingerprints of the authorities that the DMS was told to trust; the first one signed the certificate."""


NAME_FITS = Rule(
    "oldSelf.hasValue() || self.metadata.name.size() <= 63",
    "metadata.name may have 63 characters: it becomes the card's host name, a label and the name of its node",
    optional_old_self=True,
)
"""Asked of new DPUs only: one stored before goes on."""


class DPUStatus(Model):
    """How far the card is."""

    phase: Annotated[Phase, Schema(required=True, default=Phase.INITIALIZING)] = Phase.INITIALIZING
    """Where the card is on its way."""

    reason: str = ""
    """One word on what the card waits for or what failed; empty when it is Ready."""

    message: str = ""
    """The reason in a sentence."""

    conditions: Annotated[list[Condition], CONDITIONS] = Field(default_factory=list)
    """Which steps are done, and why one is not."""

    observed_generation: Annotated[int, Schema(minimum=0, extra={"format": "int64"})] = 0
    """The generation of the spec that this status speaks of."""

    bfb_version: str = ""
    """Version of the image that runs on the card."""

    pci_device: str = ""
    """PCI address of the card on its host, as the DPU was bound to it."""

    required_reset: bool = False
    """Whether the card waits for a reset of its host, be it under way or a person's to do."""

    firmware: Firmware | None = None
    """Versions of the card's firmware, as far as the card tells."""

    node_uid: Annotated[str, Field(alias="nodeUID")] = ""
    """Uid of the card's Node in its DPU cluster, as it was when the card was last seen healthy there."""

    certificate: DMSCertificate | None = None
    """The certificate of the DPU's DMS."""

    install: Install | None = None
    """The latest installation."""

    reboot: Reboot | None = None
    """The latest reboot."""

    retry: Retry | None = None
    """How often the DPU was tried again after it had failed."""


class DPU(Object):
    """One card: the host it is in, the image and flavor it gets, the cluster it joins."""

    RESOURCE: ClassVar[Resource] = Resource(GROUP, VERSION, "dpus", "DPU")
    RULES: ClassVar[tuple[Rule, ...]] = (kept("spec"), NAME_FITS)
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY,
        PHASE,
        Column("Node", ".spec.nodeName"),
        Column("BFB", ".spec.bfb"),
        Column("Cluster", ".spec.cluster.name"),
        REASON,
        Column("Flavor", ".spec.dpuFlavor", wide=True),
        Column("PCI", ".spec.pciAddress", wide=True),
        Column("Installed", ".status.install.percent", "integer", wide=True, description="in percent"),
        Column("Message", ".status.message", wide=True),
        AGE,
    )

    spec: Annotated[DPUSpec, Schema(rules=(kept("pciAddress"), CLUSTER_KEPT))] = Field(default_factory=DPUSpec)
    """What the card is to become."""

    status: Annotated[DPUStatus, Schema(default={"phase": "Initializing"})] = Field(default_factory=DPUStatus)
    """How far the card is."""
