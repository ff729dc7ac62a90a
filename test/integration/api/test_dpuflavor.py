"""What a real API server makes of DPUFlavors."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from dpf.runtime.errors import Invalid
from dpf_api.dpuflavor import DPUFlavor
from test.integration.api.rules import Server
from test.spec import spec

FLAVOR = yaml.safe_load(
    r"""
    grub: {kernelParameters: [console=hvc0, "hugepages=3072"]}
    sysctl: {parameters: ["net.ipv4.ip_forward=1"]}
    nvconfig: [{device: "*", parameters: [PF_TOTAL_SF=20, NUM_OF_VFS=46]}]
    ovs: {rawConfigScript: "ovs-vsctl show\n"}
    bfcfgParameters: ["ubuntu_PASSWORD=$1$hash", WITH_NIC_FW_UPDATE=yes]
    configFiles: [{path: /etc/bla, operation: append, raw: "text\n", permissions: "0755"}]
    containerdConfig: {registryEndpoint: "https://mirror.example.com"}
    """
)


@spec("provisioning:35", "provisioning:44")
@pytest.mark.parametrize("body", [{}, {"spec": {}}, {"spec": FLAVOR}], ids=["metadata-only", "empty", "full"])
async def test_flavor_is_created_sent_again_and_deleted(server: Server, body: dict[str, Any]) -> None:
    await server.lives(await server.create(DPUFlavor, **body))


@spec("provisioning:36")
async def test_empty_flavor_stays_empty(server: Server) -> None:
    assert "spec" not in (await server.create(DPUFlavor)).model_fields_set
    assert (await server.create(DPUFlavor, "y", spec={})).spec.model_fields_set == set()


@spec(*(f"provisioning:{number}" for number in range(37, 44)))
async def test_flavor_stays(server: Server) -> None:
    flavor = await server.create(DPUFlavor, spec=FLAVOR)
    changes: dict[str, Any] = {
        "grub": {"kernelParameters": ["x"]},
        "sysctl": {"parameters": ["x=y"]},
        "nvconfig": [{"device": "*", "parameters": ["X=1"]}],
        "ovs": {"rawConfigScript": "x"},
        "bfcfgParameters": ["x=y"],
        "configFiles": [FLAVOR["configFiles"][0] | {"path": "/etc/other"}],
        "containerdConfig": {"registryEndpoint": "x"},
    }
    for field, value in changes.items():
        await server.keeps(flavor, "DPUFlavor spec is immutable", **{field: value})
        await server.keeps(flavor, "DPUFlavor spec is immutable", **{field: None})
    with pytest.raises(Invalid, match="spec is immutable and can't be removed"):
        await server.client.merge_patch(flavor, {"spec": None})


CPU_2 = {"cpu": "2"}


@spec("provisioning:45", "provisioning:46", "provisioning:47", "provisioning:50", "provisioning:51")
@pytest.mark.parametrize(
    "resources",
    [
        {},
        {"dpuResources": CPU_2},
        {"dpuResources": CPU_2, "systemReservedResources": CPU_2},
        {"dpuResources": CPU_2 | {"memory": "1Gi"}, "systemReservedResources": CPU_2},
        {"dpuResources": {"cpu": 3}, "systemReservedResources": {"cpu": "2500m"}},
        {"dpuResources": {"memory": "1Gi"}, "systemReservedResources": {"memory": "1023Mi"}},
    ],
)
async def test_flavor_reserves_part_of_what_there_is(server: Server, resources: dict[str, Any]) -> None:
    await server.create(DPUFlavor, spec=resources)


@spec("provisioning:48", "provisioning:49", "provisioning:52")
@pytest.mark.parametrize(
    "resources",
    [
        {"systemReservedResources": CPU_2},
        {"dpuResources": {"memory": "1Gi"}, "systemReservedResources": CPU_2},
        {"dpuResources": {"cpu": 1}, "systemReservedResources": CPU_2},
        {"dpuResources": {"cpu": "1999m"}, "systemReservedResources": {"cpu": 2}},
    ],
)
async def test_flavor_that_reserves_more_than_there_is_is_refused(server: Server, resources: dict[str, Any]) -> None:
    await server.refuses(DPUFlavor, "systemReservedResources must be part of dpuResources", spec=resources)


async def test_flavor_has_one_firmware_configuration_for_all_devices(server: Server) -> None:
    await server.create(DPUFlavor, spec={"nvconfig": [{"device": " * "}]})
    await server.refuses(DPUFlavor, "spec.nvconfig: Too many", "y", spec={"nvconfig": [{}, {}]})
    await server.refuses(DPUFlavor, "spec.nvconfig[0].device", "y", spec={"nvconfig": [{"device": "04:00.0"}]})
    await server.refuses(
        DPUFlavor, "spec.configFiles[0].operation", "y", spec={"configFiles": [{"operation": "delete"}]}
    )
