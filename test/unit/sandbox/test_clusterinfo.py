"""A card joins only a cluster that knows its token and has the pinned CA."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from dpf.sandbox.fleet import clusterinfo
from dpf.sandbox.fleet.cloudinit import JoinCommand
from dpf.sandbox.fleet.clusterinfo import ClusterInfo, Untrusted
from test.unit.sandbox.samples import ca_pin


def make_ca() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubernetes")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


CA = make_ca()
JOIN = JoinCommand("127.0.0.1:6443", "abcdef.0123456789abcdef", (ca_pin(CA),))


def published(ca: bytes, join: JoinCommand) -> dict[str, str]:
    cluster = {"server": "https://127.0.0.1:6443", "certificate-authority-data": base64.b64encode(ca).decode()}
    text = yaml.safe_dump({"clusters": [{"name": "", "cluster": cluster}]})
    return {"kubeconfig": text, f"jws-kubeconfig-{join.token_id}": sign(text, join)}


def sign(text: str, join: JoinCommand) -> str:
    """A detached HS256 signature, as the controller-manager's bootstrap signer makes it."""
    header = encode(json.dumps({"alg": "HS256", "kid": join.token_id}, separators=(",", ":")).encode())
    message = f"{header}.{encode(text.encode())}".encode()
    return f"{header}..{encode(hmac.digest(join.token_secret.encode(), message, hashlib.sha256))}"


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_signed_info_with_the_pinned_ca_is_trusted() -> None:
    assert clusterinfo.verify(published(CA, JOIN), JOIN) == ClusterInfo("https://127.0.0.1:6443", CA)


def test_info_signed_for_another_token_is_not_trusted() -> None:
    other = JoinCommand(JOIN.endpoint, "fedcba.0123456789abcdef", JOIN.ca_hashes)
    with pytest.raises(Untrusted, match="not signed for token abcdef"):
        clusterinfo.verify(published(CA, other), JOIN)


def test_info_signed_with_another_secret_is_not_trusted() -> None:
    forger = JoinCommand(JOIN.endpoint, "abcdef.ffffffffffffffff", JOIN.ca_hashes)
    with pytest.raises(Untrusted, match="signature"):
        clusterinfo.verify(published(CA, forger), JOIN)


def test_info_changed_after_signing_is_not_trusted() -> None:
    data = published(CA, JOIN)
    data["kubeconfig"] += "\n"
    with pytest.raises(Untrusted, match="signature"):
        clusterinfo.verify(data, JOIN)


def test_another_ca_than_the_pinned_one_is_not_trusted() -> None:
    with pytest.raises(Untrusted, match="pins"):
        clusterinfo.verify(published(make_ca(), JOIN), JOIN)


@pytest.mark.parametrize("jws", ["", "a.b.c", "..", "e30..e30", "!..!"])
def test_malformed_signature_is_no_signature(jws: str) -> None:
    assert not clusterinfo.signed("text", jws, JOIN)
