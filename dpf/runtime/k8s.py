"""The built-in kinds, as far as this project reads and writes them."""

from __future__ import annotations

import base64
from typing import Any, ClassVar

from pydantic import Field

from dpf.runtime.meta import Condition, MicroTime, Model, Object, Resource, Timestamp


class Namespace(Object):
    """v1 Namespace."""

    RESOURCE: ClassVar[Resource] = Resource("", "v1", "namespaces", "Namespace", namespaced=False)


class ServiceAccount(Object):
    """v1 ServiceAccount."""

    RESOURCE: ClassVar[Resource] = Resource("", "v1", "serviceaccounts", "ServiceAccount")


class ConfigMap(Object):
    """v1 ConfigMap."""

    RESOURCE: ClassVar[Resource] = Resource("", "v1", "configmaps", "ConfigMap")

    data: dict[str, str] = Field(default_factory=dict)


class Secret(Object):
    """v1 Secret. ``data`` is base64 as on the wire and stays out of ``repr``."""

    RESOURCE: ClassVar[Resource] = Resource("", "v1", "secrets", "Secret")

    type: str = ""
    data: dict[str, str] = Field(default_factory=dict, repr=False)

    def value(self, key: str) -> bytes | None:
        """The decoded value, or None if the key is missing.

        :raises ValueError: if it is not base64 (the server would not have taken it).
        """
        encoded = self.data.get(key)
        return base64.b64decode(encoded, validate=True) if encoded is not None else None

    def text(self, key: str) -> str:
        """The decoded value as text; empty if the key is missing."""
        return (self.value(key) or b"").decode()


class ServicePort(Model):
    """v1 ServicePort."""

    name: str = ""
    protocol: str = "TCP"
    port: int
    target_port: int | str | None = None
    node_port: int = 0


class ServiceSpec(Model):
    """What of a Service's spec is read."""

    type: str = ""
    selector: dict[str, str] = Field(default_factory=dict)
    ports: list[ServicePort] = Field(default_factory=list)


class Service(Object):
    """v1 Service."""

    RESOURCE: ClassVar[Resource] = Resource("", "v1", "services", "Service")

    spec: ServiceSpec = Field(default_factory=ServiceSpec)


def encoded(values: dict[str, bytes | str]) -> dict[str, str]:
    """Values as a Secret's ``data`` wants them."""
    return {
        key: base64.b64encode(value.encode() if isinstance(value, str) else value).decode()
        for key, value in values.items()
    }


class Taint(Model):
    """v1 Taint."""

    key: str
    value: str = ""
    effect: str
    time_added: Timestamp | None = None


class NodeSpec(Model):
    """What of a Node's spec is read."""

    taints: list[Taint] = Field(default_factory=list)
    unschedulable: bool = False


class NodeAddress(Model):
    """v1 NodeAddress."""

    type: str
    address: str


class NodeSystemInfo(Model):
    """Who a node says it is; the boot id changes with every boot."""

    boot_id: str = Field(default="", alias="bootID")
    machine_id: str = Field(default="", alias="machineID")
    system_uuid: str = Field(default="", alias="systemUUID")
    kubelet_version: str = ""
    kernel_version: str = ""
    os_image: str = ""
    architecture: str = ""
    container_runtime_version: str = ""
    operating_system: str = ""
    kube_proxy_version: str = ""


class NodeCondition(Model):
    """v1 NodeCondition."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_heartbeat_time: Timestamp | None = None
    last_transition_time: Timestamp | None = None


class NodeStatus(Model):
    """What of a Node's status is read."""

    addresses: list[NodeAddress] = Field(default_factory=list)
    conditions: list[NodeCondition] = Field(default_factory=list)
    node_info: NodeSystemInfo = Field(default_factory=NodeSystemInfo)
    capacity: dict[str, str] = Field(default_factory=dict)
    allocatable: dict[str, str] = Field(default_factory=dict)


class Node(Object):
    """v1 Node."""

    RESOURCE: ClassVar[Resource] = Resource("", "v1", "nodes", "Node", namespaced=False)

    spec: NodeSpec = Field(default_factory=NodeSpec)
    status: NodeStatus = Field(default_factory=NodeStatus)

    @property
    def ready(self) -> bool:
        """Whether its kubelet says Ready."""
        return any(c.type == "Ready" and c.status == "True" for c in self.status.conditions)

    @property
    def internal_ip(self) -> str:
        """The first InternalIP, or an empty string."""
        return next((a.address for a in self.status.addresses if a.type == "InternalIP"), "")


class ContainerPort(Model):
    """v1 ContainerPort."""

    container_port: int
    name: str = ""
    protocol: str = "TCP"


class Container(Model):
    """What of a container is read; builders of pods write dicts for the rest."""

    name: str
    image: str = ""
    image_pull_policy: str = ""
    command: list[str] = Field(default_factory=list)
    args: list[str] = Field(default_factory=list)
    env: list[dict[str, Any]] = Field(default_factory=list)
    ports: list[ContainerPort] = Field(default_factory=list)
    volume_mounts: list[dict[str, Any]] = Field(default_factory=list)
    security_context: dict[str, Any] = Field(default_factory=dict)
    readiness_probe: dict[str, Any] = Field(default_factory=dict)
    resources: dict[str, Any] = Field(default_factory=dict)


class PodSpec(Model):
    """A pod's spec; parts that are only written are plain JSON."""

    node_name: str = ""
    host_network: bool = False
    automount_service_account_token: bool | None = None
    image_pull_secrets: list[dict[str, str]] = Field(default_factory=list)
    affinity: dict[str, Any] = Field(default_factory=dict)
    tolerations: list[dict[str, Any]] = Field(default_factory=list)
    volumes: list[dict[str, Any]] = Field(default_factory=list)
    init_containers: list[Container] = Field(default_factory=list)
    containers: list[Container] = Field(default_factory=list)


class ContainerStateWaiting(Model):
    """Why a container is not running."""

    reason: str = ""
    message: str = ""


class ContainerStateRunning(Model):
    """A running container."""

    started_at: Timestamp | None = None


class ContainerStateTerminated(Model):
    """How a container ended."""

    exit_code: int = 0
    reason: str = ""
    message: str = ""
    started_at: Timestamp | None = None
    finished_at: Timestamp | None = None


class ContainerState(Model):
    """At most one of the three is set."""

    waiting: ContainerStateWaiting | None = None
    running: ContainerStateRunning | None = None
    terminated: ContainerStateTerminated | None = None


class ContainerStatus(Model):
    """v1 ContainerStatus."""

    name: str
    ready: bool = False
    restart_count: int = 0
    started: bool | None = None
    image: str = ""
    image_id: str = Field(default="", alias="imageID")
    state: ContainerState = Field(default_factory=ContainerState)
    last_state: ContainerState = Field(default_factory=ContainerState)


class PodStatus(Model):
    """What of a Pod's status is read."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    pod_ip: str = Field(default="", alias="podIP")
    host_ip: str = Field(default="", alias="hostIP")
    conditions: list[Condition] = Field(default_factory=list)
    container_statuses: list[ContainerStatus] = Field(default_factory=list)
    init_container_statuses: list[ContainerStatus] = Field(default_factory=list)


class Pod(Object):
    """v1 Pod."""

    RESOURCE: ClassVar[Resource] = Resource("", "v1", "pods", "Pod")

    spec: PodSpec = Field(default_factory=PodSpec)
    status: PodStatus = Field(default_factory=PodStatus)

    @property
    def ready(self) -> bool:
        """Whether its Ready condition is True."""
        return any(c.type == "Ready" and c.status == "True" for c in self.status.conditions)


class DaemonSetStatus(Model):
    """How many of a DaemonSet's pods there should be, and are."""

    observed_generation: int = 0
    desired_number_scheduled: int = 0
    current_number_scheduled: int = 0
    updated_number_scheduled: int = 0
    number_ready: int = 0


class DaemonSet(Object):
    """apps/v1 DaemonSet; its spec is only written, so it is plain JSON."""

    RESOURCE: ClassVar[Resource] = Resource("apps", "v1", "daemonsets", "DaemonSet")

    spec: dict[str, Any] = Field(default_factory=dict)
    status: DaemonSetStatus = Field(default_factory=DaemonSetStatus)


class LeaseSpec(Model):
    """coordination.k8s.io/v1 LeaseSpec."""

    holder_identity: str = ""
    lease_duration_seconds: int | None = None
    acquire_time: MicroTime | None = None
    renew_time: MicroTime | None = None
    lease_transitions: int = 0


class Lease(Object):
    """coordination.k8s.io/v1 Lease."""

    RESOURCE: ClassVar[Resource] = Resource("coordination.k8s.io", "v1", "leases", "Lease")

    spec: LeaseSpec = Field(default_factory=LeaseSpec)


class ObjectReference(Model):
    """What an event is about."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class EventSeries(Model):
    """How often an event has happened."""

    count: int
    last_observed_time: MicroTime


class Event(Object):
    """events.k8s.io/v1 Event."""

    RESOURCE: ClassVar[Resource] = Resource("events.k8s.io", "v1", "events", "Event")

    event_time: MicroTime | None = None
    reporting_controller: str = ""
    reporting_instance: str = ""
    action: str = ""
    reason: str = ""
    note: str = ""
    type: str = ""
    regarding: ObjectReference = Field(default_factory=ObjectReference)
    related: ObjectReference | None = None
    series: EventSeries | None = None


class CertificateSigningRequestSpec(Model):
    """certificates.k8s.io/v1 CertificateSigningRequestSpec; ``request`` is a PEM in base64."""

    request: str
    signer_name: str
    usages: list[str] = Field(default_factory=list)
    expiration_seconds: int | None = None
    username: str = ""
    groups: list[str] = Field(default_factory=list)


class CertificateSigningRequestStatus(Model):
    """What became of a request; ``certificate`` is a PEM chain in base64."""

    certificate: str = ""
    conditions: list[Condition] = Field(default_factory=list)


class CertificateSigningRequest(Object):
    """certificates.k8s.io/v1 CertificateSigningRequest."""

    RESOURCE: ClassVar[Resource] = Resource(
        "certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest", namespaced=False
    )

    spec: CertificateSigningRequestSpec
    status: CertificateSigningRequestStatus = Field(default_factory=CertificateSigningRequestStatus)


class WebhookConfiguration(Object):
    """What both kinds of webhook configuration share; the webhooks are plain JSON."""

    webhooks: list[dict[str, Any]] = Field(default_factory=list)


class ValidatingWebhookConfiguration(WebhookConfiguration):
    """admissionregistration.k8s.io/v1 ValidatingWebhookConfiguration."""

    RESOURCE: ClassVar[Resource] = Resource(
        "admissionregistration.k8s.io",
        "v1",
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        namespaced=False,
    )


class MutatingWebhookConfiguration(WebhookConfiguration):
    """admissionregistration.k8s.io/v1 MutatingWebhookConfiguration."""

    RESOURCE: ClassVar[Resource] = Resource(
        "admissionregistration.k8s.io",
        "v1",
        "mutatingwebhookconfigurations",
        "MutatingWebhookConfiguration",
        namespaced=False,
    )


class CustomResourceDefinitionVersion(Model):
    """One version of a custom kind."""

    name: str = ""
    served: bool = False


class CustomResourceDefinitionSpec(Model):
    """What of the definition of a custom kind is read."""

    versions: list[CustomResourceDefinitionVersion] = Field(default_factory=list)


class CustomResourceDefinitionStatus(Model):
    """Whether a custom kind is served; the server writes ``null`` before it knows."""

    conditions: list[Condition] | None = None


class CustomResourceDefinition(Object):
    """apiextensions.k8s.io/v1 CustomResourceDefinition."""

    RESOURCE: ClassVar[Resource] = Resource(
        "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
    )

    spec: CustomResourceDefinitionSpec = Field(default_factory=CustomResourceDefinitionSpec)
    status: CustomResourceDefinitionStatus = Field(default_factory=CustomResourceDefinitionStatus)

    def serves(self, version: str) -> bool:
        """Whether objects of that version can be read and written."""
        established = any(c.type == "Established" and c.status == "True" for c in self.status.conditions or ())
        return established and not self.deleting and any(v.name == version and v.served for v in self.spec.versions)
