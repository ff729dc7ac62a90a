"""The DMS server and its client over real gRPC with mutual TLS: who is let in, and what is told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from gnmi_pb import gnmi_pb2

from dpf.dms.card import CardError
from dpf.dms.gnmi import firmware_path
from dpf.dms.server import Server
from dpf.provisioning.dpu.dms import dial
from dpf.provisioning.dpu.install import Refused, Unreachable
from dpf.runtime.certs import SmallCA
from dpf.runtime.errors import ConfigError
from dpf_api.dpu import Firmware
from test.unit.dms.asking import CONFIG, IMAGE, installed, settled
from test.unit.dms.fakes import CLIENT, CountingCard, config, served, write_pair


async def test_a_card_is_given_mode_image_and_configuration_and_comes_up(tmp_path: Path) -> None:
    card = CountingCard()
    async with served(config(tmp_path), card) as client:
        assert (await client.report()).outcome == "unknown"
        await client.set_mode("DPU")
        await installed(client)
        await client.activate("x.bfb;d.cfg")
        running = await client.report()
        assert running.active
        card.go.set()
        assert (await settled(client)).outcome == "success"
    assert card.card_mode == "DPU"
    assert card.pushes == [("x.bfb", CONFIG)]
    assert (tmp_path / "images" / "x.bfb").read_bytes() == IMAGE


async def test_the_firmware_is_told_as_far_as_it_is_known(tmp_path: Path) -> None:
    card = CountingCard()
    async with served(config(tmp_path), card) as client:
        assert await client.firmware() == Firmware(nic="32.43.1014")
        nic = await client._gnmi.Get(gnmi_pb2.GetRequest(path=[firmware_path("nic")]))
        assert nic.notification[0].update[0].val.string_val == "32.43.1014"
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await client._gnmi.Get(gnmi_pb2.GetRequest(path=[firmware_path("bmc")]))
        assert info.value.code() is grpc.StatusCode.NOT_FOUND
        card.versions = {}
        assert await client.firmware() is None
        card.failure = CardError("flint cannot be run")
        with pytest.raises(Refused, match="flint cannot be run"):
            await client.firmware()


def setting(names: str, value: gnmi_pb2.TypedValue | None = None) -> gnmi_pb2.Update:
    path = gnmi_pb2.Path(elem=[gnmi_pb2.PathElem(name=name) for name in names.split("/")])
    return gnmi_pb2.Update(path=path, val=value or gnmi_pb2.TypedValue(string_val="DPU"))


MODE = setting("nvidia/mode/config/mode")


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (gnmi_pb2.SetRequest(update=[MODE, setting("foo")]), "/foo cannot be set"),
        (gnmi_pb2.SetRequest(delete=[MODE.path], update=[MODE]), "/nvidia/mode/config/mode cannot be deleted"),
        (
            gnmi_pb2.SetRequest(update=[setting("nvidia/mode/config/mode", gnmi_pb2.TypedValue(uint_val=1))]),
            "takes a string_val",
        ),
    ],
)
async def test_a_setting_that_asks_for_more_than_the_mode_changes_nothing(
    tmp_path: Path, request_: gnmi_pb2.SetRequest, says: str
) -> None:
    card = CountingCard()
    async with served(config(tmp_path), card) as client:
        with pytest.raises(grpc.aio.AioRpcError, match=says) as info:
            await client._gnmi.Set(request_)
        assert info.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert card.card_mode == "NIC"


async def test_the_encoding_that_is_announced_is_the_one_that_is_spoken(tmp_path: Path) -> None:
    async with served(config(tmp_path), CountingCard()) as client:
        told = await client._gnmi.Capabilities(gnmi_pb2.CapabilityRequest())
    assert list(told.supported_encodings) == [gnmi_pb2.PROTO]


async def test_progress_names_version_and_percent(tmp_path: Path) -> None:
    card = CountingCard()
    async with served(config(tmp_path), card) as client:
        await installed(client)
        await client.activate("x.bfb;d.cfg")
        async with asyncio.timeout(20):
            while (report := await client.report()).percent != 40:
                await asyncio.sleep(0.01)
        assert report.text == "installing x.bfb: 40 %"


async def test_a_client_of_another_authority_is_not_let_in(tmp_path: Path) -> None:
    stranger = SmallCA.make("other").issue("client", purposes=["client"])
    pair = type(stranger)(stranger.cert, stranger.key, CLIENT.ca)
    async with served(config(tmp_path), CountingCard(), pair) as client:
        with pytest.raises(Unreachable):
            await client.report()


async def test_a_server_of_another_authority_is_not_trusted(tmp_path: Path) -> None:
    async with served(config(tmp_path, authority=SmallCA.make("other")), CountingCard()) as client:
        with pytest.raises(Unreachable):
            await client.report()


async def test_new_certificates_on_disk_are_taken_up_without_a_break(tmp_path: Path) -> None:
    settings, other = config(tmp_path), SmallCA.make("other")
    async with Server(settings, CountingCard()), dial(settings.address, CLIENT) as old:
        await old.report()
        write_pair(tmp_path, other.issue("server", purposes=["server"], names=["127.0.0.1"]))
        async with dial(settings.address, other.issue("client", purposes=["client"])) as fresh:
            assert (await fresh.report()).outcome == "unknown"
        assert (await old.report()).outcome == "unknown", "the open connection stays"


async def test_a_state_file_nobody_can_read_counts_as_none(tmp_path: Path) -> None:
    settings = config(tmp_path)
    settings.state_file.parent.mkdir()
    settings.state_file.write_text("{broken")
    async with served(settings, CountingCard()) as client:
        assert (await client.report()).outcome == "unknown"


async def test_an_address_in_use_and_missing_certificates_say_what_to_do(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with Server(settings, CountingCard()):
        with pytest.raises(ConfigError, match="is another dms running there"):
            await Server(settings, CountingCard()).__aenter__()
    settings.cert.unlink()
    with pytest.raises(ConfigError, match="--tls-cert-file"):
        await Server(settings, CountingCard()).__aenter__()


async def test_what_is_not_served_is_unimplemented(tmp_path: Path) -> None:
    async with served(config(tmp_path), CountingCard()) as client:
        subscribe = client._gnmi.Subscribe()
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await subscribe.read()
        assert info.value.code() is grpc.StatusCode.UNIMPLEMENTED
