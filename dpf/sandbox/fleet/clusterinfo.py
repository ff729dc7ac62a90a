"""Trust on first contact, as ``kubeadm join`` has it: the cluster-info ConfigMap, its signature by the token, the CA's pin.

The ConfigMap is read without authentication from a server that cannot be verified yet. What makes it trustworthy is that it
is signed with the token's secret (a detached JWS, HS256) and that the CA in it has the pinned public key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass

import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dpf.sandbox.fleet.cloudinit import SAFE_LOADER, JoinCommand

PATH = "/api/v1/namespaces/kube-public/configmaps/cluster-info"


class Untrusted(Exception):
    """The cluster-info is not signed by our token, or its CA is not the pinned one."""


@dataclass(frozen=True)
class ClusterInfo:
    """Where the cluster is and which CA signs its servers."""

    server: str
    ca: bytes


def verify(data: Mapping[str, str], join: JoinCommand) -> ClusterInfo:
    """The trusted content of the ConfigMap's ``data``.

    :raises Untrusted: naming what does not hold.
    """
    text, jws = data.get("kubeconfig"), data.get(f"jws-kubeconfig-{join.token_id}")
    if text is None or jws is None:
        raise Untrusted(f"cluster-info is not signed for token {join.token_id}")
    if not signed(text, jws, join):
        raise Untrusted(f"the signature of cluster-info does not fit token {join.token_id}")
    server, ca = _read(text)
    pins = {f"sha256:{pin}" for pin in map(_pin, _certificates(ca))}
    if not pins & set(join.ca_hashes):
        raise Untrusted("the CA in cluster-info is not the one that the join command pins")
    return ClusterInfo(server, ca)


def signed(text: str, jws: str, join: JoinCommand) -> bool:
    """Whether ``jws`` is a detached HS256 signature of ``text`` under the token."""
    parts = jws.split(".")
    if len(parts) != 3 or parts[1]:
        return False
    try:
        header = json.loads(_decode(parts[0]))
        signature = _decode(parts[2])
    except (binascii.Error, ValueError):
        return False
    if header.get("alg") != "HS256" or header.get("kid") != join.token_id:
        return False
    message = f"{parts[0]}.{_encode(text.encode())}".encode()
    return hmac.compare_digest(hmac.digest(join.token_secret.encode(), message, hashlib.sha256), signature)


def _read(text: str) -> tuple[str, bytes]:
    """Server and CA of a kubeconfig that has one cluster and, as it is public, no user."""
    try:
        cluster = yaml.load(text, Loader=SAFE_LOADER)["clusters"][0]["cluster"]  # noqa: S506
        return str(cluster["server"]).rstrip("/"), base64.b64decode(cluster["certificate-authority-data"])
    except (yaml.YAMLError, LookupError, TypeError, binascii.Error):
        raise Untrusted("the kubeconfig in cluster-info cannot be read") from None


def _certificates(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise Untrusted("the CA in cluster-info cannot be read") from None


def _pin(certificate: x509.Certificate) -> str:
    info = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(info).hexdigest()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
