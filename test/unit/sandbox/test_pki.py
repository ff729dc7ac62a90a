"""Certificates and kubeconfigs of a cluster."""

from __future__ import annotations

import json
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dpf.runtime.kubeconfig import Kubeconfig
from dpf.sandbox.controlplane import pki
from dpf.sandbox.controlplane.pki import Pki


@pytest.fixture
def authority(tmp_path: Path) -> Pki:
    made = Pki(tmp_path / "pki", "host")
    made.prepare(["localhost", "127.0.0.1"])
    return made


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_certificates_are_signed_by_the_authority_for_their_addresses(authority: Pki) -> None:
    server = load(authority.folder / "apiserver.crt")
    server.verify_directly_issued_by(load(authority.ca))
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    key = server.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"


def test_a_user_is_named_by_its_certificate_and_may_not_serve(authority: Pki) -> None:
    pem, _ = authority.user("alice", "alice", ("admins", "people"))
    certificate = x509.load_pem_x509_certificate(pem)
    organizations = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    assert [attribute.value for attribute in organizations] == ["admins", "people"]
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "alice"
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_only_the_owner_can_read_keys(authority: Pki) -> None:
    authority.user("alice", "alice")
    assert stat.S_IMODE(authority.folder.stat().st_mode) == 0o700
    keys = list(authority.folder.glob("*.key"))
    assert {path.name for path in keys} == {"ca.key", "sa.key", "apiserver.key", "alice.key"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}


def test_what_is_there_is_used_again(authority: Pki) -> None:
    authority.user("alice", "alice")
    before = {path.name: path.read_bytes() for path in authority.folder.iterdir()}
    again = Pki(authority.folder, "host")
    again.prepare(["localhost", "127.0.0.1"])
    again.user("alice", "alice")
    assert {path.name: path.read_bytes() for path in authority.folder.iterdir()} == before


def test_a_user_whose_groups_changed_gets_another_certificate(authority: Pki) -> None:
    first, _ = authority.user("alice", "alice", ("admins",))
    second, _ = authority.user("alice", "alice", ())
    assert first != second
    assert not x509.load_pem_x509_certificate(second).subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)


def test_a_certificate_that_ends_soon_is_made_anew(authority: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pki, "LIFETIME", timedelta(days=3))
    old, _ = authority.user("alice", "alice")
    monkeypatch.undo()
    new, _ = authority.user("alice", "alice")
    assert new != old


def test_a_kubeconfig_has_everything_in_it(authority: Pki) -> None:
    cert, key = authority.user("alice", "alice")
    text = pki.kubeconfig("https://127.0.0.1:1", authority.ca.read_bytes(), cert=cert, key=key, namespace="here")
    read = Kubeconfig.parse(text)
    assert (read.server, read.cert, read.key, read.namespace) == ("https://127.0.0.1:1", cert, key, "here")
    assert read.ca == authority.ca.read_bytes()
    assert Kubeconfig.parse(pki.kubeconfig("https://a", b"ca", token="secret")).token == "secret"


def test_the_public_kubeconfig_names_nobody(authority: Pki) -> None:
    read = json.loads(pki.public_kubeconfig("https://127.0.0.1:1", authority.ca.read_bytes()))
    assert [cluster["name"] for cluster in read["clusters"]] == [""]
    assert not read.get("users")
