"""Certificate of cert-manager, as far as DPF writes it: an option for who signs the certificates of DMS."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from dpf.runtime.meta import Condition, Model, Object, Resource
from dpf_api.schema import AGE, CONDITIONS, READY, REQUIRED, Column, Schema

_OPEN = {"x-kubernetes-preserve-unknown-fields": True}


class IssuerReference(Model):
    """Who signs."""

    name: Annotated[str, REQUIRED] = ""
    """Name of the issuer."""

    kind: str = ""
    """Issuer (of the same namespace, the default) or ClusterIssuer."""

    group: str = ""
    """API group of the issuer; cert-manager.io if left out."""


class CertificateSpec(Model):
    """What is to be signed, by whom, and where it goes."""

    secret_name: Annotated[str, REQUIRED] = ""
    """Secret that gets key and certificate."""

    issuer_ref: Annotated[IssuerReference, REQUIRED] = Field(default_factory=IssuerReference)
    """Who signs."""

    common_name: str = ""
    """Common name of the subject; at most 64 characters."""

    ip_addresses: list[str] = Field(default_factory=list)
    """Addresses that the certificate is valid for."""

    usages: list[str] = Field(default_factory=list)
    """What the key may be used for: server auth, client auth."""

    duration: str = ""
    """How long it is valid, such as 24h."""

    renew_before: str = ""
    """How long before its end it is renewed, such as 8h."""


class CertificateStatus(Model):
    """How far it is."""

    conditions: Annotated[list[Condition], CONDITIONS] = Field(default_factory=list)
    """Ready is True when the Secret holds a valid certificate."""


class Certificate(Object):
    """A certificate that is signed and renewed by cert-manager."""

    RESOURCE: ClassVar[Resource] = Resource("cert-manager.io", "v1", "certificates", "Certificate")
    COLUMNS: ClassVar[tuple[Column, ...]] = (READY, Column("Secret", ".spec.secretName"), AGE)

    spec: Annotated[CertificateSpec, Schema(extra=_OPEN)] = Field(default_factory=CertificateSpec)
    """What is to be signed, by whom, and where it goes."""

    status: Annotated[CertificateStatus, Schema(extra=_OPEN)] = Field(default_factory=CertificateStatus)
    """How far it is."""
