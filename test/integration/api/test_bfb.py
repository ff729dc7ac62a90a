"""What a real API server makes of BFBs, and the phase that all new objects have."""

from __future__ import annotations

import pytest

from dpf.runtime.errors import Invalid
from dpf_api.bfb import BFB
from dpf_api.bfb import Phase as BFBPhase
from dpf_api.dpu import DPU
from dpf_api.dpu import Phase as DPUPhase
from dpf_api.dpucluster import DPUCluster
from dpf_api.dpucluster import Phase as ClusterPhase
from test.integration.api.rules import Server, from_before, patched
from test.integration.conftest import Planes
from test.spec import spec

URL = "http://example.com/a.bfb"


@spec("provisioning:1", "provisioning:2", "provisioning:3")
async def test_bfb_is_created_sent_again_and_deleted(server: Server) -> None:
    await server.lives(await server.create(BFB, spec={"url": URL}))


@spec("provisioning:6", "provisioning:7", "provisioning:14")
@pytest.mark.parametrize("url", ["http://8.8.8.8/d.bfb", "https://example.com/d.bfb", "https://8.8.8.8/d.bfb"])
async def test_bfb_may_come_from_a_url(server: Server, url: str) -> None:
    assert (await server.create(BFB, spec={"url": url})).spec.url == url


@spec("provisioning:4", "provisioning:5", "provisioning:8", "provisioning:15")
async def test_bfb_without_a_usable_url_is_refused(server: Server) -> None:
    await server.refuses(BFB, "spec.url: Required value", spec={"fileName": "a.bfb"})
    await server.refuses(BFB, "a BFB needs spec.url")
    for url in ("http://example.com/dummy.tar", "example.com/dummy.bfb", "", "ftp://example.com/dummy.bfb"):
        await server.refuses(BFB, "spec.url in body should match", spec={"url": url})


@spec("provisioning:11", "provisioning:12", "provisioning:14")
async def test_bfb_file_name_is_a_plain_bfb_name(server: Server) -> None:
    name = "dummy_NAME-1.2.3.bfb"
    assert (await server.create(BFB, spec={"url": URL, "fileName": name})).spec.file_name == name
    for wrong in ("dummy.tar", " dummy.bfb", "/dummy.bfb", "dummy with spaces.bfb"):
        await server.refuses(BFB, "spec.fileName in body should match", "y", spec={"url": URL, "fileName": wrong})


TOO_LONG = "may have 255 characters"


async def test_bfb_file_name_fits_a_file(server: Server) -> None:
    name = "b" * 251 + ".bfb"
    assert (await server.create(BFB, spec={"url": URL, "fileName": name})).spec.file_name == name
    for wrong in ("b" + name, "b" * 3000 + name):
        message = f'spec.fileName: Invalid value: "{wrong}": {TOO_LONG}'
        await server.refuses(BFB, message, "y", spec={"url": URL, "fileName": wrong})


async def test_bfb_with_a_longer_file_name_from_before_can_go(server: Server, control_planes: Planes) -> None:
    body = {"url": URL, "fileName": "b" * 3000 + ".bfb"}
    path = await from_before(server, control_planes, BFB, (TOO_LONG,), ("old", "new"), body)
    labelled = {"metadata": {"labels": {"a": "b"}, "finalizers": ["dpf.test/held"]}}
    await patched(server, path, labelled)
    await patched(server, f"{path}/status", {"status": {"phase": "Error"}})
    await server.client.request("DELETE", path)
    await patched(server, path, {"metadata": {"finalizers": None}})


@spec("provisioning:9", "provisioning:13")
async def test_bfb_spec_stays(server: Server) -> None:
    bfb = await server.create(BFB, spec={"url": URL, "fileName": "a.bfb"})
    await server.keeps(bfb, "spec: Invalid value: Value is immutable", url="http://example.com/b.bfb")
    await server.keeps(bfb, "Value is immutable", fileName="b.bfb")
    await server.keeps(bfb, "Value is immutable", fileName=None)
    with pytest.raises(Invalid, match="a BFB needs spec"):
        await server.client.merge_patch(bfb, {"spec": None})


@spec("provisioning:16", "provisioning:25", "provisioning:34")
async def test_new_objects_have_a_phase(server: Server) -> None:
    bfb = await server.create(BFB, spec={"url": URL})
    dpu = await server.create(DPU, spec={"nodeName": "", "bfb": ""})
    cluster = await server.create(DPUCluster, spec={"type": "static", "version": ""})
    for obj, phase in ((bfb, BFBPhase.INITIALIZING), (dpu, DPUPhase.INITIALIZING), (cluster, ClusterPhase.PENDING)):
        assert "status" in obj.model_fields_set
        assert obj.status.phase == phase
        assert (await server.get(obj)).status == obj.status


async def test_bfb_checksum_is_a_sha256(server: Server) -> None:
    await server.create(BFB, spec={"url": URL, "checksum": "sha256:" + "0" * 64})
    await server.refuses(BFB, "spec.checksum in body should match", "y", spec={"url": URL, "checksum": "md5:0"})
