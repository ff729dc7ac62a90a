"""What a real API server makes of DPUSets."""

from __future__ import annotations

from typing import Any

import pytest

from dpf_api.dpuset import DPUSet
from test.integration.api.rules import POWER_CYCLE, TAINT, Server, from_before, patched
from test.integration.conftest import Planes
from test.spec import spec


@spec("provisioning:53", "provisioning:56")
async def test_set_is_created_sent_again_and_deleted(server: Server) -> None:
    await server.lives(await server.create(DPUSet, spec={}))
    await server.lives(await server.create(DPUSet, "metadata-only"))


@spec("provisioning:54")
async def test_set_node_labels_may_change(server: Server) -> None:
    template = {"spec": {"cluster": {"nodeLabels": {"a": "b"}}}}
    dpuset = await server.create(DPUSet, spec={"dpuTemplate": template})
    changed = await server.change(dpuset, dpuTemplate={"spec": {"cluster": {"nodeLabels": {"a": "c"}}}})
    assert changed.spec.dpu_template.spec is not None
    assert changed.spec.dpu_template.spec.cluster is not None
    assert changed.spec.dpu_template.spec.cluster.node_labels == {"a": "c"}


@spec("provisioning:55")
async def test_set_with_everything(server: Server) -> None:
    template = {
        "annotations": {POWER_CYCLE: "true", "other": "x"},
        "spec": {
            "bfb": {"name": "b"},
            "dpuFlavor": "f",
            "nodeEffect": TAINT,
            "cluster": {"nodeLabels": {"a": "b"}},
            "automaticNodeReboot": False,
        },
    }
    body = {
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}},
        "nodeSelector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "Exists"}]},
        "dpuSelector": {"x": "y"},
        "dpuTemplate": template,
    }
    stored = await server.create(DPUSet, spec=body)
    assert stored.spec.model_dump(by_alias=True, exclude_unset=True) == body


TOO_LONG = "metadata.name may have 63 characters"


async def test_set_name_fits_a_label_of_its_dpus(server: Server) -> None:
    await server.refuses(DPUSet, TOO_LONG, "s" * 64, spec={})
    for name in ("s" * 63, "a.b-c"):
        assert (await server.create(DPUSet, name, spec={})).name == name


async def test_set_with_a_longer_name_from_before_can_be_changed_and_go(server: Server, control_planes: Planes) -> None:
    path = await from_before(server, control_planes, DPUSet, (TOO_LONG,), ("s" * 64, "t" * 64), {})
    await patched(server, path, {"spec": {"dpuSelector": {"a": "b"}}})
    await patched(server, f"{path}/status", {"status": {"reason": "NameTooLong"}})
    await server.client.request("DELETE", path)


def rolling(unavailable: int | str) -> dict[str, Any]:
    return {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": unavailable}}}


async def test_set_pace_is_a_number_or_a_percentage_above_zero(server: Server) -> None:
    accepted: list[int | str] = [1, 500, "1%", "100%", "010%"]
    refused: list[int | str] = [0, -1, "0%", "101%", "5", "half", "-5%", "%", ""]
    for number, good in enumerate(accepted):
        await server.create(DPUSet, f"good{number}", spec=rolling(good))
    for wrong in refused:
        message = "rollingUpdate.maxUnavailable must be a number above 0 or a percentage"
        await server.refuses(DPUSet, message, spec=rolling(wrong))
    recreate = rolling(0)["strategy"] | {"type": "Recreate"}
    assert (await server.create(DPUSet, "recreate", spec={"strategy": recreate})).spec.strategy is not None
    await server.refuses(DPUSet, "spec.strategy.type: Unsupported value", spec={"strategy": {"type": "OnDelete"}})


async def test_set_selector_has_one_of_four_operators(server: Server) -> None:
    wrong = {"nodeSelector": {"matchExpressions": [{"key": "k", "operator": "Equals"}]}}
    path = "spec.nodeSelector.matchExpressions[0].operator"
    await server.refuses(DPUSet, f"{path}: Unsupported value", spec=wrong)


@pytest.mark.parametrize(
    "moment",
    [
        "0000-01-01T00:00:00Z",
        "2026-01-01T00:00:00+99:99",
        "2026-01-01T00:00:00.1234567890Z",
        "2026-01-01T00:00:00",
        "2026-02-30T00:00:00Z",
    ],
)
async def test_what_is_no_moment_to_a_reader_is_refused(server: Server, moment: str) -> None:
    """Found by fuzzing: the format date-time alone lets most of these through, and no model could read the object then."""
    effect = {"taint": {"key": "k", "effect": "NoSchedule", "timeAdded": moment}}
    await server.refuses(DPUSet, "timeAdded", spec={"dpuTemplate": {"spec": {"nodeEffect": effect}}})


async def test_set_power_cycle_annotation_is_a_boolean_at_creation(server: Server) -> None:
    wrong = {"dpuTemplate": {"annotations": {POWER_CYCLE: "yes"}}}
    await server.refuses(DPUSet, f"{POWER_CYCLE} must be a boolean", spec=wrong)
    dpuset = await server.create(DPUSet, spec={"dpuTemplate": {"annotations": {POWER_CYCLE: "T"}}})
    await server.change(dpuset, **wrong)
