"""Writes the CRDs under config/crd from the models of dpf_api; with ``--check`` only tells whether they are up to date.

A CRD holds what the models say and nothing else: types and enums from annotations, requiredness, patterns, limits, server
defaults and CEL rules from :class:`dpf_api.schema.Schema` marks, descriptions from docstrings. The schemas are structural
(no references, nothing nullable: leaving a field out is how it is unset). A Python-side default never becomes a server
default by itself; where both exist they must agree, or generation fails.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
import textwrap
import types
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from dpf.runtime.meta import Condition, LabelSelector, Model, Object
from dpf_api import bfb, certificate, dpu, dpucluster, dpuflavor, dpuset, kamaji, nodemaintenance, operatorconfig
from dpf_api.schema import UNSET, Column, Rule, Schema

CONFIG = Path(__file__).resolve().parent.parent / "config" / "crd"
KINDS: list[type[Object]] = [bfb.BFB, dpu.DPU, dpucluster.DPUCluster, dpuflavor.DPUFlavor, dpuset.DPUSet]
EXTERNAL: list[type[Object]] = [
    certificate.Certificate,
    kamaji.DataStore,
    kamaji.TenantControlPlane,
    nodemaintenance.NodeMaintenance,
    operatorconfig.DPFOperatorConfig,
]
"""Kinds of other projects, for sandbox and tests; a real cluster has those projects' own CRDs."""

HEADER = "# Generated from the models in api/dpf_api by hack/generate_crds.py (make generate); edit those.\n"

JsonSchema = dict[str, Any]

TIME: JsonSchema = {
    "type": "string",
    "format": "date-time",
    # The format alone lets through what is no moment to most readers: the year 0, an offset of 99 hours.
    "pattern": r"^(000[1-9]|00[1-9]\d|0[1-9]\d{2}|[1-9]\d{3})-\d{2}-\d{2}T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?"
    r"(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$",
}

CONDITION: JsonSchema = {
    "description": "One thing that is or is not true of the object.",
    "type": "object",
    "required": ["lastTransitionTime", "message", "reason", "status", "type"],
    "properties": {
        "lastTransitionTime": {"description": "When status last changed.", **TIME},
        "message": {"description": "The reason in a sentence; may be empty.", "type": "string", "maxLength": 32768},
        "observedGeneration": {
            "description": "The generation of the spec that the condition speaks of.",
            "type": "integer",
            "format": "int64",
            "minimum": 0,
        },
        "reason": {
            "description": "Why status is as it is, in one word for programs.",
            "type": "string",
            "minLength": 1,
            "maxLength": 1024,
            "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        },
        "status": {
            "description": "Whether it is true.",
            "type": "string",
            "enum": ["True", "False", "Unknown"],
        },
        "type": {
            "description": "What the condition is about, in CamelCase.",
            "type": "string",
            "maxLength": 316,
            "pattern": r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
            r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
        },
    },
}

LABEL_SELECTOR: JsonSchema = {
    "type": "object",
    "x-kubernetes-map-type": "atomic",
    "properties": {
        "matchExpressions": {
            "description": "Conditions on labels; all must hold.",
            "type": "array",
            "x-kubernetes-list-type": "atomic",
            "items": {
                "description": "A condition on one label.",
                "type": "object",
                "required": ["key", "operator"],
                "properties": {
                    "key": {"description": "The label.", "type": "string"},
                    "operator": {
                        "description": "How the label is compared.",
                        "type": "string",
                        "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                    },
                    "values": {
                        "description": "The values for In and NotIn.",
                        "type": "array",
                        "x-kubernetes-list-type": "atomic",
                        "items": {"type": "string"},
                    },
                },
            },
        },
        "matchLabels": {
            "description": "Labels with the value they must have.",
            "type": "object",
            "additionalProperties": {"type": "string"},
        },
    },
}

WELL_KNOWN: dict[Any, JsonSchema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    bool: {"type": "boolean"},
    datetime: TIME,
    Condition: CONDITION,
    LabelSelector: LABEL_SELECTOR,
    Any: {"x-kubernetes-preserve-unknown-fields": True},
}


class ModelError(Exception):
    """A model says something that a CRD can't, or contradicts itself."""


def first_paragraph(text: str | None) -> str:
    """The docstring's first paragraph on one line."""
    return " ".join(inspect.cleandoc(text or "").split("\n\n")[0].split())


@cache
def field_docs(model: type[Model]) -> dict[str, str]:
    """The docstring that stands below each field of a model."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    found: dict[str, str] = {}
    for field, below in pairwise(body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = first_paragraph(text)
    return found


def schema_of(annotation: Any) -> JsonSchema:
    """The schema of a type.

    :raises ModelError: if there is none.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        marks = [mark for mark in arguments[1:] if isinstance(mark, Schema)]
        inner = {} if any(mark.int_or_string for mark in marks) else schema_of(arguments[0])
        return inner | facts(marks)
    if annotation in WELL_KNOWN:
        return dict(WELL_KNOWN[annotation])
    if origin in (Union, types.UnionType):
        (inner_type,) = [each for each in arguments if each is not type(None)]
        return schema_of(inner_type)
    if origin is list:
        return {"type": "array", "items": schema_of(arguments[0])}
    if origin is dict:
        values = schema_of(arguments[1])
        return {"type": "object"} | (values if arguments[1] is Any else {"additionalProperties": values})
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return {"type": "string", "enum": [member.value for member in annotation]}
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return model_schema(annotation)
    raise ModelError(f"no schema for {annotation!r}")


def facts(marks: list[Schema]) -> JsonSchema:
    """What the marks of a field add to the schema of its type."""
    schema: JsonSchema = {}
    for mark in marks:
        if mark.int_or_string:
            schema |= {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
        if mark.pattern:
            schema["pattern"] = mark.pattern
        for name, limit in (("minimum", mark.minimum), ("maximum", mark.maximum)):
            if limit is not None:
                schema[name] = limit
        if mark.default is not UNSET:
            schema["default"] = mark.default.value if isinstance(mark.default, StrEnum) else mark.default
        schema |= mark.extra or {}
        if mark.rules:
            schema["x-kubernetes-validations"] = [rule.wire() for rule in mark.rules]
    return schema


def marks_of(field: FieldInfo) -> list[Schema]:
    """The marks on a field itself."""
    return [mark for mark in field.metadata if isinstance(mark, Schema)]


def agree(model: type[Model], name: str, field: FieldInfo) -> None:
    """Checks that a server default is what a reader of the model sees as well.

    :raises ModelError: if it is not.
    """
    for mark in marks_of(field):
        if mark.default is UNSET:
            continue
        declared: Any = field.annotation
        adapter: TypeAdapter[Any] = TypeAdapter(declared)
        ours, servers = field.get_default(call_default_factory=True), adapter.validate_python(mark.default)
        if adapter.dump_python(ours) != adapter.dump_python(servers):
            raise ModelError(f"{model.__name__}.{name}: default is {ours!r} here but {servers!r} on the server")


def properties(model: type[Model]) -> Iterator[tuple[str, JsonSchema, bool]]:
    """Wire name, schema and requiredness of the fields of a model, but for the three that every kind has."""
    docs = field_docs(model)
    for name, field in model.model_fields.items():
        if name in Object.model_fields:
            continue
        if not docs.get(name):
            raise ModelError(f"{model.__name__}.{name} has no docstring to describe it")
        agree(model, name, field)
        marks = marks_of(field)
        typed = schema_of(Annotated[field.annotation, *marks]) if marks else schema_of(field.annotation)
        schema = {"description": docs[name]} | typed | {"description": docs[name]}
        yield field.alias or name, schema, any(mark.required for mark in marks)


def model_schema(model: type[Model]) -> JsonSchema:
    """The schema of an object."""
    fields = list(properties(model))
    schema: JsonSchema = {"description": first_paragraph(model.__doc__), "type": "object"}
    if required := sorted(name for name, _, needed in fields if needed):
        schema["required"] = required
    schema["properties"] = {name: field for name, field, _ in fields}
    return schema


STANDARD: JsonSchema = {
    "apiVersion": {"description": "Group and version of the API that the object is written in.", "type": "string"},
    "kind": {"description": "Kind of the object.", "type": "string"},
    "metadata": {"type": "object"},
}


def crd(kind: type[Object], *, keep: bool = True) -> JsonSchema:
    """The CustomResourceDefinition of a kind.

    :param keep: whether it outlives the uninstallation of the Helm chart that brought it, and all objects with it.
    """
    resource = kind.RESOURCE
    schema = model_schema(kind)
    schema["properties"] = STANDARD | schema["properties"]
    rules: tuple[Rule, ...] = getattr(kind, "RULES", ())
    columns: tuple[Column, ...] = getattr(kind, "COLUMNS", ())
    if rules:
        schema["x-kubernetes-validations"] = [rule.wire() for rule in rules]
    version: JsonSchema = {"name": resource.version, "served": True, "storage": True}
    if columns:
        version["additionalPrinterColumns"] = [column.wire() for column in columns]
    version["schema"] = {"openAPIV3Schema": schema}
    if "status" in kind.model_fields:
        version["subresources"] = {"status": {}}
    metadata: JsonSchema = {"name": str(resource)}
    if keep:
        metadata["annotations"] = {"helm.sh/resource-policy": "keep"}
    names = {
        "kind": resource.kind,
        "listKind": f"{resource.kind}List",
        "plural": resource.plural,
        "singular": resource.kind.lower(),
    }
    scope = "Namespaced" if resource.namespaced else "Cluster"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": {"group": resource.group, "names": names, "scope": scope, "versions": [version]},
    }


class Dumper(yaml.SafeDumper):
    """Writes each value out where it stands: anchors would tie places together that only happen to look alike."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never an alias."""
        return True


def render() -> dict[Path, str]:
    """Path below config/crd and text of each file."""
    wanted = {Path(f"{kind.RESOURCE.group}_{kind.RESOURCE.plural}.yaml"): crd(kind) for kind in KINDS}
    wanted |= {
        Path("external", f"{kind.RESOURCE.group}_{kind.RESOURCE.plural}.yaml"): crd(kind, keep=False)
        for kind in EXTERNAL
    }
    return {path: HEADER + yaml.dump(body, Dumper=Dumper, sort_keys=False, width=120) for path, body in wanted.items()}


def stale(root: Path, wanted: dict[Path, str]) -> list[Path]:
    """Files below ``root`` that are not as wanted: missing, different, or not generated any more. The kustomization is written by
    hand."""
    files = (path for path in root.rglob("*.yaml") if path.name != "kustomization.yaml")
    found = {path.relative_to(root): path.read_text() for path in files}
    return sorted(path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path))


def write(root: Path, wanted: dict[Path, str]) -> None:
    """Makes the folder hold the wanted YAML files and no others."""
    for path in stale(root, wanted):
        if path not in wanted:
            (root / path).unlink()
            continue
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(wanted[path])


def main(arguments: list[str] | None = None) -> int:
    """Writes the files, or with ``--check`` names those that are stale; 1 if there are any."""
    parser = argparse.ArgumentParser(description="CRDs from the models of dpf_api")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when config/crd is not up to date")
    parser.add_argument("--output", type=Path, default=CONFIG, help="folder to write to (default: config/crd)")
    options = parser.parse_args(arguments)
    wanted = render()
    if not options.check:
        write(options.output, wanted)
        return 0
    for path in stale(options.output, wanted):
        print(f"{options.output / path} is not what the models say; run make generate", file=sys.stderr)
    return 1 if stale(options.output, wanted) else 0


if __name__ == "__main__":
    sys.exit(main())
