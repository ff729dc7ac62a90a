"""Reading kubeconfigs, good and bad."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import yaml

from dpf.runtime.errors import ConfigError
from dpf.runtime.kubeconfig import Kubeconfig

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


def test_an_exec_plugin_is_kept_for_the_adapter() -> None:
    config = {**GOOD, "users": [{"name": "u", "user": {"exec": {"command": "get-token"}}}]}
    assert Kubeconfig.parse(yaml.safe_dump(config)).plugin is not None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "not YAML"),
        ("just text", "not a kubeconfig"),
        (yaml.safe_dump({**GOOD, "current-context": "other"}), "no context 'other'"),
        (yaml.safe_dump({**GOOD, "users": []}), "no user 'u'"),
        (yaml.safe_dump({**GOOD, "clusters": [{"name": "k", "cluster": {}}]}), "has no server"),
        (yaml.safe_dump({**GOOD, "users": [{"name": "u", "user": {"client-key-data": "%"}}]}), "not base64"),
        (
            yaml.safe_dump({**GOOD, "users": [{"name": "u", "user": {"client-key": "/nowhere"}}]}),
            "cannot read client-key",
        ),
    ],
)
def test_what_cannot_be_used_is_named(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Kubeconfig.parse(text)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match="cannot read kubeconfig /nowhere"):
        Kubeconfig.load("/nowhere")
