"""The script that sets the mirror of nvcr.io, run by a real shell on real config.toml texts; what it leaves is parsed as TOML."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpf.provisioning.bfcfg.containerd import containerd
from dpf_api.dpuflavor import DPUFlavorSpec

MIRROR = "https://mirror.example:5000/v2"
FOLDER = "/etc/containerd/certs.d"
V1, V2, V3 = "cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images"

DEFAULT_2 = """\
disabled_plugins = []
imports = []
oom_score = 0
plugin_dir = ""
required_plugins = []
root = "/var/lib/containerd"
state = "/run/containerd"
temp = ""
version = 2

[cgroup]
  path = ""

[grpc]
  address = "/run/containerd/containerd.sock"
  gid = 0

[plugins]

  [plugins."io.containerd.gc.v1.scheduler"]
    deletion_threshold = 0
    startup_delay = "100ms"

  [plugins."io.containerd.grpc.v1.cri"]
    cdi_spec_dirs = ["/etc/cdi", "/var/run/cdi"]
    sandbox_image = "registry.k8s.io/pause:3.8"

    [plugins."io.containerd.grpc.v1.cri".containerd]
      default_runtime_name = "runc"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false

    [plugins."io.containerd.grpc.v1.cri".image_decryption]
      key_model = "node"

    [plugins."io.containerd.grpc.v1.cri".registry]
      config_path = ""

      [plugins."io.containerd.grpc.v1.cri".registry.auths]

      [plugins."io.containerd.grpc.v1.cri".registry.configs]

      [plugins."io.containerd.grpc.v1.cri".registry.headers]

      [plugins."io.containerd.grpc.v1.cri".registry.mirrors]

    [plugins."io.containerd.grpc.v1.cri".x509_key_pair_streaming]
      tls_cert_file = ""

  [plugins."io.containerd.transfer.v1.local"]
    config_path = ""
    max_concurrent_downloads = 3

[timeouts]
  "io.containerd.timeout.shim.cleanup" = "5s"

[ttrpc]
  address = ""
"""
"""What `containerd config default` of 1.7 prints, with the plugins left out that have nothing of note."""

DEFAULT_3 = """\
version = 3
root = '/var/lib/containerd'
imports = []

[grpc]
  address = '/run/containerd/containerd.sock'

[plugins]
  [plugins.'io.containerd.cri.v1.images']
    snapshotter = 'overlayfs'

    [plugins.'io.containerd.cri.v1.images'.pinned_images]
      sandbox = 'registry.k8s.io/pause:3.10'

    [plugins.'io.containerd.cri.v1.images'.registry]
      config_path = ''

    [plugins.'io.containerd.cri.v1.images'.image_decryption]
      key_model = 'node'

  [plugins.'io.containerd.transfer.v1.local']
    config_path = ''
"""
"""The same of 2.0."""

MIRRORS = """\
version = 2
[plugins."io.containerd.grpc.v1.cri".registry]
  [plugins."io.containerd.grpc.v1.cri".registry.mirrors]
    [plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]
      endpoint = ["https://hub.example"]
"""
OF_NVCR = """\
    [plugins."io.containerd.grpc.v1.cri".registry.mirrors."nvcr.io"] # ours
      endpoint = [
        "https://old.example", # a [bracket
        "https://older.example",
      ]
      rest = 1
"""
TLS = """\
version = 2
[plugins."io.containerd.grpc.v1.cri".registry.configs."old.example".tls]
  insecure_skip_verify = true
"""
AUTH = TLS.replace("tls", "auth").replace("insecure_skip_verify = true", 'username = "u"')
BARE = """\
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "pause"
[plugins."io.containerd.grpc.v1.cri".registry]
[debug]
  level = "info"
"""


class Card:
    """A folder in place of the card's /etc, and a PATH in which there may be a containerd."""

    def __init__(self, root: Path, config: str | None) -> None:
        self.root = root
        self.config = root / "containerd" / "config.toml"
        self.config.parent.mkdir()
        if config is not None:
            self.config.write_bytes(config.encode())

    def run(self, endpoint: str = MIRROR) -> subprocess.CompletedProcess[str]:
        script = containerd(endpoint).replace("/etc/containerd", f"{self.root}/containerd")
        path = f"{self.root}/bin:/usr/bin:/bin"
        command = ["/bin/bash", "-c", script]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, env={"PATH": path}, check=False)

    def sets(self, endpoint: str = MIRROR) -> None:
        done = self.run(endpoint)
        assert (done.returncode, done.stderr) == (0, "")

    def containerd(self, script: str) -> None:
        """Puts a containerd there whose `config dump` does this; $2 is the file it is asked about."""
        command = self.root / "bin" / "containerd"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\n[ "$1 $3 $4" = "--config config dump" ] || exit 9\n{script}\n')
        command.chmod(0o755)

    def text(self) -> str:
        return self.config.read_bytes().decode().replace(f"{self.root}/containerd", "/etc/containerd")

    def read(self) -> dict[str, Any]:
        return tomllib.loads(self.text())

    def registry(self, plugin: str) -> dict[str, Any]:
        found: dict[str, Any] = self.read()["plugins"][plugin]["registry"]
        return found

    def hosts(self, folder: str = "containerd/certs.d") -> dict[str, Any]:
        return tomllib.loads((self.root / folder / "nvcr.io" / "hosts.toml").read_text())

    def files(self) -> set[str]:
        return {str(path.relative_to(self.config.parent)) for path in self.config.parent.rglob("*") if path.is_file()}


def without(document: dict[str, Any], plugin: str) -> dict[str, Any]:
    """The document without the registry's config_path, which alone may differ."""
    document.get("plugins", {}).get(plugin, {}).get("registry", {}).pop("config_path", None)
    return document


@pytest.mark.parametrize(
    ("config", "plugin"),
    [
        (DEFAULT_2, V2),
        (DEFAULT_2.replace('      config_path = ""\n\n', ""), V2),
        (DEFAULT_2.replace("\n", "\r\n"), V2),
        (DEFAULT_2.replace('config_path = ""', "config_path = '' # none"), V2),
        (DEFAULT_3, V3),
        (DEFAULT_3.replace("      config_path = ''\n", ""), V3),
        (BARE, V2),
        (AUTH + '[plugins."io.containerd.grpc.v1.cri".registry]\n', V2),
        ("version = 1\n[plugins.cri.registry]\n", V1),
        ("[plugins]\n  [plugins.cri]\n    [plugins.cri.registry] # here", V1),
        ('version=2\n[ plugins . "io.containerd.grpc.v1.cri" . registry ]\n\tconfig_path=""', V2),
    ],
)
def test_the_drop_in_folder_is_set_within_the_table_that_is_there(tmp_path: Path, config: str, plugin: str) -> None:
    card = Card(tmp_path, config)
    card.sets()
    assert card.registry(plugin)["config_path"] == FOLDER
    assert without(card.read(), plugin) == without(tomllib.loads(config), plugin)
    assert card.hosts() == {"server": "https://nvcr.io", "host": {MIRROR: {"capabilities": ["pull", "resolve"]}}}
    assert card.files() == {"config.toml", "config.toml.before-dpf", "certs.d/nvcr.io/hosts.toml"}
    assert (card.config.parent / "config.toml.before-dpf").read_bytes() == config.encode()


@pytest.mark.parametrize(
    ("config", "plugin"),
    [
        ("version = 2\n", V2),
        ("version = 3", V3),
        (AUTH, V2),
        ('version = 2\n[plugins."io.containerd.grpc.v1.cri"]\n  x = [\n["a"], ["b"]\n]\n', V2),
        ('root = "/r"\n', V1),
        ("[plugins.'io.containerd.transfer.v1.local']\nconfig_path = '/x'\n", V1),
    ],
)
def test_the_table_is_added_where_there_is_none(tmp_path: Path, config: str, plugin: str) -> None:
    card = Card(tmp_path, config)
    card.sets()
    assert card.registry(plugin)["config_path"] == FOLDER
    assert card.text().startswith(config)


@pytest.mark.parametrize("config", ["", "\n", "# nothing\n\n", "# nothing"])
def test_an_empty_file_becomes_one_of_version_2(tmp_path: Path, config: str) -> None:
    card = Card(tmp_path, config)
    card.sets()
    assert card.read() == {"version": 2, "plugins": {V2: {"registry": {"config_path": FOLDER}}}}


def test_a_drop_in_folder_that_is_there_is_used_and_the_file_left(tmp_path: Path) -> None:
    before = DEFAULT_2.replace('      config_path = ""', f"      config_path = '{tmp_path}/own folder'")
    card = Card(tmp_path, before)
    card.sets()
    assert card.config.read_text() == before
    assert MIRROR in card.hosts("own folder")["host"]


def test_a_list_of_folders_becomes_one_for_containerd_2_which_reads_no_list(tmp_path: Path) -> None:
    listed = f"config_path = '{tmp_path}/one:{tmp_path}/two' # both"
    card = Card(tmp_path, DEFAULT_3.replace("config_path = ''", listed, 1))
    card.sets()
    assert card.registry(V3)["config_path"] == f"{tmp_path}/one"
    assert card.read()["plugins"]["io.containerd.transfer.v1.local"]["config_path"] == ""
    assert MIRROR in card.hosts("one")["host"]


def test_a_list_of_folders_is_left_to_containerd_1(tmp_path: Path) -> None:
    before = DEFAULT_2.replace('config_path = ""', f'config_path = "{tmp_path}/one:{tmp_path}/two"', 1)
    card = Card(tmp_path, before)
    card.sets()
    assert card.config.read_text() == before
    assert MIRROR in card.hosts("one")["host"]


@pytest.mark.parametrize(
    "config", [MIRRORS, TLS, MIRRORS + TLS.partition("\n")[2], DEFAULT_2 + "".join(MIRRORS.splitlines(True)[3:])]
)
def test_beside_mirrors_and_tls_of_the_file_no_drop_in_folder_is_set(tmp_path: Path, config: str) -> None:
    """containerd refuses the mixture, and would not start."""
    card = Card(tmp_path, config)
    card.sets()
    registry = card.registry(V2)
    assert not registry.get("config_path")
    assert registry["mirrors"].pop("nvcr.io") == {"endpoint": [MIRROR]}
    before = tomllib.loads(config)["plugins"][V2]["registry"]
    assert registry == {"mirrors": {}} | before
    assert card.files() == {"config.toml", "config.toml.before-dpf"}


def test_a_mirror_of_nvcr_that_is_there_is_replaced(tmp_path: Path) -> None:
    card = Card(tmp_path, MIRRORS + OF_NVCR)
    card.sets()
    assert card.registry(V2)["mirrors"]["nvcr.io"] == {"endpoint": [MIRROR], "rest": 1}
    assert card.registry(V2)["mirrors"]["docker.io"] == {"endpoint": ["https://hub.example"]}


def test_a_mirror_of_nvcr_without_an_endpoint_gets_one(tmp_path: Path) -> None:
    card = Card(tmp_path, MIRRORS + OF_NVCR.splitlines()[0])
    card.sets()
    assert card.registry(V2)["mirrors"]["nvcr.io"] == {"endpoint": [MIRROR]}


@pytest.mark.parametrize("config", [DEFAULT_2, DEFAULT_3, BARE, MIRRORS, MIRRORS + OF_NVCR, TLS, ""])
def test_a_second_run_changes_nothing_but_the_mirror(tmp_path: Path, config: str) -> None:
    card = Card(tmp_path, config)
    card.sets()
    first = card.config.read_text()
    card.sets()
    assert card.config.read_text() == first
    card.sets("https://other.example")
    assert card.config.read_text().replace("https://other.example", MIRROR) == first
    assert (card.config.parent / "config.toml.before-dpf").read_text() == config


CRI = '[plugins."io.containerd.grpc.v1.cri"]\n'


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (None, "is missing"),
        ("version = 9\n", "version 9 is not known"),
        ("version = 2\n{}\n", "line 2: neither a table nor a key"),
        ('version = 2\na = """\n[plugins]\n"""\n', "line 2: a text of several lines"),
        ("version = 2\na = 'x\n", "line 2: a quote that is not closed"),
        ("version = 2\na = [\n", "brackets that are not closed"),
        ("version = 2\n[a\n", "line 2: a table that can not be read"),
        ("version = 2\na\n", "line 2: a key without a value"),
        ('version = 2\n"a\\u0062" = 1\n', "line 2: a key that can not be read"),
        (f"version = 2\n{CRI}registry = {{}}\n", "line 3: the registry is not a table of its own"),
        (f"version = 2\n{CRI}registry.headers = {{}}\n", "line 3: the registry is not a table of its own"),
        ("version = 2\nplugins = {}\n", "line 2: the registry is not a table of its own"),
        (f'version = 2\n{CRI[:-2]}.registry]\nmirrors."a".endpoint = []\n', "line 3: mirrors that are not tables"),
        (f"version = 2\n{CRI[:-2]}.registry]\nmirrors = {{}}\n", "line 3: mirrors that are not tables"),
        (f"version = 2\n{CRI[:-2]}.registry]\nconfigs = {{}}\n", "line 3: configs that are not tables"),
        (f'version = 2\n{CRI[:-2]}.registry.mirrors]\n"nvcr.io" = {{}}\n', "line 3: mirrors that are not tables"),
        (f'version = 2\n{CRI[:-2]}.registry]\nconfig_path = "a"\n', "line 3: a config_path that is not absolute"),
        (f'version = 2\n{CRI[:-2]}.registry]\nconfig_path = ["a"]\n', "line 3: a config_path that can not be read"),
        (TLS + f'{CRI[:-2]}.registry]\nconfig_path = "/a"\n', "config_path beside mirrors or tls"),
    ],
)
def test_a_file_that_cannot_be_changed_safely_is_left_and_the_cards_log_says_why(
    tmp_path: Path, config: str | None, why: str
) -> None:
    card = Card(tmp_path, config)
    done = card.run()
    assert done.returncode == 1
    assert f"{card.config}: {why}" in done.stderr
    assert f'It is left as it is: images of nvcr.io are not pulled through "{MIRROR}"' in done.stderr
    assert done.stderr.count("\n") == 1
    assert card.files() == ({"config.toml"} if config is not None else set())
    assert config is None or card.config.read_bytes() == config.encode()


def test_a_file_that_the_cards_containerd_does_not_take_is_not_put_in_place(tmp_path: Path) -> None:
    card = Card(tmp_path, BARE)
    card.containerd("echo 'level=info' >&2; echo 'containerd: unknown thing' >&2; exit 1")
    done = card.run()
    assert done.returncode == 1
    assert "containerd does not take it with the mirror in it: containerd: unknown thing. It is left" in done.stderr
    assert card.text() == BARE
    assert card.files() == {"config.toml"}


def test_mirrors_in_a_file_that_is_imported_are_seen(tmp_path: Path) -> None:
    """containerd puts its files together before it looks at them."""
    card = Card(tmp_path, BARE)
    card.containerd(f"cat \"$2\"; echo '{MIRRORS.splitlines()[3].strip()}'")
    done = card.run()
    assert done.returncode == 1
    assert "with the files that it imports it has config_path beside mirrors or tls" in done.stderr
    assert card.text() == BARE


def test_a_file_that_the_cards_containerd_takes_is_put_in_place(tmp_path: Path) -> None:
    card = Card(tmp_path, BARE)
    card.containerd('cat "$2"')
    card.config.chmod(0o640)
    card.sets()
    assert card.registry(V2)["config_path"] == FOLDER
    assert card.config.stat().st_mode & 0o777 == 0o640


def test_a_link_to_the_file_stays_one(tmp_path: Path) -> None:
    card = Card(tmp_path, None)
    (tmp_path / "real.toml").write_text(BARE)
    card.config.symlink_to(tmp_path / "real.toml")
    card.sets()
    assert card.config.is_symlink()
    assert card.registry(V2)["config_path"] == FOLDER


ENDPOINT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=30
)


@settings(max_examples=25)
@given(ENDPOINT, st.sampled_from([BARE, MIRRORS]))
def test_an_endpoint_arrives_as_it_was_given(
    tmp_path_factory: pytest.TempPathFactory, endpoint: str, config: str
) -> None:
    flavor = DPUFlavorSpec.model_validate({"containerdConfig": {"registryEndpoint": endpoint}})
    card = Card(tmp_path_factory.mktemp("card"), config)
    card.sets(flavor.containerd_config.registry_endpoint)
    if config is BARE:
        assert set(card.hosts()["host"]) == {endpoint}
    else:
        assert card.registry(V2)["mirrors"]["nvcr.io"] == {"endpoint": [endpoint]}
