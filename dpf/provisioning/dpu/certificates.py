"""Certificates of DMS: who signs them, and where they lie.

By default this process has a small authority of its own per namespace, in a Secret that outlives it; with
``--certificates=cert-manager`` it leaves signing to cert-manager's issuer and only asks. Either way the server's key pair is
Secret ``<dpu>-server-secret`` beside the DPU, the client's is ``dpf-provisioning-client-secret``, and both name the same CA.

Servers' certificates are renewed for as long as there is a DMS pod. When each is due stands in its DPU's status, so that no
Secret is read to find out; DPUs that were provisioned together are renewed apart, each at its own moment within some days.

The Secret has the authority, and this process a copy of it for seconds. Where somebody deletes, restores or replaces it, what is
signed next is signed by what it holds then. Which authorities a DMS was told of stands in its DPU's status too, so that one that
knows only others is given another certificate.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

from dpf.provisioning.dpu import podparts
from dpf.provisioning.settings import CertificateSource
from dpf.runtime.certs import KeyPair, SmallCA, due, expires, fingerprints, renew_at, shared_ca
from dpf.runtime.client import Client
from dpf.runtime.errors import AlreadyExists, NotFound, Waiting
from dpf.runtime.k8s import Node, Secret
from dpf.runtime.meta import ObjectMeta, owner_reference, to_wire
from dpf_api import names
from dpf_api.certificate import Certificate, CertificateSpec, IssuerReference
from dpf_api.dpu import DPU, DMSCertificate

SERVER_LIFETIME = timedelta(days=30)
"""Half as long as a successor of the authority stands in the bundle before it signs, see :mod:`dpf.runtime.certs`."""
SPREAD = 0.1
"""Share of a certificate's life over which renewals are spread, before two thirds of it: three days."""

COPY = 30.0
"""Seconds for which an authority is used as it was read."""

COMMON_NAME = 64
"""Characters that X.509 allows; whom a certificate is for stands in its addresses."""
CLIENT_NAME = "dpf-provisioning-client"


class Certificates:
    """Gives DPUs' servers and this process's client their key pairs."""

    def __init__(self, client: Client, source: CertificateSource) -> None:
        self._client = client
        self._source = source
        self._authorities: dict[str, tuple[SmallCA, float]] = {}
        """By namespace, and when each was read."""
        self._clients: dict[str, KeyPair] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """By namespace: what is missing is made once, and nobody waits who has what he needs."""

    async def ensure_server(self, dpu: DPU, node: Node) -> DMSCertificate:
        """Gives the DPU's server a fresh certificate for the host's address, and tells what the status should keep of it.

        :raises Waiting: if the host has no address yet.
        """
        address = podparts.host_address(node)
        if not address:
            raise Waiting("NodeHasNoAddress", f"node {node.name} reports no address; waiting for its kubelet")
        if self._source == "cert-manager":
            certificate = _request(dpu, address)
            await self._store(certificate, {"spec": {"ipAddresses": [address]}}, dpu)
            return DMSCertificate(address=address)
        authority = await self._authority(dpu.namespace)
        pair = authority.issue(dpu.name, purposes=["server"], names=[address], lifetime=SERVER_LIFETIME)
        secret = Secret(
            metadata=_owned(dpu, names.dms_secret(dpu.name)), type="kubernetes.io/tls", data=pair.secret_data()
        )
        await self._store(secret, {"data": secret.data}, dpu)
        return DMSCertificate(
            address=address,
            expires_at=expires(pair.cert),
            renew_at=_turn(dpu, pair.cert),
            authorities=list(fingerprints(pair.ca)),
        )

    def authorities(self, namespace: str) -> Sequence[str]:
        """Fingerprints of those that this process trusts there, the one that signs first; empty if it has not had to know yet, or
        they are cert-manager's."""
        known = self._authorities.get(namespace)
        return fingerprints(known[0].bundle) if known is not None else ()

    async def _store(self, obj: Secret | Certificate, change: dict[str, Any], dpu: DPU) -> None:
        """Creates the object, or changes the one that is there; what is more likely is tried first."""
        owners = [to_wire(reference) for reference in obj.metadata.owner_references]
        patch = {**change, "metadata": {"ownerReferences": owners}}
        if dpu.status.certificate is not None:
            try:
                await self._client.merge_patch(obj, patch)
            except NotFound:
                pass
            else:
                return
        try:
            await self._client.create(obj)
        except AlreadyExists:
            await self._client.merge_patch(obj, patch)

    async def client_pair(self, namespace: str) -> KeyPair:
        """The pair that this process shows to servers of the namespace, with the CA that it trusts.

        :raises Waiting: if it comes from cert-manager and is not there yet.
        """
        if (pair := self._present(namespace)) is not None:
            return pair
        async with self._locks[namespace]:
            pair = self._present(namespace)
            if pair is None:
                pair = self._clients[namespace] = await self._read_client(namespace)
            return pair

    def _present(self, namespace: str) -> KeyPair | None:
        """The client's pair, if it is at hand and need not be made anew yet."""
        pair, known = self._clients.get(namespace), self._authorities.get(namespace)
        if pair is None or due(pair.cert) or (known is not None and pair.ca != known[0].bundle):
            return None
        return pair

    async def _read_client(self, namespace: str) -> KeyPair:
        secret: Secret | None
        try:
            secret = await self._client.get(Secret, names.CLIENT_SECRET, namespace)
        except NotFound:
            secret = None
        pair = KeyPair.from_secret(secret) if secret is not None else None
        if self._source == "cert-manager":
            if pair is None:
                message = f"Secret {namespace}/{names.CLIENT_SECRET} is missing; cert-manager should make it"
                raise Waiting("ClientCertificateMissing", message, retry_after=5.0)
            return pair
        authority = await self._unlocked_authority(namespace)
        if pair is not None and pair.ca == authority.bundle and not due(pair.cert):
            return pair
        pair = authority.issue(CLIENT_NAME, purposes=["client"])
        await self._store_client(namespace, secret, pair)
        return pair

    async def _store_client(self, namespace: str, secret: Secret | None, pair: KeyPair) -> None:
        meta = ObjectMeta(name=names.CLIENT_SECRET, namespace=namespace)
        data = pair.secret_data()
        try:
            if secret is None:
                await self._client.create(Secret(metadata=meta, type="kubernetes.io/tls", data=data))
            else:
                await self._client.merge_patch(secret, {"data": data})
        except AlreadyExists:
            # Another replica's is as good, and so is ours: both are signed by the authority that we share.
            return

    async def _authority(self, namespace: str) -> SmallCA:
        if (authority := self._copy(namespace)) is not None:
            return authority
        async with self._locks[namespace]:
            return await self._unlocked_authority(namespace)

    async def _unlocked_authority(self, namespace: str) -> SmallCA:
        if (authority := self._copy(namespace)) is None:
            authority = await shared_ca(self._client, names.CA_SECRET, namespace)
            self._authorities[namespace] = authority, monotonic()
        return authority

    def _copy(self, namespace: str) -> SmallCA | None:
        """The authority, if it was read just now and is not due."""
        authority, read = self._authorities.get(namespace, (None, 0.0))
        return authority if authority is not None and monotonic() - read < COPY and not authority.due else None


def _turn(dpu: DPU, cert: bytes) -> datetime:
    """When the DPU's certificate is renewed: at its own moment, which follows from its uid."""
    digest = hashlib.sha256(dpu.uid.encode()).digest()
    return renew_at(cert) - SERVER_LIFETIME * SPREAD * (int.from_bytes(digest[:4]) / 2**32)


def _request(dpu: DPU, address: str) -> Certificate:
    name = names.dms_certificate(dpu.name)
    spec = CertificateSpec(
        secret_name=names.dms_secret(dpu.name),
        issuer_ref=IssuerReference(name=names.CA_ISSUER, kind="Issuer"),
        common_name=name[:COMMON_NAME],
        ip_addresses=[address],
        usages=["server auth"],
        duration="24h",
        renew_before="8h",
    )
    return Certificate(metadata=_owned(dpu, name), spec=spec)


def _owned(dpu: DPU, name: str) -> ObjectMeta:
    return ObjectMeta(name=name, namespace=dpu.namespace, owner_references=[owner_reference(dpu)])
