"""Where a cluster is and how to authenticate: kubeconfig files and the credentials a pod is given.

All of it that counts is used, or refused: a request must not go out as somebody else, or another way, than kubectl's would.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeGuard, TypeVar
from urllib.parse import quote, urlsplit

import orjson
import yaml

from dpf.runtime.errors import ConfigError
from dpf.runtime.execplugin import ExecPlugin

T = TypeVar("T")

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_ELSEWHERE = ("certificate-authority", "client-certificate", "client-key", "tokenFile", "exec", "auth-provider")
"""What a kubeconfig may leave to files and commands."""
_FOR_PLUGINS = "client.authentication.k8s.io/exec"
"""The extension of a cluster that is passed on to plugins."""
_IN_HEADER_NAMES = "!#$&'*+-.^_`|~"
"""Beside letters and digits; client-go escapes the rest."""
_HOST = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


@dataclass(frozen=True)
class Kubeconfig:
    """Address and credentials of one cluster. Secret parts are left out of ``repr``."""

    server: str
    ca: bytes = field(default=b"", repr=False)
    """PEM bundle that signs the server's certificate; empty means the system's."""
    cert: bytes = field(default=b"", repr=False)
    key: bytes = field(default=b"", repr=False)
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    """Read again as it rotates."""
    namespace: str = "default"
    tls_server_name: str = ""
    """Name that the server's certificate is to have, if that is not the host of ``server``."""
    insecure: bool = False
    exec: ExecPlugin | None = None
    auth_provider: Mapping[str, Any] | None = field(default=None, repr=False)
    """A kubeconfig of no more than the user, where that is an auth provider: kubernetes-asyncio reads it."""
    impersonation: tuple[tuple[str, str], ...] = ()
    """Headers that ask to act as somebody else."""

    @classmethod
    def load(cls, path: Path | str | None = None) -> Kubeconfig:
        """From a file: the given one, else ``$KUBECONFIG``, else in-cluster credentials, else ``~/.kube/config``.

        :raises ConfigError: if there is none, or it can't be used; the message says what to do.
        """
        chosen = path or os.environ.get("KUBECONFIG", "").split(":")[0]
        if chosen:
            return cls._read(Path(chosen))
        if os.environ.get("KUBERNETES_SERVICE_HOST"):
            return cls.in_cluster()
        home = Path.home() / ".kube" / "config"
        if home.is_file():
            return cls._read(home)
        raise ConfigError("no cluster to talk to: give --kubeconfig FILE, or set KUBECONFIG, or run inside a cluster")

    @classmethod
    def _read(cls, path: Path) -> Kubeconfig:
        try:
            text = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read kubeconfig {path}: {error.strerror}") from error
        return cls.parse(text, base=path.parent, source=str(path))

    @classmethod
    def parse(cls, text: str | bytes, *, base: Path | None = None, source: str = "kubeconfig") -> Kubeconfig:
        """From the text of a kubeconfig: its current context.

        :param base: the folder of the file it was read from, which file names in it are relative to. Without one, whoever
            wrote it need not be who runs this process: it must not name files or commands of this machine.
        :raises ConfigError: naming ``source`` and what is wrong with it.
        """
        config = _loaded(text, source)
        context = _context(config, source)
        cluster = _named(config, "clusters", "cluster", context.get("cluster"), source)
        user = _named(config, "users", "user", context.get("user"), source)
        if base is None and (named := [name for name in _ELSEWHERE if cluster.get(name) or user.get(name)]):
            raise ConfigError(f"{source}: {', '.join(named)} would be of this machine; embed what is needed")
        if cluster.get("proxy-url"):
            raise ConfigError(f"{source}: proxy-url is not supported: API servers are reached directly; take it out")
        if user.get("username") or user.get("password"):
            raise ConfigError(
                f"{source}: username and password are not supported; give a token or a client certificate"
            )
        if user.get("exec") and user.get("auth-provider"):
            raise ConfigError(f"{source}: a user has either exec or auth-provider")
        token_file = _text(user, "tokenFile", source)
        server = _server(cluster, context.get("cluster"), source)
        ca = _data(cluster, "certificate-authority", base, source)
        cert, key = (_data(user, name, base, source) for name in ("client-certificate", "client-key"))
        token = _token(user, source)
        # As for kubectl, nobody is asked for what is given already.
        has_token = bool(token or token_file)
        plugin, provider = _exec(user, cluster, ca, base, source), _auth_provider(user, source)
        return cls(
            server=server,
            ca=ca,
            cert=cert,
            key=key,
            token=token,
            token_file=_resolve(token_file, base) if token_file else None,
            namespace=_text(context, "namespace", source) or "default",
            tls_server_name=_server_name(server, cluster, source),
            insecure=_flag(cluster, "insecure-skip-tls-verify", source),
            exec=None if has_token or (cert and key) else plugin,
            auth_provider=None if has_token else provider,
            impersonation=_impersonation(user, source),
        )

    @classmethod
    def in_cluster(cls) -> Kubeconfig:
        """From the ServiceAccount that a pod has mounted.

        :raises ConfigError: if it is not there.
        """
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        try:
            ca = (SERVICE_ACCOUNT / "ca.crt").read_bytes()
            namespace = (SERVICE_ACCOUNT / "namespace").read_text().strip()
        except OSError as error:
            raise ConfigError(f"this pod has no ServiceAccount token mounted: {error}") from error
        address = f"[{host}]" if ":" in host else host
        return cls(
            server=f"https://{address}:{port}",
            ca=ca,
            token_file=SERVICE_ACCOUNT / "token",
            namespace=namespace,
            tls_server_name=_undotted(host),
        )


# Whoever wrote it may have written anything: whatever is used is looked at here, so that nothing fails on it later.


def _loaded(text: str | bytes, source: str) -> dict[str, Any]:
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        # What it quotes may be a password that begins like an alias or a tag.
        problem = str(getattr(error, "problem", None) or "unreadable").split(" '")[0]
        raise ConfigError(f"{source} is not YAML: {problem}") from None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        # What PyYAML raises for a scalar that only looks like a date or number, a wrong tag, or brackets without end.
        raise ConfigError(f"{source} is not YAML: it has a value that cannot be read") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{source} is not a kubeconfig: it must be a mapping with clusters, users and contexts")
    return config


def _context(config: dict[str, Any], source: str) -> dict[str, Any]:
    contexts = _entries(config, "contexts", source)
    if current := _text(config, "current-context", source) or (contexts[0].get("name") if len(contexts) == 1 else ""):
        return _named(config, "contexts", "context", current, source)
    # A kubeconfig made by hand may lack contexts; with one cluster and one user there is nothing to choose.
    clusters, users = _entries(config, "clusters", source), _entries(config, "users", source)
    if len(clusters) == 1 and len(users) == 1:
        return {"cluster": clusters[0].get("name"), "user": users[0].get("name")}
    raise ConfigError(f"{source} has no current-context: set one with `kubectl config use-context NAME`")


def _entries(config: dict[str, Any], plural: str, source: str) -> list[dict[str, Any]]:
    entries = config.get(plural) or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{source}: {plural} must be a list of mappings, each with a name")
    return entries


def _named(config: dict[str, Any], plural: str, singular: str, name: object, source: str) -> dict[str, Any]:
    if not isinstance(name, str):
        raise ConfigError(f"{source}: the name of its {singular} is missing or no text: put it in quotes")
    for entry in _entries(config, plural, source):
        if entry.get("name") == name:
            found = entry.get(singular) or {}
            if not isinstance(found, dict):
                raise ConfigError(f"{source}: {singular} {name!r} must be a mapping")
            return found
    raise ConfigError(f"{source}: there is no {singular} {name!r} among its {plural}")


def _text(entry: dict[str, Any], name: str, source: str) -> str:
    """A value that must be text of one line; empty if there is none. It may be secret, so no message has it."""
    value = entry.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ConfigError(f"{source}: {name} must be text: put it in quotes")
    if not value.isprintable():
        raise ConfigError(f"{source}: {name} must be text of one line")
    return value


def _mapping(entry: dict[str, Any], name: str, source: str) -> dict[str, Any]:
    value = entry.get(name) or {}
    if not isinstance(value, dict):
        raise ConfigError(f"{source}: {name} must be a mapping")
    return value


def _list(entry: dict[str, Any], name: str, kind: type[T], source: str) -> list[T]:
    value = entry.get(name) or []
    if not isinstance(value, list) or not all(isinstance(each, kind) for each in value):
        raise ConfigError(f"{source}: {name} must be a list of {'mappings' if kind is dict else 'texts'}")
    return value


def _flag(entry: dict[str, Any], name: str, source: str) -> bool:
    value = entry.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise ConfigError(f"{source}: {name} must be true or false, without quotes")


def _token(user: dict[str, Any], source: str) -> str:
    token = _text(user, "token", source)
    if token and not (token.isascii() and " " not in token):
        raise ConfigError(f"{source}: token has characters that no token has")
    return token


def _server(cluster: dict[str, Any], name: object, source: str) -> str:
    server = cluster.get("server")
    if not _is_url(server):
        raise ConfigError(f"{source}: cluster {name!r} has no server, such as https://HOST:6443")
    if "@" in urlsplit(server).netloc:
        raise ConfigError(f"{source}: server must not name a user or password: put credentials under users")
    return server.rstrip("/")


def _is_url(server: object) -> TypeGuard[str]:
    if not isinstance(server, str) or not server.isascii() or not server.isprintable() or " " in server:
        return False
    try:
        url = urlsplit(server)
        return url.scheme in {"http", "https"} and _is_host(url.hostname or "") and url.port != 0
    except ValueError:
        return False


def _server_name(server: str, cluster: dict[str, Any], source: str) -> str:
    name = _text(cluster, "tls-server-name", source)
    if name and not _is_host(name):
        raise ConfigError(f"{source}: tls-server-name must be a host name or IP address, such as kubernetes.default")
    return name.rstrip(".") or _undotted(urlsplit(server).hostname or "")


def _undotted(host: str) -> str:
    """What to verify for a host whose name ends with a dot, as no certificate has it; empty for another one."""
    return host.rstrip(".") if host.endswith(".") else ""


def _exec(
    user: dict[str, Any], cluster: dict[str, Any], ca: bytes, base: Path | None, source: str
) -> ExecPlugin | None:
    given = _mapping(user, "exec", source)
    if not given:
        return None
    command, version = _text(given, "command", source), _text(given, "apiVersion", source)
    if not command or not version:
        raise ConfigError(f"{source}: exec must have a command and an apiVersion")
    env = _list(given, "env", dict, source)
    return ExecPlugin(
        command=str(_resolve(command, base).absolute()) if "/" in command else command,
        api_version=version,
        args=tuple(_list(given, "args", str, source)),
        env={_text(each, "name", source): _text(each, "value", source) for each in env},
        may_ask=_text(given, "interactiveMode", source) != "Never",
        cluster=_told(cluster, ca, source) if _flag(given, "provideClusterInfo", source) else b"",
    )


def _told(cluster: dict[str, Any], ca: bytes, source: str) -> bytes:
    """The JSON by which a plugin is told of the cluster: how to reach it, and what the cluster's entry has for plugins."""
    told: dict[str, Any] = {"server": cluster["server"]}
    if name := _text(cluster, "tls-server-name", source):
        told["tls-server-name"] = name
    if _flag(cluster, "insecure-skip-tls-verify", source):
        told["insecure-skip-tls-verify"] = True
    if ca:
        told["certificate-authority-data"] = base64.b64encode(ca).decode()
    for each in _entries(cluster, "extensions", source):
        if each.get("name") == _FOR_PLUGINS:
            told["config"] = each.get("extension")
    try:
        return orjson.dumps(told, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        raise ConfigError(f"{source}: the extension {_FOR_PLUGINS} has a value that JSON has not") from None


def _auth_provider(user: dict[str, Any], source: str) -> dict[str, Any] | None:
    if not _mapping(user, "auth-provider", source):
        return None
    return {
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "clusters": [{"name": "it", "cluster": {"server": ""}}],
        "users": [{"name": "it", "user": {"auth-provider": user["auth-provider"]}}],
    }


def _impersonation(user: dict[str, Any], source: str) -> tuple[tuple[str, str], ...]:
    """The headers that client-go sends for ``as`` and what belongs to it."""
    name, uid, extra = _text(user, "as", source), _text(user, "as-uid", source), _mapping(user, "as-user-extra", source)
    if not all(isinstance(key, str) and key.isprintable() and key for key in extra):
        raise ConfigError(f"{source}: as-user-extra must have names that are text")
    found = [("Impersonate-Uid", uid)] if uid else []
    found += [("Impersonate-Group", group) for group in _list(user, "as-groups", str, source)]
    for key in extra:
        header = f"Impersonate-Extra-{quote(key, safe=_IN_HEADER_NAMES)}"
        found += [(header, value) for value in _list(extra, key, str, source)]
    if not name and found:
        raise ConfigError(f"{source}: as-uid, as-groups and as-user-extra need as, the name of a user")
    found = [("Impersonate-User", name), *found] if name else []
    for header, value in found:
        # Blanks at the ends are lost on the way, and would make it somebody else.
        if not value or value != value.strip() or not (value.isascii() and value.isprintable()):
            raise ConfigError(f"{source}: the value for {header} is empty, or has characters that a header cannot have")
    return tuple(found)


def _is_host(name: str) -> bool:
    """Whether the resolver and TLS can take it for a host: labels of 1 to 63 characters, or an address."""
    if _HOST.fullmatch(name) and len(name) <= 253:
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _resolve(name: str, base: Path | None) -> Path:
    path = Path(name).expanduser()
    return path if path.is_absolute() or base is None else base / path


def _data(entry: dict[str, Any], name: str, base: Path | None, source: str) -> bytes:
    """A PEM that is either embedded in base64 (``NAME-data``) or in a file (``NAME``)."""
    if data := entry.get(f"{name}-data"):
        try:
            # As in Go it may be of several lines, as `base64` writes it; whatever else is not of it is a mistake.
            return base64.b64decode(re.sub("[\r\n]", "", data), validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise ConfigError(f"{source}: {name}-data is not base64") from None
    if file := _text(entry, name, source):
        path = _resolve(file, base)
        try:
            return path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{source}: cannot read {name} {path}: {error.strerror}") from error
    return b""
