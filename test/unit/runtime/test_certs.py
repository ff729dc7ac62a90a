"""The small authority: what it signs is believed by TLS itself, and it is followed before it ends."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from dpf.runtime import certs
from dpf.runtime.certs import KeyPair, Purpose, SmallCA, due, expires, renew_at, shared_ca
from dpf.runtime.client import Client
from dpf.runtime.errors import AlreadyExists, Conflict, NotFound
from dpf.runtime.k8s import Secret, encoded
from dpf.runtime.meta import now


def context(folder: Path, side: int, pair: KeyPair) -> ssl.SSLContext:
    """A side of a mutual TLS connection that shows the pair and trusts its bundle."""
    file = folder / f"{id(pair)}.pem"
    file.write_bytes(pair.cert + pair.key)
    made = ssl.SSLContext(side)
    made.load_cert_chain(file)
    made.load_verify_locations(cadata=pair.ca.decode())
    made.verify_mode = ssl.CERT_REQUIRED
    return made


def shake_hands(folder: Path, server: KeyPair, client: KeyPair, name: str) -> None:
    """A mutual TLS handshake in memory.

    :raises ssl.SSLError: if one does not believe the other.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        context(folder, ssl.PROTOCOL_TLS_CLIENT, client).wrap_bio(to_client, to_server, server_hostname=name),
        context(folder, ssl.PROTOCOL_TLS_SERVER, server).wrap_bio(to_server, to_client, server_side=True),
    ]
    waiting = [True, True]
    for _ in range(10):
        for index, end in enumerate(ends):
            if waiting[index]:
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                waiting[index] = False
    assert waiting == [False, False]


def pair(authority: SmallCA, *purposes: Purpose, names: tuple[str, ...] = ()) -> KeyPair:
    return authority.issue("somebody", purposes=purposes, names=names)


@pytest.mark.parametrize("name", ["dms.example.org", "10.1.2.3", "fd00::1"])
def test_both_sides_of_a_connection_believe_each_other(tmp_path: Path, name: str) -> None:
    authority = SmallCA.make("authority")
    shake_hands(tmp_path, pair(authority, "server", names=(name,)), pair(authority, "client"), name)


def test_a_certificate_holds_for_its_names_purposes_and_authority_only(tmp_path: Path) -> None:
    authority, other = SmallCA.make("authority"), SmallCA.make("authority")
    server, client = pair(authority, "server", names=("a.example.org",)), pair(authority, "client")
    for one, two, name in (
        (server, client, "b.example.org"),
        (pair(authority, "client", names=("a.example.org",)), client, "a.example.org"),
        (server, pair(authority, "server"), "a.example.org"),
        (pair(other, "server", names=("a.example.org",)), client, "a.example.org"),
        (server, pair(other, "client"), "a.example.org"),
    ):
        with pytest.raises(ssl.SSLError):
            shake_hands(tmp_path, one, two, name)


def believe(folder: Path, servers: list[KeyPair], clients: list[KeyPair]) -> None:
    for server in servers:
        for client in clients:
            shake_hands(folder, server, client, "a.example.org")


def test_an_authority_is_followed_without_anybody_being_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pairs(authority: SmallCA) -> tuple[KeyPair, KeyPair]:
        return pair(authority, "server", names=("a.example.org",)), pair(authority, "client")

    alone = SmallCA.make("authority")
    monkeypatch.setattr(certs, "_spent", lambda _: certs.ANNOUNCE_AT)
    assert alone.due
    announced = alone.followed("authority")
    assert not announced.due
    old, prepared = pairs(alone), pairs(announced)
    believe(tmp_path, [old[0], prepared[0]], [old[1], prepared[1]])
    monkeypatch.setattr(certs, "_spent", lambda _: certs.RENEW_AT)
    assert announced.due
    taken_over = announced.followed("authority")
    fresh = pairs(taken_over)
    believe(tmp_path, [prepared[0], fresh[0]], [prepared[1], fresh[1]])
    with pytest.raises(ssl.SSLError):
        shake_hands(tmp_path, old[0], fresh[1], "a.example.org")
    monkeypatch.setattr(certs, "_spent", lambda _: certs.ANNOUNCE_AT)
    third = taken_over.followed("authority")
    assert len(x509.load_pem_x509_certificates(third.bundle)) == 3, "old, present, next"
    monkeypatch.setattr(certs, "_spent", lambda _: certs.RENEW_AT)
    assert len(x509.load_pem_x509_certificates(third.followed("authority").bundle)) == 2, "it does not grow for ever"


def test_a_certificate_begins_before_now_and_is_renewed_at_two_thirds_of_its_life() -> None:
    made = pair(SmallCA.make("authority"), "client")
    certificate = x509.load_pem_x509_certificate(made.cert)
    assert certificate.not_valid_before_utc <= now() - timedelta(minutes=4)
    life = expires(made.cert) - certificate.not_valid_before_utc
    assert life == timedelta(hours=24)
    assert renew_at(made.cert) == certificate.not_valid_before_utc + life * 2 / 3


def test_an_authority_signs_no_other_authority() -> None:
    authority = SmallCA.make("authority")
    constraints = x509.load_pem_x509_certificate(authority.bundle).extensions.get_extension_for_class(
        x509.BasicConstraints
    )
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    made = x509.load_pem_x509_certificate(pair(authority, "client").cert)
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_long_name_is_cut_to_what_x509_allows() -> None:
    made = SmallCA.make("a" * 300).issue("b" * 300, purposes=["client"])
    certificate = x509.load_pem_x509_certificate(made.cert)
    assert certificate.subject.rfc4514_string() == "CN=" + "b" * 64


def test_keys_are_not_shown() -> None:
    authority = SmallCA.make("authority")
    made = pair(authority, "client")
    assert "PRIVATE" not in repr(authority)
    assert "PRIVATE" not in repr(made)
    serialization.load_pem_private_key(made.key, password=None)


def test_a_pair_is_kept_in_a_secret_and_read_back() -> None:
    made = pair(SmallCA.make("authority"), "client")
    assert KeyPair.from_secret(Secret(data=made.secret_data())) == made
    assert KeyPair.from_secret(Secret(data={})) is None


class Secrets:
    """One Secret, as an API server keeps it; ``meanwhile`` is what another replica does before the next write."""

    def __init__(self) -> None:
        self.secret: Secret | None = None
        self.version = 0
        self.meanwhile: Callable[[], None] = lambda: None

    async def get(self, _: type[Secret], __: str, ___: str) -> Secret:
        if self.secret is None:
            raise NotFound(404, "NotFound", "none")
        return self.secret

    async def create(self, secret: Secret) -> Secret:
        self._act()
        if self.secret is not None:
            raise AlreadyExists(409, "AlreadyExists", "one is there")
        return self.put(secret)

    async def merge_patch(self, secret: Secret, patch: dict[str, Any], *, resource_version: str) -> Secret:
        self._act()
        if resource_version != str(self.version):
            raise Conflict(409, "Conflict", "changed")
        return self.put(secret.model_copy(update={"data": {**secret.data, **patch["data"]}}))

    def put(self, secret: Secret) -> Secret:
        self.version += 1
        meta = secret.metadata.model_copy(update={"resource_version": str(self.version)})
        self.secret = secret.model_copy(update={"metadata": meta})
        return self.secret

    def _act(self) -> None:
        act, self.meanwhile = self.meanwhile, lambda: None
        act()


def as_secret(authority: SmallCA) -> Secret:
    return Secret(data=encoded({certs.CA_CERT: authority.bundle, certs.KEY: authority.key}))


async def test_the_authority_is_made_once_and_then_shared() -> None:
    secrets = Secrets()
    client = cast("Client", secrets)
    first = await shared_ca(client, "ca", "n")
    assert await shared_ca(client, "ca", "n") == first
    assert secrets.version == 1


async def test_the_replica_that_was_slower_takes_the_other_ones_authority() -> None:
    secrets, theirs = Secrets(), SmallCA.make("theirs")
    secrets.meanwhile = lambda: (secrets.put(as_secret(theirs)), None)[1]
    assert await shared_ca(cast("Client", secrets), "ca", "n") == theirs


async def test_an_authority_is_followed_when_due_once_by_all_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets, old = Secrets(), SmallCA.make("old")
    secrets.put(as_secret(old))
    later = later_by(timedelta(days=250))
    theirs = SmallCA.make("theirs", lifetime=timedelta(days=900))
    monkeypatch.setattr(certs, "now", later)
    secrets.meanwhile = lambda: (secrets.put(as_secret(theirs)), None)[1]
    assert await shared_ca(cast("Client", secrets), "ca", "n") == theirs, "the other one was faster"


async def test_a_successor_is_announced_and_takes_over_later(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets, old = Secrets(), SmallCA.make("old")
    secrets.put(as_secret(old))
    client = cast("Client", secrets)
    monkeypatch.setattr(certs, "now", later_by(timedelta(days=190)))
    announced = await shared_ca(client, "ca", "n")
    assert (announced.key, announced.bundle[: len(old.bundle)]) == (old.key, old.bundle)
    assert await shared_ca(client, "ca", "n") == announced, "announced once"
    monkeypatch.setattr(certs, "now", later_by(timedelta(days=250)))
    fresh = await shared_ca(client, "ca", "n")
    assert announced.successor is not None
    assert fresh == SmallCA(announced.successor.key, announced.successor.bundle + old.bundle)
    assert not fresh.due
    assert await shared_ca(client, "ca", "n") == fresh


async def test_an_authority_that_nobody_looked_at_is_followed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets, old = Secrets(), SmallCA.make("old")
    secrets.put(as_secret(old))
    monkeypatch.setattr(certs, "now", later_by(timedelta(days=250)))
    fresh = await shared_ca(cast("Client", secrets), "ca", "n")
    assert fresh.bundle.endswith(old.bundle)
    assert len(x509.load_pem_x509_certificates(fresh.bundle)) == 2
    assert not fresh.due


@pytest.mark.parametrize(
    "data",
    [
        {},
        encoded({certs.CA_CERT: b"no certificate", certs.KEY: SmallCA.make("a").key}),
        encoded({certs.CA_CERT: SmallCA.make("a").bundle, certs.KEY: b"no key"}),
    ],
)
async def test_a_secret_that_lost_its_key_is_filled_again(data: dict[str, str]) -> None:
    secrets = Secrets()
    secrets.put(Secret(data=data))
    authority = await shared_ca(cast("Client", secrets), "ca", "n")
    assert secrets.secret is not None
    assert secrets.secret.value(certs.KEY) == authority.key
    assert authority.issue("somebody", purposes=["client"]).ca == authority.bundle


async def test_an_authority_that_a_clock_ahead_made_is_replaced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = Secrets()
    client = cast("Client", secrets)
    with monkeypatch.context() as ahead:
        ahead.setattr(certs, "now", later_by(timedelta(days=40)))
        early = await shared_ca(client, "ca", "n")
        leaf = early.issue("somebody", purposes=["server"])
        assert (early.due, due(leaf.cert)) == (False, False), "by its own clock"
    assert (early.due, due(leaf.cert)) == (True, True)
    fresh = await shared_ca(client, "ca", "n")
    assert fresh.key != early.key
    assert fresh.bundle.endswith(early.bundle), "what it has signed is believed when its time comes"
    assert not fresh.due
    assert not due(fresh.issue("somebody", purposes=["server"]).cert)
    assert await shared_ca(client, "ca", "n") == fresh


async def test_a_successor_that_does_not_hold_yet_does_not_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets, old = Secrets(), SmallCA.make("old")
    with monkeypatch.context() as ahead:
        ahead.setattr(certs, "now", later_by(timedelta(days=300)))
        heir = SmallCA.make("heir")
    next_one = encoded({certs.NEXT_CERT: heir.bundle, certs.NEXT_KEY: heir.key})
    secrets.put(Secret(data=as_secret(SmallCA(old.key, old.bundle + heir.bundle)).data | next_one))
    monkeypatch.setattr(certs, "now", later_by(timedelta(days=250)))
    fresh = await shared_ca(cast("Client", secrets), "ca", "n")
    assert fresh.key != heir.key
    assert not fresh.due


def later_by(time: timedelta) -> Callable[[], datetime]:
    return lambda: now() + time
