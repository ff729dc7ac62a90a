"""Certificates that a process makes for itself: a small authority kept in a Secret, and what it signs.

What it guarantees:

* Replicas share one authority: whoever creates the Secret first wins, the others read it.
* The authority is followed by another before it ends, in two steps. First the successor stands in the bundle and signs nothing;
  two months later, when whoever is given new certificates has that bundle, it takes over, and the old one stays in the bundle until
  the next time. So nobody who trusts a bundle, old or new, is cut off.
* What was made while a clock was ahead, and does not hold yet, is made anew: nobody waits for the real time to catch up.
* Keys live in Secrets and in this process, never in a log; PEM texts are bytes so that they don't end in a format string.

``cryptography`` is imported when something is signed: it costs memory that an idle process need not have.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from dpf.runtime.client import Client
from dpf.runtime.errors import AlreadyExists, Conflict, NotFound
from dpf.runtime.k8s import Secret, encoded
from dpf.runtime.log import get_logger
from dpf.runtime.meta import ObjectMeta, now

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

log = get_logger(__name__)

CA_LIFETIME = timedelta(days=365)
LEAF_LIFETIME = timedelta(hours=24)
RENEW_AT = 2 / 3
"""Share of a certificate's life after which it is made anew, as cert-manager has it: 24 h are renewed 8 h before their end."""
ANNOUNCE_AT = 1 / 2
"""Share of an authority's life after which its successor is made and stands in the bundle; at :data:`RENEW_AT` it takes over. With
a year's life that is 60 days in between: longer than any certificate that an authority signs here."""
SKEW = timedelta(minutes=5)
"""How far clocks may differ: certificates begin to hold this much before they are made."""

CA_CERT, CERT, KEY = "ca.crt", "tls.crt", "tls.key"
NEXT_CERT, NEXT_KEY = "next.crt", "next.key"

Purpose = Literal["server", "client"]


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its key, PEM, and the bundle that whoever checks it must trust."""

    cert: bytes
    key: bytes = field(repr=False)
    ca: bytes

    def secret_data(self) -> dict[str, str]:
        """As the ``data`` of a Secret of type kubernetes.io/tls."""
        return encoded({CERT: self.cert, KEY: self.key, CA_CERT: self.ca})

    @classmethod
    def from_secret(cls, secret: Secret) -> KeyPair | None:
        """From such a Secret; None if something is missing."""
        cert, key, ca = (secret.value(name) for name in (CERT, KEY, CA_CERT))
        return cls(cert, key, ca) if cert and key and ca else None


def expires(pem: bytes) -> datetime:
    """The end of the first certificate of a PEM text."""
    from cryptography import x509

    return x509.load_pem_x509_certificate(pem).not_valid_after_utc


def renew_at(pem: bytes) -> datetime:
    """When the first certificate of a PEM text should be made anew."""
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(pem)
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return start + (end - start) * RENEW_AT


@lru_cache(maxsize=64)
def fingerprints(bundle: bytes) -> tuple[str, ...]:
    """What tells the certificates of a PEM text from any others, in their order."""
    found: list[str] = []
    while pem := _first_pem(bundle):
        found.append(hashlib.sha256(pem.strip()).hexdigest()[:16])
        bundle = bundle[len(pem) :]
    return tuple(found)


def due(pem: bytes) -> bool:
    """Whether the first certificate of a PEM text is to be made anew: it is old, or does not hold yet."""
    return not 0 <= _spent(pem) < RENEW_AT


def load(context: ssl.SSLContext, pair: KeyPair) -> None:
    """Has a TLS server show a pair from now on; the ssl module reads from files only, so from one in memory."""
    descriptor = os.memfd_create("pair", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pair.cert + pair.key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class SmallCA:
    """An authority: its own certificate first in ``bundle``, then an older one that still counts and one that will."""

    key: bytes = field(repr=False)
    bundle: bytes
    successor: SmallCA | None = None
    """Who follows it: in the bundle already, and signing nothing yet."""

    @classmethod
    def make(cls, name: str, *, lifetime: timedelta = CA_LIFETIME) -> SmallCA:
        """A new authority."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID

        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
        certificate = (
            _builder(subject, subject, key.public_key(), lifetime)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(_key_pem(key), certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        common_name: str,
        *,
        purposes: Sequence[Purpose],
        names: Sequence[str] = (),
        lifetime: timedelta = LEAF_LIFETIME,
    ) -> KeyPair:
        """A key and a certificate for it.

        :param common_name: cut to 64 characters, X.509's limit; who is meant stands in ``names``.
        :param names: host names and IP addresses it holds for.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

        authority = x509.load_pem_x509_certificate(self.bundle)
        authority_key = serialization.load_pem_private_key(self.key, password=None)
        if not isinstance(authority_key, ec.EllipticCurvePrivateKey):
            raise ValueError("the authority's key is no elliptic curve key")
        usages = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])
        builder = (
            _builder(subject, authority.subject, key.public_key(), lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usages[purpose] for purpose in purposes]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_name(n) for n in names]), critical=False)
        certificate = builder.sign(authority_key, hashes.SHA256())
        return KeyPair(certificate.public_bytes(serialization.Encoding.PEM), _key_pem(key), self.bundle)

    @property
    def due(self) -> bool:
        """Whether it is time to announce a successor, or for one to take over, as for an authority that does not hold yet."""
        spent = _spent(self.bundle)
        return not 0 <= spent < RENEW_AT or (spent >= ANNOUNCE_AT and self.successor is None)

    def followed(self, name: str) -> SmallCA:
        """What this authority, which is due, becomes: itself with a successor announced, or the successor."""
        if not due(self.bundle):
            heir = SmallCA.make(name)
            return SmallCA(self.key, self.bundle + heir.bundle, heir)
        announced = self.successor
        heir = announced if announced is not None and _spent(announced.bundle) >= 0 else SmallCA.make(name)
        return SmallCA(heir.key, _first_pem(heir.bundle) + _first_pem(self.bundle))


async def shared_ca(client: Client, name: str, namespace: str) -> SmallCA:
    """The authority kept in a Secret; made if missing, its successor announced and put in its place when due.

    :raises ApiError: if the Secret can be neither read nor written.
    """
    while True:
        secret = await _read(client, name, namespace)
        authority = _authority(secret)
        if authority is not None and not authority.due:
            return authority
        fresh = authority.followed(name) if authority is not None else SmallCA.make(name)
        data = encoded({CA_CERT: fresh.bundle, CERT: fresh.bundle, KEY: fresh.key})
        if (heir := fresh.successor) is not None:
            data |= encoded({NEXT_CERT: heir.bundle, NEXT_KEY: heir.key})
        try:
            if secret is None:
                meta = ObjectMeta(name=name, namespace=namespace)
                await client.create(Secret(metadata=meta, type="kubernetes.io/tls", data=data))
            else:
                patch = {"data": {NEXT_CERT: None, NEXT_KEY: None, **data}}
                await client.merge_patch(secret, patch, resource_version=secret.metadata.resource_version)
        except (AlreadyExists, Conflict):
            continue  # Another replica was faster: its authority is ours.
        log.info("certificate_authority_made", secret=name, namespace=namespace)
        return fresh


async def _read(client: Client, name: str, namespace: str) -> Secret | None:
    try:
        return await client.get(Secret, name, namespace)
    except NotFound:
        return None


def _authority(secret: Secret | None) -> SmallCA | None:
    if secret is None:
        return None
    bundle, key = secret.value(CA_CERT), secret.value(KEY)
    heir, heir_key = secret.value(NEXT_CERT), secret.value(NEXT_KEY)
    if not _usable(bundle, key):
        # Somebody had his hands in it: like one that is missing.
        return None
    return SmallCA(
        key or b"", bundle or b"", SmallCA(heir_key or b"", heir or b"") if _usable(heir, heir_key) else None
    )


def _usable(cert: bytes | None, key: bytes | None) -> bool:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        x509.load_pem_x509_certificate(cert or b"")
        serialization.load_pem_private_key(key or b"", password=None)
    except (ValueError, TypeError):
        return False
    return True


def _spent(pem: bytes) -> float:
    """The share of its life that the first certificate of a PEM text is through, 0 to 1 and beyond; below 0 before it begins."""
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(pem)
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return (now() - start) / (end - start)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    from cryptography import x509

    start = now() - SKEW
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + lifetime)
    )


def _name(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _first_pem(bundle: bytes) -> bytes:
    end = b"-----END CERTIFICATE-----\n"
    return bundle[: bundle.index(end) + len(end)] if end in bundle else b""
