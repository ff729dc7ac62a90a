"""A card is flashed and its host rebooted through the real ``dms``, as a pod of the fleet, and joins the DPU cluster."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import grpc
import pytest

from dpf.gnxi.gen import gnoi_os_pb2, gnoi_os_pb2_grpc, gnoi_system_pb2, gnoi_system_pb2_grpc, gnoi_types_pb2
from dpf.runtime.certs import KeyPair, SmallCA, load
from dpf.sandbox.fleet.containers import EntryPoint, run_dms
from dpf.sandbox.fleet.inprocess import run_dms_in_process
from test.integration.sandbox.conftest import Fleet, is_ready
from test.unit.sandbox.samples import bf_cfg, ca_pin

CERTIFICATES = "/etc/ssl/certs/server"


@pytest.mark.parametrize("entry", [run_dms, run_dms_in_process], ids=["process", "in-process"])
async def test_card_is_flashed_through_dms_and_joins(fleet: Fleet, entry: EntryPoint) -> None:
    fleet.entry_points["dms"] = entry
    card, authority = fleet.cards[0], SmallCA.make("test")
    address = fleet.inventory.address(card.host)
    server = authority.issue("dms", purposes=["server"], names=[address])
    secrets = f"/api/v1/namespaces/{fleet.namespace}/secrets"
    await fleet.host.create(secrets, {"metadata": {"name": "server"}, "data": server.secret_data()})
    pod = await fleet.pod(await run_dms_pod(fleet), is_ready)
    assert pod["status"]["podIP"] == address

    fleet.layout.bfb_dir.mkdir(exist_ok=True)
    (fleet.layout.bfb_dir / "x.bfb").write_bytes(b"image")
    endpoint, pin = fleet.dpu_kubeconfig.server.removeprefix("https://"), ca_pin(fleet.dpu_kubeconfig.ca)
    config = bf_cfg(name=card.dpu, endpoint=endpoint, pin=pin, token=await fleet.new_token())
    (fleet.layout.bfb_dir / f"{card.dpu}.cfg").write_text(config)

    client = authority.issue("client", purposes=["client"])
    credentials = grpc.ssl_channel_credentials(client.ca, client.key, client.cert)
    async with grpc.aio.secure_channel(f"{address}:9339", credentials) as channel:
        activate = gnoi_os_pb2.ActivateRequest(version=f"x.bfb;{card.dpu}.cfg")
        answer = await gnoi_os_pb2_grpc.OSStub(channel).Activate(activate)  # type: ignore[no-untyped-call]
        assert answer.HasField("activate_ok")
        state = await fleet.settled(card)
        assert (state["state"], state["version"]) == ("up", "x.bfb")
        chassis = gnoi_types_pb2.PathElem(name="chassis", key={"power": "reset"})
        reboot = gnoi_system_pb2.RebootRequest(
            method=gnoi_system_pb2.WARM, message="once", subcomponents=[gnoi_types_pb2.Path(elem=[chassis])]
        )
        await gnoi_system_pb2_grpc.SystemStub(channel).Reboot(reboot)  # type: ignore[no-untyped-call]

    await fleet.run_pod(card, "hostnetwork")
    await fleet.node(fleet.dpu, card.dpu, is_ready)
    await fleet.pod(pod["metadata"]["name"], lambda pod: is_ready(pod) and restarted(pod))
    summary = await fleet.summary(card)
    assert (summary["activates"], summary["installs"], summary["hostReboots"], summary["joins"]) == (1, 1, 1, 1)


@pytest.mark.parametrize("entry", [run_dms, run_dms_in_process], ids=["process", "in-process"])
async def test_a_secret_that_changes_reaches_dms_as_it_runs(fleet: Fleet, entry: EntryPoint) -> None:
    fleet.entry_points["dms"] = entry
    address, authority = fleet.inventory.address(fleet.cards[0].host), SmallCA.make("test")
    first, second = [authority.issue("dms", purposes=["server"], names=[address]) for _ in range(2)]
    secrets = f"/api/v1/namespaces/{fleet.namespace}/secrets"
    await fleet.host.create(secrets, {"metadata": {"name": "server"}, "data": first.secret_data()})
    pod = await fleet.pod(await run_dms_pod(fleet), is_ready)
    client = authority.issue("client", purposes=["client"])
    assert await shown(address, client) == first.cert.decode()
    await fleet.host.patch(f"{secrets}/server", {"data": second.secret_data()})
    async with asyncio.timeout(20):
        while await shown(address, client) != second.cert.decode():
            await asyncio.sleep(0.05)
    after = await fleet.pod(pod["metadata"]["name"], is_ready)
    assert after["status"]["containerStatuses"][0]["restartCount"] == 0


async def shown(address: str, client: KeyPair) -> str:
    """The certificate that a new connection to DMS is shown, PEM."""
    context = ssl.create_default_context(cadata=client.ca.decode())
    load(context, client)
    _, writer = await asyncio.open_connection(address, 9339, ssl=context)
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return ssl.DER_cert_to_PEM_cert(found)


def restarted(pod: dict[str, Any]) -> bool:
    return bool(pod["status"]["containerStatuses"][0]["restartCount"] == 1)


async def run_dms_pod(fleet: Fleet) -> str:
    """A ``dms`` pod as provisioning makes it."""
    container = {
        "args": [
            *("--bind-address", "0.0.0.0:9339", "--ca", f"{CERTIFICATES}/ca.crt"),
            *("--tls-cert-file", f"{CERTIFICATES}/tls.crt", "--tls-key-file", f"{CERTIFICATES}/tls.key"),
            *("--image-folder", "/bfb", "--target-pci", "04:00", "--exec-timeout", "900"),
        ],
        "ports": [{"containerPort": 9339}],
        "volumeMounts": [{"name": "server", "mountPath": CERTIFICATES}, {"name": "bfb", "mountPath": "/bfb"}],
    }
    volumes = [
        {"name": "server", "secret": {"secretName": "server"}},
        {"name": "bfb", "persistentVolumeClaim": {"claimName": "bfb-pvc"}},
    ]
    return await fleet.run_pod(fleet.cards[0], "dms", container=container, volumes=volumes)
