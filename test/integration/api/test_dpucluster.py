"""What a real API server makes of DPUClusters."""

from __future__ import annotations

from typing import Any

import pytest

from dpf.runtime.errors import Invalid
from dpf_api.dpucluster import DPUCluster
from test.integration.api.rules import Server, from_before, patched
from test.integration.conftest import Planes
from test.spec import spec


def static(**fields: Any) -> dict[str, Any]:
    return {"type": "static", "version": "v1.31.0"} | fields


@spec("provisioning:17")
async def test_cluster_is_created_sent_again_and_deleted(server: Server) -> None:
    await server.lives(await server.create(DPUCluster, spec=static(version="")))


@spec("provisioning:18")
async def test_cluster_type_names_a_manager(server: Server) -> None:
    for number, good in enumerate(("kamaji", "static", "dummy.com/type")):
        assert (await server.create(DPUCluster, f"c{number}", spec=static(type=good))).spec.type == good
    for wrong in ("dummy.com", "dummy", "", "my-static", "kamajii", "/type"):
        await server.refuses(DPUCluster, "spec.type in body should match", spec=static(type=wrong))
    await server.refuses(DPUCluster, "spec: Required value")
    await server.refuses(DPUCluster, "spec.version: Required value", spec={"type": "static"})


@spec("provisioning:19", "provisioning:20")
async def test_cluster_takes_1_to_1000_nodes(server: Server) -> None:
    unset = await server.create(DPUCluster, spec=static())
    assert "max_nodes" in unset.spec.model_fields_set
    assert (await server.get(unset)).spec.max_nodes == unset.spec.max_nodes == 1000
    assert (await server.create(DPUCluster, "one", spec=static(maxNodes=1))).spec.max_nodes == 1
    for number, wrong in enumerate((0, -1, 1001, 100000)):
        await server.refuses(DPUCluster, "spec.maxNodes", f"wrong{number}", spec=static(maxNodes=wrong))


@spec("provisioning:21", "provisioning:22", "provisioning:23")
@pytest.mark.parametrize("start", [{}, {"kubeconfig": ""}])
async def test_cluster_kubeconfig_is_set_once(server: Server, start: dict[str, str]) -> None:
    cluster = await server.create(DPUCluster, spec=static(**start))
    cluster = await server.change(cluster, kubeconfig="secret")
    assert cluster.spec.kubeconfig == "secret"
    await server.keeps(cluster, "kubeconfig is immutable", kubeconfig="other")
    await server.keeps(cluster, "kubeconfig is immutable", kubeconfig="")
    await server.keeps(cluster, "kubeconfig is immutable and can't be removed", kubeconfig=None)


async def test_cluster_kubeconfig_is_a_name_that_a_secret_can_have(server: Server) -> None:
    await server.refuses(
        DPUCluster,
        'DPUCluster.provisioning.dpu.nvidia.com "y" is invalid: spec.kubeconfig: Invalid value: "My_Secret": must be a name',
        "y",
        spec=static(kubeconfig="My_Secret"),
    )
    for wrong in ("a/b", "-a", "a.", "a..b", "a,type=Opaque", "a" * 254, "a\n"):
        await server.refuses(DPUCluster, "must be a name that a Secret can have", "y", spec=static(kubeconfig=wrong))
    cluster = await server.create(DPUCluster, spec=static())
    await server.keeps(cluster, "spec.kubeconfig", kubeconfig="My_Secret")
    assert (await server.change(cluster, kubeconfig="a-1.b")).spec.kubeconfig == "a-1.b"


async def test_cluster_version_is_one_or_empty(server: Server) -> None:
    for number, good in enumerate(("v1.31.0", "1.31.2", "v1.31", "v1.31.4+k3s1", "v1.32.0-rc.1", "")):
        assert (await server.create(DPUCluster, f"c{number}", spec=static(version=good))).spec.version == good
    for wrong in ("latest", "v1", "1.31.0 ", "v1.31.0\nx", "1.x"):
        await server.refuses(
            DPUCluster, "must be a Kubernetes version such as v1.30.2, or empty", "y", spec=static(version=wrong)
        )
    kamaji = {"type": "kamaji", "version": "v1.31"}
    await server.refuses(DPUCluster, "spec.version: Invalid value", "y", spec=kamaji)
    await server.refuses(DPUCluster, "type kamaji needs three numbers", "y", spec=kamaji)


async def test_cluster_from_before_goes_on_and_can_be_mended(server: Server, control_planes: Planes) -> None:
    spec_ = static(kubeconfig="My_Secret", version="latest")
    rules = ("name that a Secret can have", "must be a Kubernetes version", "needs three numbers")
    path = await from_before(server, control_planes, DPUCluster, rules, ("old", "new"), spec_)
    await patched(server, path, {"spec": {"maxNodes": 5}}, {"metadata": {"finalizers": ["dpf.test/x"]}})
    await patched(server, f"{path}/status", {"status": {"phase": "NotReady"}})
    for wrong in ({"version": "newest"}, {"type": "kamaji", "version": "v1.31"}):
        with pytest.raises(Invalid, match=r"spec\.version"):
            await patched(server, path, {"spec": wrong})
    await patched(server, path, {"spec": {"version": "v1.31.0"}}, {"metadata": {"finalizers": None}})
    await server.client.request("DELETE", path)


@spec("provisioning:24")
async def test_cluster_endpoint_by_keepalived(server: Server) -> None:
    keepalived = {"vip": "10.10.10.10", "virtualRouterID": 1, "interface": "br-dpu"}
    fields = static(maxNodes=10, clusterEndpoint={"keepalived": keepalived})
    cluster = await server.get(await server.create(DPUCluster, spec=fields))
    assert cluster.spec.model_dump(by_alias=True, exclude_unset=True) == fields
    routers, interfaces = (("virtualRouterID", 0), ("virtualRouterID", 256)), (("interface", ""), ("interface", "a b"))
    for field, wrong in (*routers, *interfaces, ("vip", ""), ("vip", "host.example"), ("vip", "10.10.10.10/24")):
        endpoint = {"keepalived": keepalived | {field: wrong}}
        await server.refuses(DPUCluster, f"keepalived.{field}", "y", spec=static(clusterEndpoint=endpoint))
