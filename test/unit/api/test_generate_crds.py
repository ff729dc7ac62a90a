"""The CRDs that are generated from the models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import Field

from dpf.runtime.meta import Model
from dpf_api.bfb import BFB
from dpf_api.dpu import DPU
from dpf_api.dpucluster import DPUCluster
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.dpuset import DPUSet
from dpf_api.schema import REASON, Schema
from hack import generate_crds
from hack.generate_crds import ModelError, crd, model_schema, render, stale, write


def spec_of(kind: Any) -> dict[str, Any]:
    """The schema of a kind's spec."""
    schema: dict[str, Any] = properties(kind)["spec"]
    return schema


def properties(kind: Any) -> dict[str, Any]:
    """The schemas of a kind's top-level fields."""
    schema: dict[str, Any] = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return schema


def nodes(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema within a schema, with its path."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if name in schema:
            yield from nodes(schema[name], f"{path}[]")


def test_files_in_config_are_what_the_models_say() -> None:
    assert stale(generate_crds.CONFIG, render()) == []


def test_output_is_the_same_each_time() -> None:
    assert render() == render()


def test_check_finds_what_is_missing_changed_or_left_over(tmp_path: Path) -> None:
    wanted = render()
    write(tmp_path, wanted)
    assert generate_crds.main(["--check", "--output", str(tmp_path)]) == 0
    changed, missing, *_ = sorted(wanted)
    (tmp_path / changed).write_text("")
    (tmp_path / missing).unlink()
    (tmp_path / "old.yaml").write_text("")
    assert stale(tmp_path, wanted) == sorted([changed, missing, Path("old.yaml")])
    assert generate_crds.main(["--check", "--output", str(tmp_path)]) == 1
    assert generate_crds.main(["--output", str(tmp_path)]) == 0
    assert stale(tmp_path, wanted) == []


@pytest.mark.parametrize("text", render().values(), ids=[path.stem for path in render()])
def test_schemas_are_structural_and_described(text: str) -> None:
    document = yaml.safe_load(text)
    assert "$ref" not in text
    assert "nullable" not in text
    version = document["spec"]["versions"][0]
    for path, schema in nodes(version["schema"]["openAPIV3Schema"]):
        assert (
            "type" in schema
            or "x-kubernetes-int-or-string" in schema
            or "x-kubernetes-preserve-unknown-fields" in schema
        )
        if path and not path.endswith("[]") and path != ".metadata":
            assert schema.get("description"), f"{document['metadata']['name']} {path} has no description"


def test_objects_outlive_the_chart() -> None:
    for kind in generate_crds.KINDS:
        assert crd(kind)["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


@pytest.mark.parametrize(
    ("kind", "names", "status"),
    [
        (BFB, ["bfbs", "bfb"], True),
        (DPU, ["dpus", "dpu"], True),
        (DPUSet, ["dpusets", "dpuset"], True),
        (DPUFlavor, ["dpuflavors", "dpuflavor"], False),
        (DPUCluster, ["dpuclusters", "dpucluster"], True),
    ],
)
def test_names_and_subresources(kind: Any, names: list[str], status: bool) -> None:
    spec = crd(kind)["spec"]
    assert [spec["names"]["plural"], spec["names"]["singular"]] == names
    assert not spec["names"].keys() & {"shortNames", "categories"}
    assert spec["scope"] == "Namespaced"
    assert ("subresources" in spec["versions"][0]) is status
    required = spec["versions"][0]["schema"]["openAPIV3Schema"].get("required", [])
    assert required == (["spec"] if kind is DPUCluster else [])


def test_columns_a_user_watches() -> None:
    def columns(kind: Any) -> list[str]:
        return [c["name"] for c in crd(kind)["spec"]["versions"][0]["additionalPrinterColumns"] if "priority" not in c]

    assert columns(DPU) == ["Ready", "Phase", "Node", "BFB", "Cluster", "Reason", "Age"]
    assert columns(DPUCluster) == ["Ready", "Phase", "Type", "MaxNodes", "Version", "DPUs", "Reason", "Age"]
    assert columns(DPUSet) == ["Desired", "Ready", "Updated", "BFB", "Reason", "Age"]
    assert columns(BFB) == ["Phase", "File", "Reason", "Age"]


def test_why_an_object_waits_is_the_same_column_of_each_kind_that_has_a_status() -> None:
    found = {
        kind.RESOURCE.kind: [
            c for c in crd(kind)["spec"]["versions"][0]["additionalPrinterColumns"] if "reason" in c["jsonPath"]
        ]
        for kind in generate_crds.KINDS
        if "reason" in properties(kind).get("status", {}).get("properties", {})
    }
    assert set(found) == {"BFB", "DPU", "DPUSet", "DPUCluster"}
    assert all(columns == [REASON.wire()] for columns in found.values())


def test_server_defaults_are_those_of_the_specification_and_no_others() -> None:
    found = {
        f"{kind.RESOURCE.kind}{path}": schema["default"]
        for kind in generate_crds.KINDS
        for path, schema in nodes({"properties": properties(kind)})
        if "default" in schema
    }
    drain = {"drain": {"automaticNodeReboot": True}}
    template = "DPUSet.spec.dpuTemplate.spec"
    assert found == {
        "BFB.status": {"phase": "Initializing"},
        "BFB.status.phase": "Initializing",
        "DPU.spec.automaticNodeReboot": True,
        "DPU.spec.nodeEffect": drain,
        "DPU.spec.nodeEffect.drain.automaticNodeReboot": True,
        "DPU.status": {"phase": "Initializing"},
        "DPU.status.phase": "Initializing",
        "DPUCluster.spec.maxNodes": 1000,
        "DPUCluster.status": {"phase": "Pending"},
        "DPUCluster.status.phase": "Pending",
        "DPUSet.spec.strategy.type": "Recreate",
        f"{template}.automaticNodeReboot": True,
        f"{template}.nodeEffect": drain,
        f"{template}.nodeEffect.drain.automaticNodeReboot": True,
    }


def test_special_types() -> None:
    flavor = spec_of(DPUFlavor)["properties"]
    amount = flavor["dpuResources"]["additionalProperties"]
    assert amount["x-kubernetes-int-or-string"] is True
    assert amount["anyOf"] == [{"type": "integer"}, {"type": "string"}]
    assert amount["pattern"].startswith(r"^(\+|-)?")
    assert spec_of(DPUSet)["properties"]["nodeSelector"]["x-kubernetes-map-type"] == "atomic"
    conditions = properties(DPU)["status"]["properties"]["conditions"]
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    started = properties(DPU)["status"]["properties"]["install"]["properties"]["startedAt"]
    assert (started["type"], started["format"]) == ("string", "date-time")


class Torn(Model):
    """Says one default to its reader and another to the server."""

    size: Annotated[int, Schema(default=2)] = 1
    """A size."""


class Silent(Model):
    """Says nothing of its field."""

    size: int = 1


class Foreign(Model):
    """Has a field of a type that no schema exists for."""

    size: complex = Field(default=1j)
    """A size."""


@pytest.mark.parametrize(
    ("model", "complaint"),
    [(Torn, "Torn.size: default is 1 here but 2"), (Silent, "no docstring"), (Foreign, "complex")],
)
def test_model_that_a_crd_cannot_express_is_refused(model: type[Model], complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        model_schema(model)
