"""How a card finds its DPU cluster and knows it: the endpoint and the pins of its join command.

kubeadm asks ``HOST:PORT`` for the ConfigMap cluster-info, and takes its CA for the cluster's if its public key is among the pins:
one pin that fits is enough. The kubeconfig says which CA that is. Where it can't, for it has none (a publicly signed server, or
``insecure-skip-tls-verify``) or no root (an intermediate, or the server's own certificate), cluster-info itself is read with the
kubeconfig's credentials, and remembered for :data:`REMEMBERED` seconds, longer while it can't be read again.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import lru_cache
from time import monotonic
from typing import NamedTuple
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import yaml

from dpf.runtime.client import Client
from dpf.runtime.errors import ApiError, Forbidden, NotFound, Waiting
from dpf.runtime.k8s import ConfigMap
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.log import get_logger

log = get_logger(__name__)

REASON = "DPUClusterNotJoinable"
RETRY = 60.0
"""Seconds after which it is tried again to find out how a cluster can be joined."""
REMEMBERED = 600.0
MOST = 8
"""Pins of a join command at most; a longer bundle leaves it to cluster-info."""
CLUSTER_INFO = ("cluster-info", "kube-public")

Pins = tuple[str, ...]


_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


class Way(NamedTuple):
    """What ``kubeadm join`` is told of a cluster."""

    endpoint: str
    """``HOST:PORT``."""
    pins: Pins


class _Bundle(NamedTuple):
    pins: Pins
    rooted: bool
    """Whether one of its certificates is a root's."""


class _Known(NamedTuple):
    kubeconfig: Kubeconfig
    until: float
    pins: Pins


_known: WeakKeyDictionary[Client, _Known] = WeakKeyDictionary()


async def way(client: Client, kubeconfig: Kubeconfig) -> Way:
    """How cards join the cluster. Nothing is asked where the kubeconfig has the cluster's CA.

    :raises Waiting: if they can't, and why.
    :raises ApiError: if the cluster does not answer.
    """
    where = endpoint(kubeconfig.server)
    bundle = _read(kubeconfig.ca)
    if bundle.rooted and len(bundle.pins) <= MOST:
        return Way(where, bundle.pins)
    known = _known.get(client)
    if known is not None and known.kubeconfig != kubeconfig:
        known = None
    if known is None or known.until <= monotonic():
        try:
            pins = await _published(client, bundle.pins)
        except ApiError:
            if known is None:
                raise
            pins = known.pins
        known = _known[client] = _Known(kubeconfig, monotonic() + REMEMBERED, pins)
    return Way(where, known.pins)


def endpoint(server: str) -> str:
    """The server of a kubeconfig as kubeadm takes it.

    :raises Waiting: if cards can't join there: kubeadm speaks HTTPS and knows no path.
    """
    url = urlsplit(server)
    if url.scheme != "https" or url.path.strip("/") or url.query or url.fragment:
        message = (
            f"no card can join at {server}, which its kubeconfig names as server: kubeadm takes no more than https://HOST:PORT; "
            "put the address of the API server itself there"
        )
        raise Waiting(REASON, message, retry_after=RETRY)
    host = url.hostname or ""
    return f"{f'[{host}]' if ':' in host else host}:{url.port or 443}"


async def _published(client: Client, otherwise: Pins) -> Pins:
    """The pins of the CA in cluster-info.

    :param otherwise: what the kubeconfig has. It counts if cluster-info may not be read; without one no card can join.
    """
    name, namespace = CLUSTER_INFO
    try:
        info = await client.get(ConfigMap, name, namespace)
    except (NotFound, Forbidden) as error:
        if isinstance(error, Forbidden) and 0 < len(otherwise) <= MOST:
            return otherwise
        why = str(error)
    else:
        if pins := _read(_authority(info.data.get("kubeconfig", ""))).pins[:MOST]:
            return pins
        why = "it has no kubeconfig with certificate-authority-data that can be read"
    message = (
        "which CA it has is not known, so no card can join: no root certificate can be read from certificate-authority-data of "
        f"its kubeconfig, and ConfigMap {name} in its namespace {namespace} can't be used: {why}; kubeadm needs that too (`kubeadm "
        "init phase bootstrap-token`)"
    )
    raise Waiting(REASON, message, retry_after=RETRY)


def _authority(text: str) -> bytes:
    """The CA of a kubeconfig that has one cluster and, as it is public, no user; nothing if it can't be read."""
    try:
        cluster = yaml.safe_load(text)["clusters"][0]["cluster"]
        return base64.b64decode(cluster["certificate-authority-data"])
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return b""


@lru_cache(maxsize=64)
def _read(ca: bytes) -> _Bundle:
    """The certificates of a bundle: of each ``sha256:`` and the digest of its public key info, in order. One that can't be read
    takes nothing from the others."""
    found = [each for block in _BLOCK.findall(ca) if (each := _certificate(block)) is not None]
    return _Bundle(tuple(dict.fromkeys(pin for pin, _ in found)), any(root for _, root in found))


def _certificate(block: bytes) -> tuple[str, bool] | None:
    """Pin of a certificate, and whether it is a root's; None if it can't be read."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        certificate = x509.load_pem_x509_certificate(block)
        info = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        may_sign = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        root = may_sign and certificate.issuer == certificate.subject
    except x509.ExtensionNotFound:
        root = False
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        log.warning("certificate_not_read", error=str(error))
        return None
    return "sha256:" + hashlib.sha256(info).hexdigest(), root
