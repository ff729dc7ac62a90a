"""What a card does with its cloud-init user-data: write files, run commands, and remember what to do at the next boot.

cloud-init only *enables* the unit that joins the cluster; systemd starts it at the boot after. So what is read here is a
:class:`Configuration`, kept by the card until then. A ``reboot`` in ``restart.sh`` makes that next boot follow at once.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from dpf.sandbox.fleet.bfcfg import BadBfCfg, user_data

SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The C one where PyYAML has it: ten times as fast, and a fleet reads hundreds of these documents."""

JOIN_SCRIPT = "/opt/dpf/join_k8s_cluster.sh"
RESTART_SCRIPT = "/opt/dpf/restart.sh"
JOIN_UNIT = "kubeadm-join.service"

_JOIN = re.compile(r"\bkubeadm\s+join\s(?P<arguments>[^;|&]*)")
_SECRET = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")


@dataclass(frozen=True)
class JoinCommand:
    """A ``kubeadm join`` as it stands in the join script. The token is left out of ``repr`` by :meth:`__repr__`."""

    endpoint: str
    """``HOST:PORT`` of the API server."""
    token: str
    ca_hashes: tuple[str, ...]
    """Accepted pins of the CA: ``sha256:`` and the hex digest of its public key info."""

    def __repr__(self) -> str:
        return f"JoinCommand(endpoint={self.endpoint!r}, token={self.token_id!r}.…)"

    @property
    def token_id(self) -> str:
        return self.token.partition(".")[0]

    @property
    def token_secret(self) -> str:
        return self.token.partition(".")[2]


@dataclass(frozen=True)
class Configuration:
    """What a card's first boot leaves behind on its disk."""

    hostname: str
    join: JoinCommand | None
    """What the join unit will run, if it was enabled."""
    reboots: bool
    """Whether the configuration ends in a reboot of the card."""


def read(bf_cfg: str) -> Configuration:
    """What a card that boots with this bf.cfg ends up with.

    :raises BadBfCfg: if the user-data is missing, is not a cloud-config, or sets no hostname.
    """
    text = user_data(bf_cfg)
    if not text.startswith("#cloud-config"):
        raise BadBfCfg("user-data does not start with #cloud-config, so cloud-init ignores it")
    try:
        document = yaml.load(text, Loader=SAFE_LOADER)  # noqa: S506  (it is a safe loader)
    except yaml.YAMLError as error:
        raise BadBfCfg(f"user-data is not YAML: {getattr(error, 'problem', None) or 'unreadable'}") from None
    if not isinstance(document, dict):
        raise BadBfCfg("user-data is not a mapping")
    files = _files(document.get("write_files") or [])
    commands = [_words(command) for command in document.get("runcmd") or []]
    joins = any(JOIN_UNIT in words and "enable" in words for words in commands)
    return Configuration(
        hostname=_hostname(commands),
        join=join_command(files.get(JOIN_SCRIPT, "")) if joins else None,
        reboots=_reboots(commands, files),
    )


def join_command(script: str) -> JoinCommand:
    """The ``kubeadm join`` line of a script.

    :raises BadBfCfg: if there is none, or it lacks the endpoint, a well-formed token or a pin.
    """
    found = next(filter(None, (_JOIN.search(line) for line in _joined(script))), None)
    if found is None:
        raise BadBfCfg(f"{JOIN_SCRIPT} has no `kubeadm join`")
    words = _words(found["arguments"])
    endpoint, token, pins = "", "", []
    rest = iter(word for given in words for word in (given.split("=", 1) if given.startswith("--") else [given]))
    for word in rest:
        match word:
            case "--token":
                token = next(rest, "")
            case "--discovery-token-ca-cert-hash":
                pins.append(next(rest, ""))
            case _ if not word.startswith("-") and ":" in word and not endpoint:
                endpoint = word
    if not endpoint or not _SECRET.fullmatch(token) or not pins or not all(pin.startswith("sha256:") for pin in pins):
        raise BadBfCfg("`kubeadm join` needs HOST:PORT, --token ID.SECRET and --discovery-token-ca-cert-hash sha256:…")
    return JoinCommand(endpoint, token, tuple(pins))


def _files(entries: Iterable[Any]) -> dict[str, str]:
    files: dict[str, str] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
            raise BadBfCfg("a write_files entry has no path")
        content = str(entry.get("content") or "")
        files[entry["path"]] = files.get(entry["path"], "") + content if entry.get("append") else content
    return files


def _hostname(commands: list[list[str]]) -> str:
    for words in commands:
        if "set-hostname" in words and (place := words.index("set-hostname") + 1) < len(words):
            return words[place]
    raise BadBfCfg("runcmd sets no hostname")


def _reboots(commands: list[list[str]], files: dict[str, str]) -> bool:
    runs = any(RESTART_SCRIPT in words for words in commands)
    return runs and any(
        line.split("#")[0].strip().endswith("reboot") for line in files.get(RESTART_SCRIPT, "").splitlines()
    )


def _joined(script: str) -> list[str]:
    """The lines of a script, with those that a backslash continues put together and comments left out."""
    return [line for line in script.replace("\\\n", " ").splitlines() if not line.lstrip().startswith("#")]


def _words(command: Any) -> list[str]:
    """The words of a runcmd entry: a list of them, or a line for the shell."""
    if isinstance(command, list):
        return [str(word) for word in command]
    try:
        return shlex.split(str(command), comments=True)
    except ValueError:
        return str(command).split()
