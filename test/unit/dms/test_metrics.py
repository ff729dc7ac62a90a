"""What ``dms`` counts, over real gRPC with mutual TLS and a real scrape."""

from __future__ import annotations

import asyncio
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from gnmi_pb import gnmi_pb2
from prometheus_client.parser import text_string_to_metric_families

from dpf.dms.card import CardError
from dpf.dms.gnmi import firmware_path
from dpf.dms.metrics import DmsMetrics
from dpf.gnxi.gen import gnoi_os_pb2
from dpf.provisioning.dpu.dms import DmsClient
from dpf.provisioning.dpu.install import Refused
from dpf.provisioning.dpu.rebootpolicy import Policy, Power
from dpf.runtime.http import Servers
from test.unit.dms.asking import settled
from test.unit.dms.fakes import CA, CLIENT, CountingCard, config, served, write_pair

Samples = dict[tuple[str, ...], float]


async def scraped(metrics: DmsMetrics) -> Samples:
    """Samples by name and label values, as a scraper gets them."""
    async with Servers(health="0", metrics="127.0.0.1:0", source=metrics) as servers:
        url = "http://{}:{}/metrics".format(*servers.bound["metrics"])

        def read() -> str:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return str(answer.read().decode())

        text = await asyncio.to_thread(read)
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def handled(samples: Samples, *, service: str) -> dict[tuple[str, str, str], float]:
    """Calls of a service by method, code and type."""
    found = {key[1:]: value for key, value in samples.items() if key[0] == "grpc_server_handled_total"}
    return {(method, code, kind): n for (code, method, name, kind), n in found.items() if name == service}


async def provisioned(client: DmsClient, card: CountingCard, bf_cfg: bytes) -> str:
    card.go.set()
    await client.install("x.bfb", b"bfb" * 1000)
    await client.install("d.cfg", bf_cfg)
    await client.activate("x.bfb;d.cfg")
    return (await settled(client)).outcome


async def test_calls_installs_and_reboots_are_counted(tmp_path: Path) -> None:
    card, metrics = CountingCard(), DmsMetrics()
    async with served(config(tmp_path), card, metrics=metrics) as client:
        assert await provisioned(client, card, b"# one\n") == "success"
        card.failure = CardError("eMMC broke")
        assert await provisioned(client, card, b"# two\n") == "failure"
        card.failure = CardError("no answer", passing=True)
        await provisioned(client, card, b"# three\n")
        with pytest.raises(Refused):
            await client.reboot(Policy("HALT", Power.RESET), "uid/0")
        await client.reboot(Policy("COLD", Power.RESET), "uid/1")
        await client.reboot(Policy("COLD", Power.RESET), "uid/1")
    samples = await scraped(metrics)
    assert [samples["dpf_dms_installs_total", outcome] for outcome in ("success", "failure", "interrupted")] == [
        1,
        1,
        1,
    ]
    assert (samples["dpf_dms_host_reboots_total", "COLD"], samples["dpf_dms_host_reboots_total", "WARM"]) == (1, 0)
    of_os, of_system = handled(samples, service="gnoi.os.OS"), handled(samples, service="gnoi.system.System")
    # Whoever has heard that a transfer is complete may end it before the server does.
    assert sum(n for (method, _, kind), n in of_os.items() if (method, kind) == ("Install", "bidi_stream")) == 6
    assert of_os["Activate", "OK", "unary"] == 3
    assert of_system[("Reboot", "OK", "unary")] == 2
    assert of_system[("Reboot", "INVALID_ARGUMENT", "unary")] == 1


async def test_errors_are_counted_by_their_code_and_names_that_nobody_serves_together(tmp_path: Path) -> None:
    card, metrics, settings = CountingCard(), DmsMetrics(), config(tmp_path)
    credentials = grpc.ssl_channel_credentials(CLIENT.ca, CLIENT.key, CLIENT.cert)
    async with served(settings, card, metrics=metrics) as client:
        with pytest.raises(grpc.aio.AioRpcError):
            await client._gnmi.Get(gnmi_pb2.GetRequest(path=[firmware_path("bmc")]))
        card.versions = None  # type: ignore[assignment]  # what nobody expected
        with pytest.raises(grpc.aio.AioRpcError):
            await client._gnmi.Get(gnmi_pb2.GetRequest(path=[firmware_path("nic")]))
        with pytest.raises(grpc.aio.AioRpcError) as info:
            async for _ in client._gnmi.Subscribe(iter([gnmi_pb2.SubscribeRequest()])):
                pass
        assert info.value.code() is grpc.StatusCode.UNIMPLEMENTED
        async with grpc.aio.secure_channel(settings.address, credentials) as channel:
            for name in ("/a.B/C", "/gnoi.system.System/Traceroute"):
                with pytest.raises(grpc.aio.AioRpcError):
                    await channel.unary_unary(name)(b"")  # type: ignore[arg-type]
    samples = await scraped(metrics)
    assert handled(samples, service="gnmi.gNMI") == {
        ("Get", "NOT_FOUND", "unary"): 1,
        ("Get", "UNKNOWN", "unary"): 1,
        ("Subscribe", "UNIMPLEMENTED", "bidi_stream"): 1,
    }
    assert handled(samples, service="") == {("", "UNIMPLEMENTED", "unary"): 2}


async def test_a_transfer_that_its_sender_leaves_is_counted_as_cancelled(tmp_path: Path) -> None:
    metrics = DmsMetrics()
    async with served(config(tmp_path), CountingCard(), metrics=metrics) as client:
        call = client._os.Install()
        request = gnoi_os_pb2.TransferRequest(version="x.bfb", package_size=10)
        await call.write(gnoi_os_pb2.InstallRequest(transfer_request=request))
        await call.read()
        call.cancel()
        async with asyncio.timeout(20):
            while not metrics.calls:
                await asyncio.sleep(0.01)
        assert metrics.calls == {("bidi_stream", "gnoi.os.OS", "Install", "CANCELLED"): 1}
        await client.install("x.bfb", b"0123456789")


async def test_the_certificate_of_new_connections_is_the_one_whose_end_is_told(tmp_path: Path) -> None:
    metrics, settings = DmsMetrics(), config(tmp_path)
    async with served(settings, CountingCard(), metrics=metrics):
        assert (await end_of(metrics)) > datetime.now(UTC) + timedelta(hours=20)
        soon = CA.issue("server", purposes=["server"], names=["127.0.0.1"], lifetime=timedelta(hours=1))
        write_pair(tmp_path, soon)
        assert (await end_of(metrics)) < datetime.now(UTC) + timedelta(hours=2)
        settings.cert.unlink()
        assert ("dpf_dms_certificate_expiration_timestamp_seconds",) not in await scraped(metrics)


async def end_of(metrics: DmsMetrics) -> datetime:
    return datetime.fromtimestamp((await scraped(metrics))["dpf_dms_certificate_expiration_timestamp_seconds",], UTC)
