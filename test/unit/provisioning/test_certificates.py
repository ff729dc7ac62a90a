"""What is stored when a certificate of DMS is made, and how many requests that takes."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from dpf.provisioning.dpu import certificates as module
from dpf.provisioning.dpu.certificates import SERVER_LIFETIME, SPREAD, Certificates
from dpf.provisioning.settings import CertificateSource
from dpf.runtime import certs
from dpf.runtime.certs import RENEW_AT, SKEW, KeyPair
from dpf.runtime.client import Client
from dpf.runtime.errors import AlreadyExists, NotFound, Waiting
from dpf.runtime.k8s import Node, Secret
from dpf.runtime.meta import Object, now
from dpf_api.certificate import Certificate
from dpf_api.dpu import DPU, DMSCertificate
from dpf_api.names import CA_SECRET
from test.unit.provisioning.worlds import dpu, host


class Store:
    """Objects by name, and the requests that were made."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.requests: list[str] = []

    async def get(self, kind: type[Object], name: str, _: str) -> Any:
        self.requests.append(f"get {name}")
        if name not in self.objects:
            raise NotFound(404, "NotFound", name)
        return self.objects[name]

    async def create(self, obj: Object) -> None:
        self.requests.append(f"create {obj.name}")
        if obj.name in self.objects:
            raise AlreadyExists(409, "AlreadyExists", obj.name)
        self.objects[obj.name] = obj

    async def merge_patch(self, obj: Object, patch: dict[str, Any]) -> None:
        self.requests.append(f"patch {obj.name}")
        if obj.name not in self.objects:
            raise NotFound(404, "NotFound", obj.name)
        self.objects[obj.name] = self.objects[obj.name].model_copy(update={"data": patch.get("data", {})})


def issuing(store: Store, source: CertificateSource = "self") -> Certificates:
    return Certificates(cast("Client", store), source)


def known(subject: DPU, certificate: DMSCertificate) -> DPU:
    return subject.model_copy(update={"status": subject.status.model_copy(update={"certificate": certificate})})


async def test_a_certificate_takes_one_request_when_it_is_made_and_one_when_it_is_renewed() -> None:
    store, subject = Store(), dpu()
    certificates = issuing(store)
    first = await certificates.ensure_server(subject, host())
    assert store.requests[-1:] == ["create d1-server-secret"]
    before, secret = len(store.requests), store.objects["d1-server-secret"]
    await certificates.ensure_server(known(subject, first), host())
    assert store.requests[before:] == ["patch d1-server-secret"]
    assert store.objects["d1-server-secret"].data["tls.crt"] != secret.data["tls.crt"]


async def test_a_secret_that_vanished_or_that_was_anothers_is_made_good() -> None:
    store, subject = Store(), dpu()
    certificates = issuing(store)
    await certificates.ensure_server(known(subject, DMSCertificate(address="10.0.0.1")), host())
    assert isinstance(store.objects["d1-server-secret"], Secret)
    before = len(store.requests)
    await certificates.ensure_server(dpu(uid="younger"), host())
    assert store.requests[before:] == ["create d1-server-secret", "patch d1-server-secret"]


async def test_dpus_that_were_provisioned_together_are_renewed_apart() -> None:
    certificates = issuing(Store())
    made = now() - SKEW
    moments = []
    for number in range(200):
        told = await certificates.ensure_server(dpu(f"d{number}"), host())
        assert told.renew_at is not None
        moments.append((told.renew_at - made) / SERVER_LIFETIME)
    assert min(moments) >= RENEW_AT - SPREAD
    assert max(moments) <= RENEW_AT + 0.001
    days = {int(moment * SERVER_LIFETIME / timedelta(hours=1)) for moment in moments}
    assert len(days) > 50, "within three days, not in one hour"
    again = await certificates.ensure_server(dpu("d7"), host())
    assert again.renew_at is not None
    assert abs((again.renew_at - made) / SERVER_LIFETIME - moments[7]) < 0.001, "each at its own moment"


async def test_a_host_without_an_address_is_waited_for() -> None:
    with pytest.raises(Waiting, match="reports no address"):
        await issuing(Store()).ensure_server(dpu(), Node.model_validate({"metadata": {"name": "worker1"}}))


async def test_a_certificate_is_for_the_hosts_address() -> None:
    store = Store()
    await issuing(store).ensure_server(dpu(), host())
    pem = store.objects["d1-server-secret"].value("tls.crt")
    names = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert [str(each) for each in names.value.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]


async def test_a_long_name_is_cut_for_the_common_name() -> None:
    store, name = Store(), "d" * 63
    told = await issuing(store, "cert-manager").ensure_server(dpu(name), host())
    certificate = store.objects[f"{name}-dms-server-cert"]
    assert isinstance(certificate, Certificate)
    assert len(certificate.spec.common_name) == 64
    assert certificate.spec.secret_name == f"{name}-server-secret"
    assert told == DMSCertificate(address="10.0.0.1"), "cert-manager renews it"


def signers(pair: KeyPair, bundle: bytes) -> bool:
    """Whether one of the bundle's signed the pair's certificate."""
    certificate = x509.load_pem_x509_certificate(pair.cert)

    def signed(authority: x509.Certificate) -> bool:
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, InvalidSignature):
            return False
        return True

    return any(signed(each) for each in x509.load_pem_x509_certificates(bundle))


def server_pair(store: Store, name: str) -> KeyPair:
    pair = KeyPair.from_secret(store.objects[f"{name}-server-secret"])
    assert pair is not None
    return pair


async def test_an_authority_that_is_gone_signs_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    certificates = issuing(store)
    before = await certificates.ensure_server(dpu("d1"), host())
    await certificates.client_pair("ns")
    assert before.authorities == list(certificates.authorities("ns"))
    store.objects.clear()
    monkeypatch.setattr(module, "COPY", 0.0)
    after = await certificates.ensure_server(dpu("d2"), host())
    for manager in (certificates, issuing(store)):
        client, server = await manager.client_pair("ns"), server_pair(store, "d2")
        assert signers(server, client.ca)
        assert signers(client, server.ca)
        assert list(manager.authorities("ns")) == after.authorities
    assert CA_SECRET in store.objects
    assert not set(before.authorities) & set(after.authorities), "by that d1's is known to be another's"


async def test_an_authority_is_read_once_for_all_that_are_made_at_once() -> None:
    store = Store()
    certificates = issuing(store)
    await asyncio.gather(*(certificates.ensure_server(dpu(f"d{number}"), host()) for number in range(20)))
    assert store.requests.count(f"get {CA_SECRET}") == 1


class Stuck(Store):
    """A server that does not answer for one namespace."""

    async def get(self, kind: type[Object], name: str, namespace: str) -> Any:
        if namespace == "stuck":
            await asyncio.Event().wait()
        return await super().get(kind, name, namespace)


async def test_a_namespace_that_waits_keeps_no_other_waiting() -> None:
    certificates = issuing(Stuck())
    waiting = asyncio.create_task(certificates.client_pair("stuck"))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        pair = await certificates.client_pair("ns")
        assert await certificates.client_pair("ns") is pair
        await certificates.ensure_server(dpu(), host())
    waiting.cancel()


async def test_a_clients_pair_that_a_clock_ahead_made_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    certificates = issuing(store)
    await certificates.ensure_server(dpu(), host())
    with monkeypatch.context() as ahead:
        ahead.setattr(certs, "now", lambda: now() + timedelta(hours=2))
        early = await certificates.client_pair("ns")
        assert await certificates.client_pair("ns") is early, "by its own clock it is young"
    assert await issuing(store).client_pair("ns") != early, "after a restart"
    fresh = await certificates.client_pair("ns")
    assert fresh.cert != early.cert
    assert await certificates.client_pair("ns") is fresh


async def test_a_clients_pair_is_made_once_however_many_ask_for_it_at_once() -> None:
    store = Store()
    certificates = issuing(store)
    pairs = await asyncio.gather(*(certificates.client_pair("ns") for _ in range(10)))
    assert len({id(pair) for pair in pairs}) == 1
    assert len([each for each in store.requests if each.startswith("create")]) == 2, "the authority, the pair"
