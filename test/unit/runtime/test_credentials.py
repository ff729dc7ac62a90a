"""Whom a client believes, and the tokens that it asks others for."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dpf.runtime import execplugin
from dpf.runtime.certs import KeyPair, SmallCA, load
from dpf.runtime.client import Client
from dpf.runtime.credentials import TokenSource, ssl_context
from dpf.runtime.errors import ConfigError
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import now
from test.unit.runtime.scripted import ScriptedServer, serving, status
from test.unit.runtime.widgets import Widget, widget

KIND = "client.authentication.k8s.io/v1"


def signed(
    name: str, by: tuple[str, ec.EllipticCurvePrivateKey] | None, *, ca: bool
) -> tuple[bytes, ec.EllipticCurvePrivateKey]:
    """A certificate for the name, signed by another's key or its own, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer, issuer_key = by or (name, key)
    subject, issued_by = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, issuer))
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issued_by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - timedelta(minutes=5))
        .not_valid_after(now() + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM), key


def believe(trusted: bytes, chain: bytes, key: ec.EllipticCurvePrivateKey) -> None:
    """A TLS handshake, in memory, of our client that trusts so with a server ``api`` that shows the chain.

    :raises ssl.SSLError: if the server is not believed.
    """
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load(server, KeyPair(chain, pem, b""))
    client = ssl_context(Kubeconfig("https://api", ca=trusted))
    assert client is not None
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname="api")
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for end in (ours, theirs, ours):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert ours.version() is not None
    ours.do_handshake()


def test_an_intermediate_authority_or_the_servers_own_certificate_is_trusted_as_it_is_given() -> None:
    root, root_key = signed("root", None, ca=True)
    middle, middle_key = signed("middle", ("root", root_key), ca=True)
    leaf, key = signed("api", ("middle", middle_key), ca=False)
    believe(root, leaf + middle, key)
    believe(middle, leaf, key)
    believe(leaf, leaf, key)
    own, own_key = signed("api", None, ca=False)
    believe(own, own, own_key)
    with pytest.raises(ssl.SSLCertVerificationError):
        believe(signed("root", None, ca=True)[0], leaf + middle, key)


def test_what_stands_between_certificates_may_be_in_any_letters() -> None:
    root, root_key = signed("root", None, ca=True)
    leaf, key = signed("api", ("root", root_key), ca=False)
    believe("# Zertifizierungsstelle für Köln\n".encode() + root, leaf, key)
    with pytest.raises(ConfigError, match="cannot be used"):
        ssl_context(Kubeconfig("https://api", ca="für Köln".encode()))
    with pytest.raises(ConfigError, match="cannot be used"):
        ssl_context(Kubeconfig("https://api", ca=b"\xff\xfe"))


class Plugin:
    """An exec plugin that prints what a test wants, and notes each of its runs."""

    def __init__(self, folder: Path, script: str = "cat answer", **more: Any) -> None:
        self.folder, self.more = folder, more
        program = folder / "plugin"
        program.write_text(f'#!/bin/sh\ncd "$(dirname "$0")"\necho run >> runs\n{script}\n')
        program.chmod(0o755)
        (folder / "runs").touch()

    def answers(self, *, version: str = KIND, **told: Any) -> None:
        (self.folder / "answer").write_text(
            json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": told})
        )

    @property
    def runs(self) -> int:
        return len((self.folder / "runs").read_text().split())

    def config(self, server: str = "https://h", **cluster: Any) -> Kubeconfig:
        """A kubeconfig beside the plugin, without a current context."""
        plugin = {"apiVersion": KIND, "command": "./plugin", "args": ["sesame"], "env": [{"name": "X", "value": "y"}]}
        config = {
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": {"server": server} | cluster}],
            "users": [{"name": "u", "user": {"exec": plugin | self.more}}],
        }
        path = self.folder / "config"
        path.write_text(yaml.safe_dump(config))
        return Kubeconfig.load(path)


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    return Plugin(tmp_path)


async def test_a_plugin_is_asked_once_by_all_who_need_its_token_until_that_ends(plugin: Plugin) -> None:
    plugin.answers(token="one", expirationTimestamp=(now() + timedelta(hours=1)).isoformat())
    tokens = TokenSource(plugin.config())
    assert set(await asyncio.gather(*(tokens.token() for _ in range(20)))) == {"one"}
    assert (await tokens.token(), plugin.runs) == ("one", 1)
    plugin.answers(token="two", expirationTimestamp=(now() - timedelta(seconds=1)).isoformat().replace("+00:00", "Z"))
    assert (await tokens.token(), plugin.runs) == ("one", 1), "it holds still"
    assert set(await asyncio.gather(*(tokens.token(fresh=True) for _ in range(20)))) == {"two"}
    assert plugin.runs == 2
    plugin.answers(token="three")
    assert (await tokens.token(), plugin.runs) == ("three", 3), "it has ended"
    assert (await tokens.token(), plugin.runs) == ("three", 3), "it does not say when it ends"


async def test_a_relative_authority_and_a_lone_context_do_not_keep_a_plugin_from_being_asked(plugin: Plugin) -> None:
    (plugin.folder / "ca.pem").write_bytes(SmallCA.make("ca").bundle)
    plugin.answers(token="t")
    assert await TokenSource(plugin.config(**{"certificate-authority": "ca.pem"})).token() == "t"


async def test_a_plugin_is_told_what_it_is_run_for(tmp_path: Path) -> None:
    plugin = Plugin(tmp_path, 'echo "$KUBERNETES_EXEC_INFO" > told; echo "$1 $X" >> told; cat answer')
    plugin.answers(token="t")
    await TokenSource(plugin.config()).token()
    info, more = (tmp_path / "told").read_text().splitlines()
    assert json.loads(info) == {"apiVersion": KIND, "kind": "ExecCredential", "spec": {"interactive": False}}
    assert more == "sesame y"


async def test_a_plugin_that_asks_for_it_is_told_of_the_cluster(tmp_path: Path) -> None:
    plugin = Plugin(tmp_path, 'echo "$KUBERNETES_EXEC_INFO" > told; cat answer', provideClusterInfo=True)
    plugin.answers(token="t")

    async def told(**cluster: Any) -> Any:
        await TokenSource(plugin.config(**cluster)).token()
        return json.loads((tmp_path / "told").read_text())["spec"]["cluster"]

    assert await told() == {"server": "https://h"}
    ca = SmallCA.make("ca").bundle
    (tmp_path / "ca.pem").write_bytes(ca)
    extensions = [
        {"name": "of-another", "extension": {"a": 1}},
        {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x", "scopes": ["y"]}},
    ]
    more = {"tls-server-name": "api", "insecure-skip-tls-verify": True}
    assert await told(**more, **{"certificate-authority": "ca.pem"}, extensions=extensions) == {
        "server": "https://h",
        "certificate-authority-data": base64.b64encode(ca).decode(),
        "config": {"audience": "x", "scopes": ["y"]},
        **more,
    }


@pytest.mark.parametrize(
    ("script", "answer", "says"),
    [
        ("cat answer", {"clientCertificateData": "sesame", "clientKeyData": "sesame"}, "client certificate, which is"),
        ("cat answer", {}, "gave no token"),
        ("cat answer", {"token": 5}, "gave no token"),
        ("cat answer", {"token": "sesame", "version": "v9"}, "another version than client.authentication.k8s.io/v1"),
        ("cat answer", {"token": "sesame", "expirationTimestamp": "soon"}, "no ExecCredential"),
        ("cat answer", {"token": "sesame", "expirationTimestamp": "2030-01-01T00:00:00"}, "without a time zone"),
        ("echo sesame", {}, "no ExecCredential"),
        ("echo '[]'", {}, "no ExecCredential"),
        ("echo sesame; echo sesame >&2; exit 3", {}, "plugin ended with 3"),
    ],
)
async def test_a_plugin_without_a_token_is_named_without_what_it_printed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, script: str, answer: dict[str, Any], says: str
) -> None:
    """Requests without a token would be made as nobody."""
    caplog.set_level(logging.DEBUG)
    plugin = Plugin(tmp_path, script)
    plugin.answers(**answer)
    with pytest.raises(ConfigError, match=says) as refused:
        await TokenSource(plugin.config()).token()
    assert str(tmp_path / "plugin") in str(refused.value)
    assert "sesame" not in str(refused.value) + caplog.text


async def test_a_plugin_that_is_not_there_is_named(plugin: Plugin) -> None:
    config = plugin.config()
    (plugin.folder / "plugin").unlink()
    with pytest.raises(ConfigError, match="cannot be run: No such file"):
        await TokenSource(config).token()


@pytest.mark.parametrize("does", ["sleep 60 & sleep 60", "sleep 60 & exit 0"])
async def test_a_plugin_that_hangs_is_ended_with_all_that_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    monkeypatch.setattr(execplugin, "TIMEOUT", 0.5)
    os.mkfifo(tmp_path / "held")
    # The pipe ends when nobody holds it any more.
    plugin = Plugin(tmp_path, f"exec 3> held; {does}")
    held = os.open(tmp_path / "held", os.O_RDONLY | os.O_NONBLOCK)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    tokens = TokenSource(plugin.config())
    refused = await asyncio.gather(*(tokens.token() for _ in range(5)), return_exceptions=True)
    assert ["was not done after 0.5 s" in str(each) for each in refused] == [True] * 5
    assert plugin.runs <= 1
    pipe, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(held, "rb", buffering=0)
    )
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    pipe.close()


async def test_who_gives_up_does_not_take_the_answer_from_others(plugin: Plugin) -> None:
    plugin.answers(token="t")
    tokens = TokenSource(plugin.config())
    first, second = (asyncio.create_task(tokens.token()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == "t"
    assert (first.cancelled(), plugin.runs) == (True, 1)


async def test_a_request_that_is_refused_is_made_again_with_a_new_token_of_the_plugin(plugin: Plugin) -> None:
    plugin.answers(token="old")

    async def check(request: web.Request) -> web.StreamResponse:
        if request.headers["Authorization"] == "Bearer new":
            return web.json_response(widget("a", 1))
        plugin.answers(token="new")
        return status(401, "Unauthorized")

    async with calling(check, plugin) as client:
        assert (await client.get(Widget, "a", "n")).name == "a"
    assert plugin.runs == 2


@asynccontextmanager
async def calling(answer: Any, plugin: Plugin) -> AsyncIterator[Client]:
    async with serving(ScriptedServer(answer)) as plain:
        config = plugin.config(plain.transport.kubeconfig.server)
        async with Client(config, field_owner="test") as client:
            yield client


async def test_an_auth_provider_is_asked_and_one_without_a_token_is_refused(tmp_path: Path) -> None:
    def config(**provider: Any) -> Kubeconfig:
        text = {
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": {"server": "https://h"}}],
            "users": [{"name": "u", "user": {"auth-provider": provider}}],
        }
        return Kubeconfig.parse(yaml.safe_dump(text), base=tmp_path)

    gcp = config(name="gcp", config={"access-token": "t"})
    assert await TokenSource(gcp).token() == "t"
    with pytest.raises(ConfigError, match="gave no token"):
        await TokenSource(config(name="azure", config={"access-token": "sesame"})).token()
    with pytest.raises(ConfigError, match="the kubeconfig's auth-provider failed"):
        await TokenSource(config(name="oidc")).token()
