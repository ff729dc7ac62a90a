"""Certificates and kubeconfigs of a cluster, in one folder that only its owner can read. What is there already is used again."""

from __future__ import annotations

import base64
import ipaddress
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dpf.sandbox.fleet.disk import write_private

AUTHORITY_LIFETIME = timedelta(days=3650)
LIFETIME = timedelta(days=365)
RENEWED_BEFORE = timedelta(days=7)
_PEM = serialization.Encoding.PEM


class Pki:
    """The certificate authority of one cluster and what it signed."""

    def __init__(self, folder: Path, cluster: str) -> None:
        self.folder = folder
        self._cluster = cluster
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    def prepare(self, addresses: Sequence[str]) -> None:
        """Makes the authority, the server's certificate for the addresses (names or IPs), and the ServiceAccount keys."""
        if not self.ca.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{self._cluster}-ca")])
            certificate = (
                _builder(name, name, key.public_key(), AUTHORITY_LIFETIME)
                .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
                .add_extension(_usage(sign_certificates=True), critical=True)
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
                .sign(key, hashes.SHA256())
            )
            write_private(self.folder / "ca.key", _key_pem(key))
            write_private(self.ca, certificate.public_bytes(_PEM))
        if not (self.folder / "sa.pub").exists():
            key = ec.generate_private_key(ec.SECP256R1())
            write_private(self.folder / "sa.key", _key_pem(key))
            public = key.public_key().public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            write_private(self.folder / "sa.pub", public)
        self.server("apiserver", "kube-apiserver", addresses)

    def server(self, file: str, name: str, addresses: Sequence[str]) -> None:
        """Makes a server's certificate, kept under the file's name, unless it is there, for these addresses, and good for
        some days yet."""
        if not self._is_good(file, _subject(name, ()), addresses):
            self._sign(file, _subject(name, ()), addresses)

    def user(self, file: str, name: str, groups: Sequence[str] = ()) -> tuple[bytes, bytes]:
        """Certificate and key of a user, PEM; kept under the file's name."""
        subject = _subject(name, groups)
        if not self._is_good(file, subject, ()):
            self._sign(file, subject, ())
        return (self.folder / f"{file}.crt").read_bytes(), (self.folder / f"{file}.key").read_bytes()

    def _is_good(self, file: str, subject: x509.Name, addresses: Sequence[str]) -> bool:
        path = self.folder / f"{file}.crt"
        if not path.exists():
            return False
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        if certificate.subject != subject or certificate.not_valid_after_utc - RENEWED_BEFORE <= datetime.now(UTC):
            return False
        return not addresses or _sans(certificate) == {_san(address) for address in addresses}

    def _sign(self, file: str, subject: x509.Name, addresses: Sequence[str]) -> None:
        authority = x509.load_pem_x509_certificate(self.ca.read_bytes())
        authority_key = serialization.load_pem_private_key((self.folder / "ca.key").read_bytes(), password=None)
        if not isinstance(authority_key, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{self.folder}/ca.key is no elliptic curve key")
        key = ec.generate_private_key(ec.SECP256R1())
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if addresses else [])]
        builder = (
            _builder(subject, authority.subject, key.public_key(), LIFETIME)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
        )
        if addresses:
            builder = builder.add_extension(x509.SubjectAlternativeName([_san(a) for a in addresses]), critical=False)
        certificate = builder.sign(authority_key, hashes.SHA256())
        write_private(self.folder / f"{file}.key", _key_pem(key))
        write_private(self.folder / f"{file}.crt", certificate.public_bytes(_PEM))


def kubeconfig(
    server: str, ca: bytes, *, cert: bytes = b"", key: bytes = b"", token: str = "", namespace: str = "default"
) -> str:
    """The text of a kubeconfig with everything embedded."""
    user = {"token": token} if token else {"client-certificate-data": _b64(cert), "client-key-data": _b64(key)}
    cluster = {"server": server, "certificate-authority-data": _b64(ca)}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "default",
            "contexts": [
                {"name": "default", "context": {"cluster": "default", "user": "default", "namespace": namespace}}
            ],
            "clusters": [{"name": "default", "cluster": cluster}],
            "users": [{"name": "default", "user": user}],
        },
        indent=1,
    )


def public_kubeconfig(server: str, ca: bytes) -> str:
    """A kubeconfig that says where a cluster is and whom to trust, but nothing about the reader (cluster-info)."""
    cluster = {"name": "", "cluster": {"server": server, "certificate-authority-data": _b64(ca)}}
    return json.dumps(
        {"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "contexts": [], "users": []}, indent=1
    )


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _san(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _sans(certificate: x509.Certificate) -> set[x509.GeneralName]:
    try:
        return set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return set()


def _subject(name: str, groups: Sequence[str]) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    start = datetime.now(UTC) - timedelta(minutes=5)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + lifetime)
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
