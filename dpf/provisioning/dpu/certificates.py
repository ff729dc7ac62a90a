"""Certificates of DMS: who signs them, and where they lie.

By default this process has a small authority of its own per namespace, in a Secret that outlives it; with
``--certificates=cert-manager`` it leaves signing to cert-manager's issuer and only asks. Either way the server's key pair is
Secret ``<dpu>-server-secret`` beside the DPU, the client's is ``dpf-provisioning-client-secret``, and both name the same CA.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from dpf.provisioning.settings import CertificateSource
from dpf.runtime.certs import KeyPair, SmallCA, renew_at, shared_ca
from dpf.runtime.client import Client
from dpf.runtime.errors import AlreadyExists, NotFound, Terminal, Waiting
from dpf.runtime.k8s import Node, Secret
from dpf.runtime.meta import ObjectMeta, now, owner_reference
from dpf_api import names
from dpf_api.certificate import Certificate, CertificateSpec, IssuerReference
from dpf_api.dpu import DPU

SERVER_LIFETIME = timedelta(days=30)
"""Longer than any provisioning: nothing talks to a card's DMS once it is Ready, and a new deployment gets a new one."""

CLIENT_NAME = "dpf-provisioning-client"


class Certificates:
    """Gives DPUs' servers and this process's client their key pairs."""

    def __init__(self, client: Client, source: CertificateSource) -> None:
        self._client = client
        self._source = source
        self._authorities: dict[str, SmallCA] = {}
        self._clients: dict[str, KeyPair] = {}
        self._lock = asyncio.Lock()

    async def ensure_server(self, dpu: DPU, node: Node) -> None:
        """Makes sure that the DPU's server Secret exists, holds for the host's address and is fresh.

        :raises Waiting: if the host has no address yet.
        """
        address = node.internal_ip or next((a.address for a in node.status.addresses), "")
        if not address:
            raise Waiting("NodeHasNoAddress", f"node {node.name} reports no address; waiting for its kubelet")
        if self._source == "cert-manager":
            await self._ask_cert_manager(dpu, address)
            return
        authority = await self._authority(dpu.namespace)
        pair = authority.issue(dpu.name, purposes=["server"], names=[address], lifetime=SERVER_LIFETIME)
        secret = Secret(
            metadata=_owned(dpu, names.dms_secret(dpu.name)), type="kubernetes.io/tls", data=pair.secret_data()
        )
        try:
            await self._client.create(secret)
        except AlreadyExists:
            await self._client.merge_patch(
                secret,
                {
                    "data": secret.data,
                    "metadata": {
                        "ownerReferences": [
                            reference.model_dump(mode="json", by_alias=True)
                            for reference in secret.metadata.owner_references
                        ]
                    },
                },
            )

    async def client_pair(self, namespace: str) -> KeyPair:
        """The pair that this process shows to servers of the namespace, with the CA that it trusts.

        :raises Waiting: if it comes from cert-manager and is not there yet.
        """
        async with self._lock:
            pair = self._clients.get(namespace)
            if pair is None or now() >= renew_at(pair.cert):
                pair = self._clients[namespace] = await self._read_client(namespace)
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
        if pair is not None and pair.ca == authority.bundle and now() < renew_at(pair.cert):
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
        async with self._lock:
            return await self._unlocked_authority(namespace)

    async def _unlocked_authority(self, namespace: str) -> SmallCA:
        authority = self._authorities.get(namespace)
        if authority is None or authority.due:
            authority = self._authorities[namespace] = await shared_ca(self._client, names.CA_SECRET, namespace)
        return authority

    async def _ask_cert_manager(self, dpu: DPU, address: str) -> None:
        name = names.dms_certificate(dpu.name)
        if len(name) > 64:
            message = f"{name} is too long for the common name of a certificate; use --certificates=self"
            raise Terminal("NameTooLong", message)
        spec = CertificateSpec(
            secret_name=names.dms_secret(dpu.name),
            issuer_ref=IssuerReference(name=names.CA_ISSUER, kind="Issuer"),
            common_name=name,
            ip_addresses=[address],
            usages=["server auth"],
            duration="24h",
            renew_before="8h",
        )
        try:
            await self._client.create(Certificate(metadata=_owned(dpu, name), spec=spec))
        except AlreadyExists:
            return


def _owned(dpu: DPU, name: str) -> ObjectMeta:
    return ObjectMeta(name=name, namespace=dpu.namespace, owner_references=[owner_reference(dpu)])
