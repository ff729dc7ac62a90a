"""Reading kubeconfigs, good and bad."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from dpf.runtime import kubeconfig
from dpf.runtime.certs import SmallCA
from dpf.runtime.credentials import TokenSource
from dpf.runtime.errors import ConfigError
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.transport import Transport

GOOD = {
    "current-context": "c",
    "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "here"}}],
    "clusters": [
        {
            "name": "k",
            "cluster": {"server": "https://h:1/", "certificate-authority-data": base64.b64encode(b"CA").decode()},
        }
    ],
    "users": [{"name": "u", "user": {"token": "secret-token"}}],
}


def changed(where: str, name: str, value: object, *, user: dict[str, object] | None = None) -> str:
    """The good kubeconfig with one value of its cluster, user or context replaced, perhaps for another user."""
    config = yaml.safe_load(yaml.safe_dump(GOOD if user is None else {**GOOD, "users": [{"name": "u", "user": user}]}))
    config[f"{where}s"][0][where][name] = value
    return yaml.safe_dump(config, allow_unicode=True)


def test_the_current_context_is_read_and_secrets_stay_out_of_its_repr() -> None:
    config = Kubeconfig.parse(yaml.safe_dump(GOOD))
    assert (config.server, config.ca, config.token, config.namespace) == ("https://h:1", b"CA", "secret-token", "here")
    assert "secret-token" not in repr(config)


def test_file_names_are_relative_to_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(b"CA from a file")
    (tmp_path / "token").write_text("t")
    config = {
        **GOOD,
        "clusters": [{"name": "k", "cluster": {"server": "https://h", "certificate-authority": "ca.pem"}}],
        "users": [{"name": "u", "user": {"tokenFile": "token"}}],
    }
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    loaded = Kubeconfig.load(tmp_path / "config")
    assert loaded.ca == b"CA from a file"
    assert loaded.token_file == tmp_path / "token"


def test_one_cluster_and_one_user_need_no_context() -> None:
    config = {key: value for key, value in GOOD.items() if key in {"clusters", "users"}}
    assert Kubeconfig.parse(yaml.safe_dump(config)).token == "secret-token"


EXEC = {"apiVersion": "client.authentication.k8s.io/v1", "command": "get-token"}
TOLD = EXEC | {"provideClusterInfo": True}
PLUGINS = "client.authentication.k8s.io/exec"
PAIR = {f"client-{part}-data": base64.b64encode(part.encode()).decode() for part in ("certificate", "key")}


def asking(**user: object) -> str:
    """The good kubeconfig with another user."""
    return yaml.safe_dump({**GOOD, "users": [{"name": "u", "user": user}]})


@pytest.mark.parametrize(
    ("given", "asks_plugin", "asks_provider"),
    [
        ({}, True, True),
        ({"token": "t"}, False, False),
        ({"tokenFile": "t"}, False, False),
        (PAIR, False, True),
        ({"client-certificate-data": PAIR["client-certificate-data"]}, True, True),
        ({"as": "somebody"}, True, True),
    ],
)
def test_as_for_kubectl_nobody_is_asked_for_a_token_beside_what_is_given(
    given: dict[str, object], asks_plugin: bool, asks_provider: bool
) -> None:
    """The plugin's account may be another than the one that is named."""
    plugin = Kubeconfig.parse(asking(exec=EXEC, **given), base=Path("/conf"))
    provider = Kubeconfig.parse(asking(**{"auth-provider": {"name": "oidc"}}, **given), base=Path("/conf"))
    assert (plugin.exec is not None, provider.auth_provider is not None) == (asks_plugin, asks_provider)


@pytest.mark.parametrize("line", ["\n", "\r\n"])
def test_base64_may_be_of_several_lines(line: str) -> None:
    data = line.join(base64.b64encode(b"CA" * 40).decode()[at : at + 76] for at in (0, 76)) + line
    assert Kubeconfig.parse(changed("cluster", "certificate-authority-data", data)).ca == b"CA" * 40


@pytest.mark.parametrize(
    ("command", "found"), [("get-token", "get-token"), ("./get-token", "/conf/get-token"), ("/bin/get", "/bin/get")]
)
def test_an_exec_plugin_is_looked_for_beside_the_kubeconfig_or_in_the_path(command: str, found: str) -> None:
    more = {"args": ["--password=sesame"], "env": [{"name": "A", "value": "sesame"}], "interactiveMode": "Never"}
    config = Kubeconfig.parse(asking(exec=EXEC | {"command": command} | more), base=Path("/conf"))
    assert config.exec is not None
    assert (config.exec.command, config.exec.args, dict(config.exec.env)) == (
        found,
        ("--password=sesame",),
        {"A": "sesame"},
    )
    assert not config.exec.may_ask
    assert "sesame" not in repr(config)


def test_as_makes_requests_in_the_name_of_somebody_else() -> None:
    whom = {
        "as": "system:admin",
        "as-uid": "7",
        "as-groups": ["a", "b"],
        "as-user-extra": {"scopes": ["x", "y"], "example.com/ä%": ["z"]},
    }
    text = yaml.safe_dump({**GOOD, "users": [{"name": "u", "user": {"token": "t"} | whom}]})
    head = Transport(Kubeconfig.parse(text))._head("GET", "/version", None, "t", None, "").decode().split("\r\n")
    assert [line for line in head if line.startswith("Impersonate")] == [
        "Impersonate-User: system:admin",
        "Impersonate-Uid: 7",
        "Impersonate-Group: a",
        "Impersonate-Group: b",
        "Impersonate-Extra-example.com%2F%C3%A4%25: z",
        "Impersonate-Extra-scopes: x",
        "Impersonate-Extra-scopes: y",
    ]


@pytest.mark.parametrize(
    ("server", "name", "verified"),
    [
        ("https://api.example.", None, "api.example"),
        ("https://api.example.:6443/path", None, "api.example"),
        ("https://api.example", None, ""),
        ("https://api.example.", "other.", "other"),
        ("https://[::1]:6443", None, ""),
    ],
)
def test_the_dot_at_the_end_of_a_host_is_not_looked_for_in_its_certificate(
    server: str, name: str | None, verified: str
) -> None:
    config = {**GOOD, "clusters": [{"name": "k", "cluster": {"server": server, "tls-server-name": name}}]}
    assert Kubeconfig.parse(yaml.safe_dump(config)).tls_server_name == verified


def test_nor_is_it_of_the_host_that_a_pod_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("CA")
    (tmp_path / "namespace").write_text("n")
    monkeypatch.setattr(kubeconfig, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc.")
    config = Kubeconfig.in_cluster()
    assert (config.server, config.tls_server_name) == ("https://kubernetes.default.svc.:443", "kubernetes.default.svc")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("tokenFile", "/var/run/secrets/kubernetes.io/serviceaccount/token"),
        ("exec", {"command": "/bin/sh"}),
        ("auth-provider", {"name": "gcp"}),
        ("client-certificate", "/etc/passwd"),
        ("client-key", "/etc/passwd"),
        ("certificate-authority", "/etc/passwd"),
    ],
)
def test_a_kubeconfig_from_the_api_names_no_file_and_no_command_of_this_machine(part: str, value: object) -> None:
    """Else whoever may write a Secret has this process's token sent to a server of his choice, or a command run."""
    config = yaml.safe_load(yaml.safe_dump(GOOD))
    where = config["clusters"][0]["cluster"] if part == "certificate-authority" else config["users"][0]["user"]
    where[part] = value
    with pytest.raises(ConfigError, match=f"{part} would be of this machine"):
        Kubeconfig.parse(yaml.safe_dump(config))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "not YAML"),
        ("just text", "not a kubeconfig"),
        (yaml.safe_dump({**GOOD, "current-context": "other"}), "no context 'other'"),
        (yaml.safe_dump({**GOOD, "users": []}), "no user 'u'"),
        (yaml.safe_dump({**GOOD, "clusters": [{"name": "k", "cluster": {}}]}), "has no server"),
        *(
            (yaml.safe_dump({**GOOD, "clusters": [{"name": "k", "cluster": {"server": server}}]}), "has no server")
            for server in ("host:6443", "https://", "https://host:port", "https://[::1", "https://host:99999", 6443)
        ),
        (yaml.safe_dump({**GOOD, "users": [{"name": "u", "user": {"client-key-data": "%"}}]}), "not base64"),
        (
            yaml.safe_dump({**GOOD, "users": [{"name": "u", "user": {"client-key": "/nowhere"}}]}),
            "cannot read client-key",
        ),
    ],
)
def test_what_cannot_be_used_is_named(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Kubeconfig.parse(text, base=Path("/"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (changed("user", "token", 12345), "token must be text: put it in quotes"),
        (changed("user", "token", ["sesame"]), "token must be text"),
        (changed("user", "token", "sesame\r\nHost: other"), "token must be text of one line"),
        (changed("user", "token", "sécret"), "token has characters that no token has"),
        (changed("user", "token", "two sesame"), "token has characters that no token has"),
        (changed("user", "client-key-data", "sesame!"), "client-key-data is not base64"),
        (changed("user", "client-key-data", 7), "client-key-data is not base64"),
        (changed("user", "tokenFile", 7), "tokenFile must be text"),
        (changed("user", "client-key", 7), "client-key must be text"),
        (changed("user", "exec", "get-token"), "exec must be a mapping"),
        (changed("user", "exec", {"command": "get-token"}), "exec must have a command and an apiVersion"),
        (changed("user", "exec", EXEC | {"args": "sesame"}), "args must be a list of texts"),
        (changed("user", "exec", EXEC | {"env": ["sesame"]}), "env must be a list of mappings"),
        (changed("user", "auth-provider", "oidc"), "auth-provider must be a mapping"),
        (
            yaml.safe_dump(
                {**GOOD, "users": [{"name": "u", "user": {"exec": EXEC, "auth-provider": {"name": "oidc"}}}]}
            ),
            "either exec or auth-provider",
        ),
        (asking(username="me", password="sesame"), "username and password are not supported"),
        (changed("user", "password", "sesame"), "username and password are not supported"),
        (asking(exec=EXEC | {"provideClusterInfo": "true"}), "provideClusterInfo must be true or false"),
        (
            changed("cluster", "extensions", [{"name": PLUGINS, "extension": {"sesame": 2**70}}], user={"exec": TOLD}),
            "the extension client.authentication.k8s.io/exec has a value that JSON has not",
        ),
        (
            changed("cluster", "extensions", "sesame", user={"exec": TOLD}),
            "extensions must be a list of mappings",
        ),
        (changed("cluster", "proxy-url", "http://me:sesame@proxy"), "API servers are reached directly"),
        (changed("user", "as-groups", ["a"]), "need as, the name of a user"),
        (changed("user", "as", ["a"]), "as must be text"),
        (changed("user", "as", "sesame\r\nHost: other"), "as must be text of one line"),
        (changed("user", "as", " sesame"), "the value for Impersonate-User is empty, or has characters"),
        (changed("user", "as", "sésame"), "the value for Impersonate-User is empty, or has characters"),
        (
            yaml.safe_dump({**GOOD, "users": [{"name": "u", "user": {"as": "a", "as-groups": "b"}}]}),
            "as-groups must be a list of texts",
        ),
        (
            yaml.safe_dump({**GOOD, "users": [{"name": "u", "user": {"as": "a", "as-groups": [""]}}]}),
            "Impersonate-Group is empty",
        ),
        (
            yaml.safe_dump({**GOOD, "users": [{"name": "u", "user": {"as": "a", "as-user-extra": {5: ["b"]}}}]}),
            "as-user-extra must have names",
        ),
        (changed("cluster", "tls-server-name", 5), "tls-server-name must be text"),
        *(
            (changed("cluster", "tls-server-name", name), "tls-server-name must be a host name")
            for name in (".example", "a..b", "höst", "x" * 64, "a b")
        ),
        *(
            (changed("cluster", "server", server), "has no server")
            for server in (
                "https://höst",
                "https://h/pfäd",
                "https://h/a b",
                "https://.h",
                "https://a..b",
                "https://h\n",
            )
        ),
        (changed("cluster", "server", "https://me:sesame@h"), "server must not name a user or password"),
        (changed("cluster", "insecure-skip-tls-verify", "false"), "must be true or false, without quotes"),
        (changed("context", "namespace", 1), "namespace must be text"),
        (changed("context", "user", 1), "the name of its user is missing or no text"),
        (yaml.safe_dump({**GOOD, "current-context": 5}), "current-context must be text"),
        (yaml.safe_dump({**GOOD, "clusters": 5}), "clusters must be a list of mappings"),
        (yaml.safe_dump({**GOOD, "contexts": [5], "current-context": ""}), "contexts must be a list of mappings"),
        (yaml.safe_dump({**GOOD, "users": {"u": {}}}), "users must be a list of mappings"),
        (yaml.safe_dump({**GOOD, "users": [{"name": "u", "user": 5}]}), "user 'u' must be a mapping"),
        ("token: [sesame", "is not YAML: "),
        ("token: *sesame", "is not YAML: found undefined alias"),
        ("token: !sesame x", "is not YAML: could not determine a constructor for the tag"),
        ("since: 2026-13-45", "a value that cannot be read"),
        ("[" * 5000, "a value that cannot be read"),
    ],
)
def test_what_is_of_another_type_or_form_is_refused_in_plain_words_without_secrets(text: str, says: str) -> None:
    """A Secret holds whatever its author wrote; later it would fail a request, or TLS, in the midst of others' work."""
    with pytest.raises(ConfigError, match=says) as refused:
        Kubeconfig.parse(text, base=Path("/"))
    assert "sesame" not in str(refused.value)
    assert "cret" not in str(refused.value)


@given(
    st.sampled_from(["cluster", "user", "context"]),
    st.sampled_from(
        [
            "server",
            "tls-server-name",
            "insecure-skip-tls-verify",
            "certificate-authority-data",
            "client-certificate-data",
            "client-key-data",
            "token",
            "exec",
            "username",
            "as",
            "as-groups",
            "as-user-extra",
            "proxy-url",
            "cluster",
            "user",
            "namespace",
        ]
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
)
def test_whatever_stands_in_it_it_is_refused_or_of_the_types_that_it_says(where: str, name: str, value: object) -> None:
    try:
        read = Kubeconfig.parse(changed(where, name, value))
    except ConfigError:
        return
    assert [type(each) for each in (read.server, read.token, read.namespace, read.tls_server_name)] == [str] * 4
    Transport(read)._head("GET", "/version", None, read.token, None, "")


async def test_a_token_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="no text"):
        await TokenSource(Kubeconfig("https://h", token_file=tmp_path / "token")).token()


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password() -> None:
    pair = SmallCA.make("authority").issue("us", purposes=["client"])
    key = serialization.load_pem_private_key(pair.key, password=None)
    locked = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"sesame")
    )
    # On a terminal of its own OpenSSL would ask, and wait for ever.
    script = (
        "import sys; from dpf.runtime.credentials import ssl_context; from dpf.runtime.kubeconfig import Kubeconfig\n"
        "cert, key = sys.stdin.buffer.read().split(b'|')\n"
        "ssl_context(Kubeconfig('https://h', cert=cert, key=key))"
    )
    master, slave = os.openpty()
    try:
        ended = subprocess.run(
            [sys.executable, "-c", f"import fcntl, termios; fcntl.ioctl({slave}, termios.TIOCSCTTY, 0)\n{script}"],
            input=pair.cert + b"|" + locked,
            pass_fds=[slave],
            start_new_session=True,
            capture_output=True,
            timeout=60,
        )
    finally:
        os.close(master)
        os.close(slave)
    assert b"ConfigError: the certificates for https://h cannot be used" in ended.stderr


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match="cannot read kubeconfig /nowhere"):
        Kubeconfig.load("/nowhere")
