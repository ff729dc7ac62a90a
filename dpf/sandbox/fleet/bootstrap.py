"""TLS bootstrap of a card's kubelet, step for step as kubeadm and the kubelet do it.

cluster-info without authentication, checked by token and pin; then, as the token, a CertificateSigningRequest for
``system:node:<name>``; then the certificate, awaited by a watch. Sessions are shared by all cards that join the same cluster,
because a TLS handshake costs more than everything else here; what tells the cards apart is the token in each request.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any

import aiohttp
import orjson
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from dpf.runtime.wire import LineSplitter
from dpf.sandbox.fleet import clusterinfo
from dpf.sandbox.fleet.cloudinit import JoinCommand
from dpf.sandbox.fleet.clusterinfo import ClusterInfo, Untrusted

CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
SIGNER = "kubernetes.io/kube-apiserver-client-kubelet"
SIGNING_TIME = 60.0
"""Seconds that a certificate may take; the kubelet itself gives up after 15 minutes."""


class JoinFailed(Exception):
    """A step of joining did not succeed; the join script tries again."""


class Bootstrap:
    """Gets kubelet certificates. Use as an async context manager."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._anonymous: aiohttp.ClientSession | None = None
        self._trusted: dict[ClusterInfo, aiohttp.ClientSession] = {}

    async def __aenter__(self) -> Bootstrap:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def cluster_info(self, join: JoinCommand) -> ClusterInfo:
        """The trusted cluster-info of the cluster to join.

        :raises JoinFailed: if it can't be read, or is not to be trusted.
        """
        if self._anonymous is None:
            self._anonymous = await self._stack.enter_async_context(session(False))
        url = f"https://{join.endpoint}{clusterinfo.PATH}"
        async with answer(self._anonymous, "GET", url) as response:
            data = orjson.loads(await response.read()).get("data") or {}
        try:
            return clusterinfo.verify(data, join)
        except Untrusted as error:
            raise JoinFailed(str(error)) from error

    async def certificate(self, info: ClusterInfo, join: JoinCommand, node: str) -> bytes:
        """A client certificate for the node, signed by the cluster, and its key, as one PEM.

        :raises JoinFailed: if the request is refused, denied or not signed in time.
        """
        if info not in self._trusted:
            context = ssl.create_default_context(cadata=info.ca.decode())
            self._trusted[info] = await self._stack.enter_async_context(session(context))
        http, headers = self._trusted[info], {"Authorization": f"Bearer {join.token}"}
        key = ec.generate_private_key(ec.SECP256R1())
        body = orjson.dumps(signing_request(node, key))
        async with answer(http, "POST", f"{info.server}{CSRS}", data=body, headers=headers) as response:
            created = orjson.loads(await response.read())["metadata"]
        signed = await self._await_signature(http, info.server, headers, created["name"], created["resourceVersion"])
        return signed + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    async def _await_signature(
        self, http: aiohttp.ClientSession, server: str, headers: dict[str, str], name: str, version: str
    ) -> bytes:
        params = {"watch": "true", "fieldSelector": f"metadata.name={name}", "resourceVersion": version}
        params["timeoutSeconds"] = str(int(SIGNING_TIME))
        async with answer(http, "GET", f"{server}{CSRS}", headers=headers, params=params) as response:
            splitter = LineSplitter()
            async for chunk in response.content.iter_any():
                for line in splitter.feed(chunk):
                    status = orjson.loads(line)["object"].get("status") or {}
                    if certificate := status.get("certificate"):
                        return base64.b64decode(certificate)
                    for condition in status.get("conditions") or []:
                        if condition["type"] in ("Denied", "Failed"):
                            raise JoinFailed(f"certificate request {name}: {condition['type']}")
        raise JoinFailed(f"certificate request {name} was not signed within {SIGNING_TIME:.0f} s")


def signing_request(node: str, key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    """The CertificateSigningRequest of a node's kubelet."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{node}"),
        ]
    )
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "node-csr-"},
        "spec": {
            "request": base64.b64encode(csr.public_bytes(Encoding.PEM)).decode(),
            "signerName": SIGNER,
            "usages": ["digital signature", "client auth"],
        },
    }


def session(tls: ssl.SSLContext | bool, *, keep: float = 75.0) -> aiohttp.ClientSession:
    """An HTTP session of a card; idle connections are kept for ``keep`` seconds."""
    connector = aiohttp.TCPConnector(ssl=tls, limit=64, keepalive_timeout=keep)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "kubelet (simulated)", "Accept": "application/json"},
        timeout=aiohttp.ClientTimeout(total=SIGNING_TIME + 10, connect=10),
    )


@asynccontextmanager
async def answer(
    http: aiohttp.ClientSession, method: str, url: str, *, accept: tuple[int, ...] = (), **options: Any
) -> AsyncIterator[aiohttp.ClientResponse]:
    """A successful answer, or one whose status is in ``accept``.

    :raises JoinFailed: if there is none.
    """
    if "data" in options:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        options["headers"] = {"Content-Type": kind} | (options.get("headers") or {})
    try:
        async with http.request(method, url, **options) as response:
            if response.status >= 400 and response.status not in accept:
                text = (await response.text())[:300]
                raise JoinFailed(f"{method} {response.url.path}: {response.status} {text}")
            yield response
    except (aiohttp.ClientError, TimeoutError) as error:
        raise JoinFailed(f"{method} {url.partition('?')[0]}: {error or type(error).__name__}") from error
