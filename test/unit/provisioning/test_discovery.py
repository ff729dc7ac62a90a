"""Where a card joins its cluster and what it knows it by."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from datetime import timedelta
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dpf.provisioning.bfcfg import discovery, join
from dpf.provisioning.bfcfg.check import LONGEST_JOIN
from dpf.provisioning.dpucluster.controller import unjoinable
from dpf.runtime.client import Client
from dpf.runtime.errors import Forbidden, NotFound, Unavailable, Waiting
from dpf.runtime.k8s import ConfigMap
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import now
from dpf.sandbox.fleet.cloudinit import join_command
from test.unit.provisioning import worlds

SERVER = "https://api.example.com:6443"


class Authority:
    """A certificate, and who signs with it."""

    def __init__(self, name: str, by: Authority | None = None, *, ca: bool = True) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        signer = by or self
        builder = x509.CertificateBuilder().subject_name(self.name).issuer_name(signer.name)
        builder = builder.public_key(self.key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now()).not_valid_after(now() + timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        self.pem = builder.sign(signer.key, hashes.SHA256()).public_bytes(Encoding.PEM)

    @property
    def pin(self) -> str:
        info = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return "sha256:" + hashlib.sha256(info).hexdigest()


ROOT, OTHER = Authority("kubernetes"), Authority("the one before")
INTERMEDIATE = Authority("intermediate", ROOT)
OWN = Authority("api.example.com", ca=False)


def published(ca: bytes) -> ConfigMap:
    """A cluster-info as kubeadm makes it."""
    cluster = {"server": SERVER, "certificate-authority-data": base64.b64encode(ca).decode()}
    text = yaml.safe_dump({"kind": "Config", "clusters": [{"name": "", "cluster": cluster}], "users": None})
    return ConfigMap(data={"kubeconfig": text})


class Api(Client):
    """A DPU cluster of which cluster-info can be read, if it is there, and tokens be made."""

    def __init__(self, info: ConfigMap | Exception, ca: bytes = b"", server: str = SERVER) -> None:
        super().__init__(Kubeconfig(server=server, ca=ca, insecure=not ca), field_owner="test")
        self.info = info
        self.asked: list[tuple[str, str]] = []
        self.made: list[str] = []

    async def get(self, kind: type[Any], name: str, namespace: str = "") -> Any:
        self.asked.append((namespace, name))
        if isinstance(self.info, Exception):
            raise self.info
        return self.info

    async def create(self, obj: Any, **_: Any) -> Any:
        self.made.append(obj.name)
        return obj

    async def way(self) -> discovery.Way:
        return await discovery.way(self, self.transport.kubeconfig)


NOTHING = NotFound(404, "NotFound", "no cluster-info")
FORBIDDEN = Forbidden(403, "Forbidden", "no")
UNSUPPORTED = b"""-----BEGIN CERTIFICATE-----
MIIBdDCCARmgAwIBAgIUIseDDIdYS/hsofAUy67l1MA3zSIwCgYIKoEcz1UBg3Uw
DjEMMAoGA1UEAwwDc20yMCAXDTI2MTEyNzAzNDMzNloYDzIxMjYxMTAzMDM0MzM2
WjAOMQwwCgYDVQQDDANzbTIwWTATBgcqhkjOPQIBBggqgRzPVQGCLQNCAAT5YfJG
+eIx4FGJX9kKsqgi2WPLcrrdrd5YnoDCemJ7BoCnge1/RS67ugJIdNU/KwdQgd+Y
x3uyz752GHmwSJ4Vo1MwUTAdBgNVHQ4EFgQUjiwGu9TkdRKdd9K9kS9fkWiWqwgw
HwYDVR0jBBgwFoAUjiwGu9TkdRKdd9K9kS9fkWiWqwgwDwYDVR0TAQH/BAUwAwEB
/zAKBggqgRzPVQGDdQNJADBGAiEA8D3w/3UB+mLwDyncCWj1emrg7iCXGJlwd0zM
onbVDl0CIQCkArmvdd6D2BKvtFCIEWqHtpQ8PFz/BW7v78nIIENaEQ==
-----END CERTIFICATE-----
"""
"""Of a key on the curve SM2: made by ``openssl ecparam -name SM2`` and ``openssl req -x509``, and good for a hundred years."""
MANY = b"".join(Authority(f"a{n}", ROOT).pem for n in range(9))


@pytest.mark.parametrize(
    ("server", "endpoint"),
    [
        (SERVER, "api.example.com:6443"),
        ("https://api.example.com", "api.example.com:443"),
        ("https://10.0.0.1/", "10.0.0.1:443"),
        ("https://[fd00::1]", "[fd00::1]:443"),
        ("https://[fd00::1]:6443", "[fd00::1]:6443"),
    ],
)
def test_a_join_command_always_names_a_port(server: str, endpoint: str) -> None:
    assert discovery.endpoint(server) == endpoint


@pytest.mark.parametrize(
    "server", ["https://rancher.example.com/k8s/clusters/c-m-1", "http://127.0.0.1:8001", "https://h:1?cluster=a"]
)
async def test_a_server_that_kubeadm_cannot_be_told_of_is_refused_before_a_token_is_made(server: str) -> None:
    api = Api(published(ROOT.pem), ROOT.pem, server)
    with pytest.raises(Waiting, match="no more than https://HOST:PORT") as raised:
        await join.join_command(api, api.transport.kubeconfig, "d", "abcdef")
    assert raised.value.reason == "DPUClusterNotJoinable"
    assert api.made == []


@pytest.mark.parametrize(
    ("ca", "pinned"),
    [
        (ROOT.pem, [ROOT]),
        (INTERMEDIATE.pem + ROOT.pem, [INTERMEDIATE, ROOT]),
        ("# der älteste zuerst\n".encode() + OTHER.pem + ROOT.pem + OTHER.pem, [OTHER, ROOT]),
    ],
)
async def test_every_certificate_of_a_bundle_is_pinned_and_nothing_is_asked(ca: bytes, pinned: list[Authority]) -> None:
    api = Api(NOTHING, ca)
    assert (await api.way()).pins == tuple(each.pin for each in pinned)
    assert api.asked == []


@pytest.mark.parametrize("ca", [b"", INTERMEDIATE.pem, OWN.pem, MANY])
async def test_where_the_kubeconfig_cannot_tell_the_ca_it_is_that_of_cluster_info_read_once(ca: bytes) -> None:
    api = Api(published(ROOT.pem), ca)
    for _ in range(3):
        assert (await api.way()).pins == (ROOT.pin,)
    assert api.asked == [("kube-public", "cluster-info")]


async def test_other_credentials_have_cluster_info_read_anew() -> None:
    api = Api(published(ROOT.pem))
    await api.way()
    api.info = published(OTHER.pem)
    kubeconfig = dataclasses.replace(api.transport.kubeconfig, server="https://other:6443")
    assert (await discovery.way(api, kubeconfig)).pins == (OTHER.pin,)


async def test_where_cluster_info_may_not_be_read_what_the_kubeconfig_trusts_is_pinned() -> None:
    assert (await Api(FORBIDDEN, INTERMEDIATE.pem).way()).pins == (INTERMEDIATE.pin,)


@pytest.mark.parametrize(("info", "ca"), [(NOTHING, INTERMEDIATE.pem), (FORBIDDEN, MANY)], ids=["none", "too many"])
async def test_a_cluster_that_no_card_could_join_is_told_of_before_a_host_is_touched(
    info: Exception, ca: bytes
) -> None:
    with pytest.raises(Waiting, match="no root certificate can be read") as raised:
        await Api(info, ca).way()
    assert raised.value.reason == "DPUClusterNotJoinable"


async def test_what_cluster_info_said_counts_on_while_it_can_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "REMEMBERED", 0.0)
    api = Api(published(ROOT.pem))
    assert (await api.way()).pins == (ROOT.pin,)
    api.info = Unavailable(503, "ServiceUnavailable", "overloaded")
    assert (await api.way()).pins == (ROOT.pin,)


async def test_a_cluster_that_is_ready_stays_so_while_how_to_join_it_can_not_be_read() -> None:
    overloaded = Api(Unavailable(503, "ServiceUnavailable", "overloaded"))
    assert await unjoinable(overloaded, worlds.cluster("Ready")) == ""
    assert "overloaded; it is tried again" in await unjoinable(overloaded, worlds.cluster("Creating"))
    assert "no cluster-info" in await unjoinable(Api(NOTHING), worlds.cluster("Ready"))
    assert await unjoinable(Api(published(ROOT.pem)), worlds.cluster("Creating")) == ""


@pytest.mark.parametrize(
    "strange", [b"-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n", UNSUPPORTED]
)
async def test_a_certificate_that_can_not_be_read_takes_nothing_from_the_others(strange: bytes) -> None:
    assert (await Api(NOTHING, strange + ROOT.pem + strange).way()).pins == (ROOT.pin,)
    with pytest.raises(Waiting):
        await Api(NOTHING, strange).way()


@pytest.mark.parametrize(
    ("info", "why"),
    [
        (NOTHING, "no cluster-info"),
        (Forbidden(403, "Forbidden", "may not"), "may not"),
        (ConfigMap(), "it has no kubeconfig with certificate-authority-data"),
        (ConfigMap(data={"kubeconfig": "{"}), "it has no kubeconfig"),
        (ConfigMap(data={"kubeconfig": "clusters: [{cluster: {server: s}}]"}), "it has no kubeconfig"),
        (published(b"nonsense"), "it has no kubeconfig"),
    ],
)
async def test_an_unknown_ca_is_a_wait_that_says_so_and_ends_when_it_is_published(
    info: ConfigMap | Exception, why: str
) -> None:
    api = Api(info)
    for _ in range(2):
        with pytest.raises(Waiting, match=why) as raised:
            await join.join_command(api, api.transport.kubeconfig, "d", "abcdef")
    assert raised.value.reason == "DPUClusterNotJoinable"
    assert raised.value.retry_after == discovery.RETRY
    assert api.made == [], "no token is left behind"
    api.info = published(ROOT.pem)
    assert (await api.way()).pins == (ROOT.pin,)


async def test_a_cluster_that_does_not_answer_is_not_taken_for_one_that_publishes_nothing() -> None:
    api = Api(Unavailable(0, "", "refused"), INTERMEDIATE.pem)
    with pytest.raises(Unavailable):
        await api.way()


@pytest.mark.parametrize("server", [SERVER, "https://[fd00::1]"])
@pytest.mark.parametrize("ca", [ROOT.pem, OTHER.pem + ROOT.pem])
async def test_a_card_reads_all_pins_and_the_endpoint_of_the_command(server: str, ca: bytes) -> None:
    api = Api(NOTHING, ca, server)
    text = await join.join_command(api, api.transport.kubeconfig, "d", "abcdef")
    read = join_command(text)
    assert (read.endpoint, read.ca_hashes) == tuple(await api.way())
    assert text.endswith(" --v=5")


def test_the_longest_command_has_the_most_pins() -> None:
    assert LONGEST_JOIN.count("--discovery-token-ca-cert-hash sha256:") == discovery.MOST
