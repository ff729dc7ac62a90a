"""What proves to an API server who we are, and how it is renewed.

A client certificate is loaded into the TLS context from memory. A token may rotate: a token file is read again when it is
older than a minute or after a 401; an exec plugin is asked again when its token ends, if it says when, or after a 401. An auth
provider is left to kubernetes-asyncio, which is imported only then: it costs more memory than a whole manager.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path
from time import monotonic
from typing import Any

from dpf.runtime.errors import ConfigError
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import now

TOKEN_FILE_AGE = 60.0
"""Seconds after which a token file is read again; the kubelet refreshes a projected token long before it ends."""
PROVIDER_TIMEOUT = 30.0
PROVIDER_TOKEN_AGE = 60.0
"""Seconds after which an auth provider is asked again; it keeps a token that holds still."""


def ssl_context(kubeconfig: Kubeconfig) -> ssl.SSLContext | None:
    """A client context that trusts the cluster's CA and shows its certificate; None for plain HTTP.

    :raises ConfigError: if a certificate or key cannot be used.
    """
    if not kubeconfig.server.startswith("https://"):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # As in Go, what is given is trusted as it is: an intermediate authority or the server's own certificate too.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if kubeconfig.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        if kubeconfig.ca:
            # Between certificates stands what people write, in any letters; it means nothing.
            context.load_verify_locations(cadata=kubeconfig.ca.decode("ascii", errors="ignore"))
        elif not kubeconfig.insecure:
            context.load_default_certs()
        if kubeconfig.cert:
            _load_pair(context, kubeconfig.cert + b"\n" + kubeconfig.key)
    except (ssl.SSLError, ValueError) as error:
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
        self._until = float("-inf")
        """When it is to be read again, by the monotonic clock."""
        self._asking: asyncio.Task[None] | None = None

    @property
    def rotates(self) -> bool:
        """Whether asking again may give another token."""
        config = self._kubeconfig
        return config.token_file is not None or config.exec is not None or config.auth_provider is not None

    async def token(self, *, fresh: bool = False) -> str:
        """The token, or an empty string. ``fresh`` reads it again even if it is young (after a 401).

        :raises ConfigError: if the token file or the plugin fails.
        """
        if not self.rotates or (not fresh and monotonic() < self._until):
            return self._token
        if self._kubeconfig.token_file is not None:
            self._token = _read_token(self._kubeconfig.token_file)
            self._until = monotonic() + TOKEN_FILE_AGE
            return self._token
        # One question for all who wait for its answer; it stands though one of them gives up.
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
            self._asking.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._asking)
        return self._token

    async def _ask(self) -> None:
        if self._kubeconfig.exec is not None:
            token, ends = await self._kubeconfig.exec.token()
            left = (ends - now()).total_seconds() if ends is not None else float("inf")
        else:
            token, left = await _ask_provider(dict(self._kubeconfig.auth_provider or {})), PROVIDER_TOKEN_AGE
        self._token, self._until = token, monotonic() + left


async def _ask_provider(config: dict[str, Any]) -> str:
    from kubernetes_asyncio.client import Configuration
    from kubernetes_asyncio.config.kube_config import KubeConfigLoader

    configuration = Configuration()
    try:
        async with asyncio.timeout(PROVIDER_TIMEOUT):
            await KubeConfigLoader(config_dict=config).load_and_set(configuration)
    except Exception as error:  # noqa: BLE001  (kubernetes-asyncio raises whatever its providers do; what they say may be secret)
        raise ConfigError(f"the kubeconfig's auth-provider failed: {type(error).__name__}") from None
    token = str(configuration.api_key.get("BearerToken", "")).removeprefix("Bearer ").strip()
    if not token:
        raise ConfigError("the kubeconfig's auth-provider gave no token; only gcp and oidc are supported")
    return token


def _read_token(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ConfigError(f"cannot read the token file {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"cannot read the token file {path}: what is in it is no text") from None
