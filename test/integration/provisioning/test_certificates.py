"""Certificates of DMS on a real API server and over real gRPC: renewed, for another address, from another authority.

Nobody is cut off by any of it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from dpf.dms.server import Server, ServerConfig
from dpf.provisioning.dpu.certificates import SERVER_LIFETIME
from dpf.provisioning.dpu.dms import dial
from dpf.runtime import certs
from dpf.runtime.certs import KeyPair, SmallCA, load
from dpf.runtime.client import Client
from dpf.runtime.k8s import Node, Secret, encoded
from dpf.runtime.meta import ObjectMeta, now
from dpf.sandbox.fleet.volumes import write_secret
from dpf_api import names
from dpf_api.certificate import Certificate
from dpf_api.dpu import DPU, Phase
from dpf_api.names import ANNOTATION_REBOOT_COMMAND, CA_SECRET, CLIENT_SECRET, FEATURE_PREFIX, LABEL_DPU_HOST_IP
from test.integration.conftest import Planes
from test.integration.provisioning.conftest import PCI, FakeDms, World
from test.unit.dms.fakes import CountingCard

SKIP = {ANNOTATION_REBOOT_COMMAND: "skip"}


def pair_of(secret: Secret) -> KeyPair:
    pair = KeyPair.from_secret(secret)
    assert pair is not None
    return pair


def addresses(secret: Secret) -> list[str]:
    certificate = x509.load_pem_x509_certificate(pair_of(secret).cert)
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(address) for address in found.get_values_for_type(x509.IPAddress)]


def another(than: Secret) -> Callable[[Secret], bool]:
    return lambda secret: secret.data["tls.crt"] != than.data["tls.crt"]


async def fall_due(world: World, name: str) -> None:
    """The DPU's certificate is to be renewed now."""
    dpu = await world.host.get(DPU, name, world.namespace)
    certificate = {"renewAt": (now() - timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")}
    await world.host.merge_patch(dpu, {"status": {"certificate": certificate}}, subresource="status")
    # Its own clock would have woken it; a status that a test writes does not.
    await world.host.merge_patch(dpu, {"metadata": {"labels": {"woken": str(now().microsecond)}}})


def writes(world: World, since: int = 0) -> list[str]:
    """Methods of the manager's writes."""
    return [method for method in world.requests[since:] if method in {"PATCH", "POST"}]


async def at_rest(world: World) -> None:
    """Returns when the manager has written nothing for a second: what follows from what was done is done."""
    seen = -1
    while seen != (seen := len(writes(world))):
        await asyncio.sleep(1.0)


async def test_the_certificate_of_a_ready_dpu_is_renewed_and_follows_its_host(world: World) -> None:
    node = await world.node()
    await world.host.merge_patch(node, {"metadata": {"annotations": SKIP}})
    await world.bfb()
    await world.cluster()
    dpu = await world.ready_dpu()
    kept = dpu.status.certificate
    assert kept is not None
    assert kept.expires_at is not None
    assert kept.renew_at is not None
    assert kept.address == "10.0.0.1"
    assert now() + SERVER_LIFETIME * 0.56 < kept.renew_at < now() + SERVER_LIFETIME * 2 / 3
    secret_name = names.dms_secret(dpu.name)
    first = await world.host.get(Secret, secret_name, world.namespace)
    await at_rest(world)
    before = len(world.requests)
    await fall_due(world, dpu.name)
    second = await world.eventually(Secret, secret_name, until=another(first))
    renewed = await world.eventually(
        DPU,
        dpu.name,
        until=lambda d: d.status.certificate.renew_at >= kept.renew_at and d.status.certificate.retry_at is None,
    )
    assert renewed.status.phase is Phase.READY
    assert writes(world, before).count("PATCH") <= 3, "the Secret, the status, and no more than a lease besides"

    await world.host.merge_patch(renewed, {"metadata": {"labels": {LABEL_DPU_HOST_IP: "10.0.0.1"}}})
    await world.boot(node, "boot-1", "10.0.0.2")
    third = await world.eventually(Secret, secret_name, until=another(second))
    assert (addresses(second), addresses(third)) == (["10.0.0.1"], ["10.0.0.2"])
    moved = await world.eventually(DPU, dpu.name, until=lambda d: d.status.certificate.address == "10.0.0.2")
    assert moved.labels[LABEL_DPU_HOST_IP] == "10.0.0.2"
    assert moved.status.phase is Phase.READY


@pytest.fixture
async def idle(control_planes: Planes, host_client: Client, dpu_client: Client, namespace: str) -> AsyncIterator[World]:
    """A world in which no manager runs yet."""
    world = World(host_client, dpu_client, control_planes, namespace, FakeDms())
    yield world
    for client in (host_client, dpu_client):
        for node in await client.list(Node):
            if namespace in node.name:
                await client.delete(node)


async def test_cert_manager_is_asked_for_the_address_that_the_host_has_now(idle: World) -> None:
    idle.settings = {"certificates": "cert-manager"}
    node = await idle.node()
    await idle.bfb()
    async with idle.manager():
        await idle.cluster()
        name = (await idle.create_dpu()).name
        await idle.pod_ready(f"{name}-dms")
        certificate = await idle.eventually(Certificate, names.dms_certificate(name))
        assert certificate.spec.ip_addresses == ["10.0.0.1"]
        await idle.boot(node, "boot-1", "10.0.0.2")
        certificate = await idle.eventually(
            Certificate, certificate.name, until=lambda found: found.spec.ip_addresses == ["10.0.0.2"]
        )
    assert certificate.spec.renew_before == "8h", "cert-manager renews by itself"


class Host:
    """The part of a host that matters here: a kubelet that mounts a Secret, and ``dms`` on all of the host's addresses."""

    def __init__(self, world: World, folder: Path, card: CountingCard, port: int) -> None:
        self.world, self.folder, self.card, self.port = world, folder, card, port
        self.secret: Secret | None = None

    async def mount(self, name: str, until: Callable[[Secret], bool] = lambda _: True) -> Secret:
        """Waits for the DPU's Secret and puts it where ``dms`` reads it, as a kubelet does."""
        secret: Secret = await self.world.eventually(Secret, names.dms_secret(name), until=until)
        self.folder.mkdir(exist_ok=True)
        write_secret(self.folder, {key: secret.value(key) or b"" for key in secret.data})
        self.secret = secret
        return secret

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        config = ServerConfig(
            address=f"0.0.0.0:{self.port}",
            ca=self.folder / "ca.crt",
            cert=self.folder / "tls.crt",
            key=self.folder / "tls.key",
            image_folder=self.world.volume,
            state_file=self.folder / "state" / "card.json",
        )
        async with Server(config, self.card):
            yield

    async def shown(self, address: str, client: KeyPair) -> str:
        """The certificate that a new connection is shown, PEM."""
        context = ssl.create_default_context(cadata=client.ca.decode())
        load(context, client)
        _, writer = await asyncio.open_connection(address, self.port, ssl=context)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return ssl.DER_cert_to_PEM_cert(shown)


def port_of_a_card() -> int:
    """A free port that some index of a card, four digits at most, stands for."""
    for port in range(names.DMS_PORT + 1000 + os.getpid() % 5000, names.DMS_PORT + 10_000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("0.0.0.0", port))
            return port
    raise AssertionError("no port is free")


async def waits_for_a_person(world: World, name: str) -> DPU:
    dpu: DPU = await world.eventually(
        DPU, name, until=lambda dpu: dpu.status.reason == "WaitingForManualPowerCycleOrReboot"
    )
    return dpu


@pytest.fixture
async def host(idle: World, tmp_path: Path) -> Host:
    """A host whose card is reached by real gRPC, at a port of this test's own."""
    idle.dial = dial
    port = port_of_a_card()
    label = f"{FEATURE_PREFIX}dpu-{port - names.DMS_PORT}-pci-address"
    labels = {FEATURE_PREFIX + "dpu-oob-bridge-configured": "", label: PCI}
    node = await idle.host.create(Node(metadata=ObjectMeta(name=idle.host_node, labels=labels)))
    await idle.boot(node, "boot-1", "127.0.0.1")
    await idle.bfb()
    return Host(idle, tmp_path / "server", CountingCard(), port)


async def test_dms_is_reached_through_renewal_move_and_change_of_authority(idle: World, host: Host) -> None:
    host.card.go.set()
    async with idle.manager():
        await idle.cluster()
        name = (await idle.create_dpu(automaticNodeReboot=False)).name
        first = await host.mount(name)
        serving = host.serving()
        await serving.__aenter__()
        await idle.pod_ready(f"{name}-dms")
        dpu = await waits_for_a_person(idle, name)
        assert dpu.status.required_reset
        assert dpu.status.firmware is not None
        assert dpu.status.firmware.nic == "32.43.1014"
        assert [path.name for path in idle.volume.iterdir()] == ["image.bfb"], "no bf.cfg is left"

        async with dial(f"127.0.0.1:{host.port}", await client_pair(idle)) as open_connection:
            await open_connection.report()
            await fall_due(idle, name)
            second = await host.mount(name, another(first))
            assert await host.shown("127.0.0.1", await client_pair(idle)) == pair_of(second).cert.decode()
            assert not (await open_connection.report()).active, "the open connection stays"

        node = await idle.host.get(Node, idle.host_node)
        await idle.boot(node, "boot-1", "127.0.0.2")
        moved = await host.mount(name, another(second))
        assert addresses(moved) == ["127.0.0.2"]

    await follow(idle.host, idle.namespace, certs.ANNOUNCE_AT)
    async with idle.manager():
        await fall_due(idle, name)
        announced = await host.mount(name, another(moved))
    await follow(idle.host, idle.namespace, certs.RENEW_AT)
    async with idle.manager():
        await idle.host.merge_patch(dpu, {"spec": {"automaticNodeReboot": True}})
        await idle.eventually(DPU, name, until=lambda d: d.status.reboot is not None and d.status.reboot.issued_at)
        assert issuer_key(await client_pair(idle)) != issuer_key(pair_of(announced)), "the client's is the successor's"
        async with asyncio.timeout(60):
            while not host.card.resets:
                await asyncio.sleep(0.01)
    await serving.__aexit__(None, None, None)
    assert host.card.resets == [("WARM", "reset")]


async def test_dms_is_reached_again_after_the_authority_was_deleted(idle: World, host: Host) -> None:
    host.card.go.set()
    async with AsyncExitStack() as stack:
        async with idle.manager():
            await idle.cluster()
            name = (await idle.create_dpu(automaticNodeReboot=False)).name
            first = await host.mount(name)
            await stack.enter_async_context(host.serving())
            await idle.pod_ready(f"{name}-dms")
            dpu = await waits_for_a_person(idle, name)
        await idle.host.delete(await idle.host.get(Secret, CA_SECRET, idle.namespace))
        async with idle.manager():
            await idle.host.merge_patch(dpu, {"spec": {"automaticNodeReboot": True}})
            await host.mount(name, another(first))
            async with asyncio.timeout(30):
                while not host.card.resets:
                    await asyncio.sleep(0.01)
    assert host.card.resets == [("WARM", "reset")]


async def client_pair(world: World) -> KeyPair:
    return pair_of(await world.host.get(Secret, CLIENT_SECRET, world.namespace))


def issuer_key(pair: KeyPair) -> bytes | None:
    certificate = x509.load_pem_x509_certificate(pair.cert)
    return certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier


async def follow(client: Client, namespace: str, spent: float) -> None:
    """The authority is so old, and becomes what it then is."""
    secret = await client.get(Secret, CA_SECRET, namespace)
    bundle, key = secret.value("ca.crt"), secret.value("tls.key")
    assert bundle and key  # noqa: PT018
    heir, heir_key = secret.value("next.crt"), secret.value("next.key")
    authority = SmallCA(key, bundle, SmallCA(heir_key, heir) if heir and heir_key else None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certs, "_spent", lambda _: spent)
        fresh = authority.followed("successor")
    data: dict[str, bytes | str] = {"ca.crt": fresh.bundle, "tls.crt": fresh.bundle, "tls.key": fresh.key}
    if fresh.successor is not None:
        data |= {"next.crt": fresh.successor.bundle, "next.key": fresh.successor.key}
    await client.merge_patch(secret, {"data": {"next.crt": None, "next.key": None, **encoded(data)}})
