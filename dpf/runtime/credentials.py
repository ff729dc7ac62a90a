"""What proves to an API server who we are, and how it is renewed.

A client certificate is loaded into the TLS context from memory. A token may rotate: a token file is read again when it is
older than a minute or after a 401; an exec plugin or auth provider is asked again by kubernetes-asyncio.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from time import monotonic

from dpf.runtime.errors import ConfigError
from dpf.runtime.kubeconfig import Kubeconfig

TOKEN_FILE_AGE = 60.0
"""Seconds after which a token file is read again; the kubelet refreshes a projected token long before it ends."""


def ssl_context(kubeconfig: Kubeconfig) -> ssl.SSLContext | None:
    """A client context that trusts the cluster's CA and shows its certificate; None for plain HTTP.

    :raises ConfigError: if a certificate or key cannot be used.
    """
    if not kubeconfig.server.startswith("https://"):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if kubeconfig.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        if kubeconfig.ca:
            context.load_verify_locations(cadata=kubeconfig.ca.decode("ascii"))
        elif not kubeconfig.insecure:
            context.load_default_certs()
        if kubeconfig.cert:
            _load_pair(context, kubeconfig.cert + b"\n" + kubeconfig.key)
    except (ssl.SSLError, UnicodeDecodeError) as error:
        raise ConfigError(f"the certificates for {kubeconfig.server} cannot be used: {error}") from error
    return context


def _load_pair(context: ssl.SSLContext, pem: bytes) -> None:
    """The ssl module reads certificates from files only; a memory file never reaches a disk."""
    descriptor = os.memfd_create("client-pair", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pem)
        # With a password of nobody's: for an encrypted key OpenSSL would ask at the terminal, and the loop would wait.
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")
    finally:
        os.close(descriptor)


class TokenSource:
    """The bearer token to send now, if any."""

    def __init__(self, kubeconfig: Kubeconfig) -> None:
        self._kubeconfig = kubeconfig
        self._token = kubeconfig.token
        self._read_at = float("-inf")

    @property
    def rotates(self) -> bool:
        """Whether asking again may give another token."""
        return self._kubeconfig.token_file is not None or self._kubeconfig.plugin is not None

    async def token(self, *, fresh: bool = False) -> str:
        """The token, or an empty string. ``fresh`` reads it again even if it is young (after a 401).

        :raises ConfigError: if the token file or the plugin fails.
        """
        if not self.rotates or (not fresh and monotonic() - self._read_at < TOKEN_FILE_AGE):
            return self._token
        if self._kubeconfig.token_file is not None:
            self._token = _read_token(self._kubeconfig.token_file)
        else:
            self._token = await self._ask_plugin()
        self._read_at = monotonic()
        return self._token

    def _command(self) -> str:
        """The plugin's program, for a message; its output may be secret."""
        users = (self._kubeconfig.plugin or {}).get("users") or []
        commands = {((each.get("user") or {}).get("exec") or {}).get("command") for each in users}
        return "".join(f" {command}" for command in sorted(filter(None, commands)))

    async def _ask_plugin(self) -> str:
        from kubernetes_asyncio.client import Configuration
        from kubernetes_asyncio.config.kube_config import KubeConfigLoader

        configuration = Configuration()
        try:
            await KubeConfigLoader(config_dict=dict(self._kubeconfig.plugin or {})).load_and_set(configuration)
        except Exception as error:
            # kubernetes-asyncio raises whatever its plugins do; a manager must say so and go on trying.
            raise ConfigError(
                f"the kubeconfig's credential plugin{self._command()} failed: {type(error).__name__}"
            ) from error
        return str(configuration.api_key.get("BearerToken", "")).removeprefix("Bearer ").strip()


def _read_token(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ConfigError(f"cannot read the token file {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"cannot read the token file {path}: what is in it is no text") from None
