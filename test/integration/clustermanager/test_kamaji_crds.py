"""What our models say of Kamaji's kinds, against Kamaji's own CRDs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from dpf.sandbox import manifests
from test import kamaji

EXACT = ("type", "format", "pattern", "minimum", "maximum", "minItems", "maxItems", "minLength", "maxLength")
"""What our schema says, if it does, must be what Kamaji's says."""
READ = "status"
"""What Kamaji writes and we read: what may be missing there is no matter of ours."""

Schema = dict[str, Any]


def versions(documents: Any) -> dict[str, Schema]:
    """What is served, by kind."""
    return {
        crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]
        for crd in documents
        if crd["spec"]["group"] == "kamaji.clastix.io"
    }


OURS = versions(manifests.documents(manifests.CONFIG / "crd" / "external"))


def differences(ours: Schema, theirs: Schema, path: str) -> Iterator[str]:
    """Where our schema says what Kamaji's does not."""
    for key in EXACT:
        # Of moments our schema says more everywhere: what is no moment to most readers fits the format alone.
        if (key, ours.get("format")) != ("pattern", "date-time") and key in ours and ours[key] != theirs.get(key):
            yield f"{path}: {key} is {theirs.get(key)}"
    if "default" in ours and ours["default"] != theirs.get("default"):
        yield f"{path}: the default is {theirs.get('default')}"
    if "enum" in ours and set(ours["enum"]) != set(theirs.get("enum", ())):
        yield f"{path}: one of {theirs.get('enum')}"
    needed = set(theirs.get("required", ())) & set(ours.get("properties", ()))
    if not path.startswith(READ) and (missing := needed - set(ours.get("required", ()))):
        yield f"{path}: {missing} must be there"
    for name, inner in ours.get("properties", {}).items():
        if name not in theirs.get("properties", {}):
            yield f"{path}.{name}: there is none"
        else:
            yield from differences(inner, theirs["properties"][name], f"{path}.{name}".lstrip("."))
    for key in ("items", "additionalProperties"):
        if key in ours:
            if not isinstance(theirs.get(key), dict):
                yield f"{path}: {key} are {theirs.get(key)}"
            else:
                yield from differences(ours[key], theirs[key], f"{path}[]")


@pytest.mark.parametrize("kind", ["TenantControlPlane", "DataStore"])
def test_our_crd_says_nothing_that_kamajis_own_does_not(kind: str) -> None:
    ours, theirs = OURS[kind], versions(kamaji.crds())[kind]
    assert list(differences(ours["schema"]["openAPIV3Schema"], theirs["schema"]["openAPIV3Schema"], "")) == []
    assert ours["name"] == theirs["name"]
    assert ours.get("subresources", {}).keys() <= theirs.get("subresources", {}).keys()


def test_what_kamaji_requires_of_what_we_name_must_be_there() -> None:
    """The comparison itself: each of these would be a model that says what is not so."""
    theirs = yaml.safe_load(
        """
        type: object
        required: [a]
        properties:
          a: {type: string, enum: [x, y], default: x}
          b: {type: array, items: {type: integer, format: int32}}
        """
    )

    def found(ours: str) -> list[str]:
        return list(differences(yaml.safe_load(ours), theirs, "spec"))

    assert found("{properties: {a: {type: string}}, required: [a]}") == []
    assert found("{properties: {a: {type: string}}}") == ["spec: {'a'} must be there"]
    assert found("{properties: {a: {type: integer}}, required: [a]}") == ["spec.a: type is string"]
    assert found("{properties: {a: {enum: [x]}}, required: [a]}") == ["spec.a: one of ['x', 'y']"]
    assert found("{properties: {a: {default: y}}, required: [a]}") == ["spec.a: the default is x"]
    assert found("{properties: {c: {type: string}}}") == ["spec.c: there is none"]
    assert found("{properties: {b: {items: {type: string}}}}") == ["spec.b[]: type is integer"]
    assert list(differences({"properties": {"a": {}}}, theirs, "status")) == []
