"""TenantControlPlane and DataStore of Kamaji, as far as DPF writes and reads them: a control plane as pods of the host cluster."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import Field

from dpf.runtime.meta import Model, Object, Resource, Timestamp
from dpf_api.schema import AGE, REQUIRED, Column, Rule, Schema

GROUP = "kamaji.clastix.io"
VERSION = "v1alpha1"
NAME_LABEL = "kamaji.clastix.io/name"
"""Label of a control plane's pods, and what its Service selects them by."""
DEFAULT_PORT = 6443

_OPEN = {"x-kubernetes-preserve-unknown-fields": True}


class Driver(StrEnum):
    """What a DataStore is."""

    ETCD = "etcd"
    MYSQL = "MySQL"
    POSTGRESQL = "PostgreSQL"
    NATS = "NATS"


class DataStoreSpec(Model):
    """Where control planes keep their data."""

    driver: Annotated[Driver, Schema(required=True)] = Driver.ETCD
    """What it is."""

    endpoints: Annotated[list[str], Schema(required=True, extra={"minItems": 1})] = Field(default_factory=list)
    """Where it is reached, as HOST:PORT."""


class DataStore(Object):
    """A database that control planes keep their data in."""

    RESOURCE: ClassVar[Resource] = Resource(GROUP, VERSION, "datastores", "DataStore", namespaced=False)
    COLUMNS: ClassVar[tuple[Column, ...]] = (Column("Driver", ".spec.driver"), AGE)

    spec: Annotated[DataStoreSpec, Schema(extra=_OPEN)] = Field(default_factory=DataStoreSpec)
    """Where control planes keep their data."""


class ServiceType(StrEnum):
    """How a control plane is exposed."""

    LOAD_BALANCER = "LoadBalancer"
    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"


class CgroupDriver(StrEnum):
    """How kubelets make control groups."""

    SYSTEMD = "systemd"
    CGROUPFS = "cgroupfs"


class AdditionalMetadata(Model):
    """What is put on an object besides Kamaji's own."""

    labels: dict[str, str] = Field(default_factory=dict)
    """Labels to add."""

    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations to add."""


class ComponentResources(Model):
    """What the programs of a control plane are given."""

    api_server: Annotated[dict[str, Any] | None, Schema(extra=_OPEN)] = None
    """Requests and limits of kube-apiserver."""

    controller_manager: Annotated[dict[str, Any] | None, Schema(extra=_OPEN)] = None
    """Requests and limits of kube-controller-manager."""

    scheduler: Annotated[dict[str, Any] | None, Schema(extra=_OPEN)] = None
    """Requests and limits of kube-scheduler."""


class DeploymentSpec(Model):
    """The pods of a control plane."""

    replicas: Annotated[int, Schema(default=2)] = 2
    """How many there are."""

    affinity: Annotated[dict[str, Any] | None, Schema(extra=_OPEN)] = None
    """Which nodes they may run on."""

    tolerations: list[dict[str, Any]] = Field(default_factory=list)
    """Taints that they bear."""

    additional_metadata: AdditionalMetadata | None = None
    """What is put on the Deployment."""

    resources: ComponentResources | None = None
    """What its programs are given."""


class ServiceSpec(Model):
    """The Service of a control plane."""

    service_type: Annotated[ServiceType, Schema(required=True)] = ServiceType.NODE_PORT
    """How it is exposed."""

    additional_metadata: AdditionalMetadata | None = None
    """What is put on the Service."""


class ControlPlaneSpec(Model):
    """What a control plane is made of in the host cluster."""

    deployment: Annotated[DeploymentSpec, Schema(extra=_OPEN)] = Field(default_factory=DeploymentSpec)
    """Its pods."""

    service: Annotated[ServiceSpec, Schema(required=True, extra=_OPEN)] = Field(default_factory=ServiceSpec)
    """Its Service."""


class KubeletSpec(Model):
    """How kubelets that join are set up."""

    cgroupfs: CgroupDriver | None = None
    """How they make control groups."""


class KubernetesSpec(Model):
    """Which Kubernetes it is."""

    version: Annotated[str, REQUIRED] = ""
    """Version, such as v1.30.2. It may go up, one minor at a time; Kamaji's webhook sees to that."""

    kubelet: Annotated[KubeletSpec, Schema(required=True, extra=_OPEN)] = Field(default_factory=KubeletSpec)
    """How kubelets that join are set up."""

    admission_controllers: list[str] = Field(default_factory=list)
    """Admission plugins that are switched on."""


class NetworkProfile(Model):
    """Where the API server is reached."""

    address: str = ""
    """Address that it is reached at. Without one Kamaji waits, unless a load balancer gives one."""

    port: Annotated[int, Schema(default=DEFAULT_PORT, extra={"format": "int32"})] = DEFAULT_PORT
    """Port of API server and Service, and the node port if it is exposed by one."""


class Addon(Model):
    """A part that is installed into the cluster."""

    image_repository: str = ""
    """Where its image is pulled from."""

    image_tag: str = ""
    """Which version of it."""


class Addons(Model):
    """What is installed into the cluster."""

    core_dns: Annotated[Addon | None, Field(alias="coreDNS")] = None
    """Name service."""

    kube_proxy: Addon | None = None
    """Services."""


class TenantControlPlaneSpec(Model):
    """What the control plane is to be."""

    data_store: str = ""
    """DataStore that it keeps its data in."""

    control_plane: Annotated[ControlPlaneSpec, Schema(required=True, extra=_OPEN)] = Field(
        default_factory=ControlPlaneSpec
    )
    """What it is made of in the host cluster."""

    kubernetes: Annotated[KubernetesSpec, Schema(required=True)] = Field(default_factory=KubernetesSpec)
    """Which Kubernetes it is."""

    network_profile: Annotated[NetworkProfile, Schema(extra=_OPEN)] = Field(default_factory=NetworkProfile)
    """Where the API server is reached."""

    addons: Annotated[Addons | None, Schema(extra=_OPEN)] = None
    """What is installed into the cluster."""


class VersionStatus(StrEnum):
    """What a control plane is doing. Kamaji's newer releases know more words, so what is read is plain text."""

    PROVISIONING = "Provisioning"
    UPGRADING = "Upgrading"
    READY = "Ready"
    NOT_READY = "NotReady"


class KubernetesVersion(Model):
    """Which Kubernetes runs."""

    version: str = ""
    """The version that was Ready last."""

    status: str = ""
    """What the control plane is doing: Provisioning, Upgrading, Ready, NotReady and others."""


class ServiceStatus(Model):
    """The Service that was made."""

    name: str = ""
    """Its name."""

    namespace: str = ""
    """Its namespace."""

    port: int = 0
    """Its port."""


class KubernetesResources(Model):
    """What runs in the host cluster."""

    version: Annotated[KubernetesVersion, Schema(extra=_OPEN)] = Field(default_factory=KubernetesVersion)
    """Which Kubernetes runs."""

    service: Annotated[ServiceStatus, Schema(extra=_OPEN)] = Field(default_factory=ServiceStatus)
    """The Service that was made."""


class KubeconfigStatus(Model):
    """A kubeconfig that was made."""

    secret_name: str = ""
    """Secret that holds it."""

    last_update: Timestamp | None = None
    """When it was written."""


class KubeconfigsStatus(Model):
    """The kubeconfigs that were made."""

    admin: Annotated[KubeconfigStatus, Schema(extra=_OPEN)] = Field(default_factory=KubeconfigStatus)
    """An administrator's, under the key admin.conf."""


class StorageStatus(Model):
    """Where the data is."""

    data_store_name: str = ""
    """The DataStore in use."""


class TenantControlPlaneStatus(Model):
    """How the control plane is."""

    kubernetes_resources: Annotated[KubernetesResources, Schema(extra=_OPEN)] = Field(
        default_factory=KubernetesResources
    )
    """What runs in the host cluster."""

    kubeconfig: Annotated[KubeconfigsStatus, Schema(extra=_OPEN)] = Field(default_factory=KubeconfigsStatus)
    """The kubeconfigs that were made."""

    storage: Annotated[StorageStatus, Schema(extra=_OPEN)] = Field(default_factory=StorageStatus)
    """Where the data is."""

    control_plane_endpoint: str = ""
    """Address and port of the API server."""

    @property
    def version(self) -> KubernetesVersion:
        """Which Kubernetes runs, and what the control plane is doing."""
        return self.kubernetes_resources.version


class TenantControlPlane(Object):
    """A Kubernetes control plane that Kamaji runs as pods."""

    RESOURCE: ClassVar[Resource] = Resource(GROUP, VERSION, "tenantcontrolplanes", "TenantControlPlane")
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        Column("Version", ".spec.kubernetes.version"),
        Column("Status", ".status.kubernetesResources.version.status"),
        Column("Control-Plane endpoint", ".status.controlPlaneEndpoint"),
        Column("Kubeconfig", ".status.kubeconfig.admin.secretName"),
        Column("Datastore", ".status.storage.dataStoreName"),
        AGE,
    )

    spec: Annotated[
        TenantControlPlaneSpec,
        Schema(
            extra=_OPEN,
            rules=(Rule("!has(oldSelf.dataStore) || has(self.dataStore)", "unsetting the dataStore is not supported"),),
        ),
    ] = Field(default_factory=TenantControlPlaneSpec)
    """What the control plane is to be."""

    status: Annotated[TenantControlPlaneStatus, Schema(extra=_OPEN)] = Field(default_factory=TenantControlPlaneStatus)
    """How the control plane is."""
