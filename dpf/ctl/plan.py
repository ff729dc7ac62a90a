"""``dpfctl plan``: what an edit of DPUSets, DPUFlavors and BFBs would do to which DPUs, before it is made. Only reads."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from dpf.ctl import connect, output
from dpf.ctl.connect import Session
from dpf.ctl.rehearsal import Action, Change, Rehearsal, look_at_reboots, meanwhile, rehearse, tally
from dpf.provisioning.dpuset import members
from dpf.runtime.errors import ConfigError
from dpf.runtime.k8s import Node
from dpf.runtime.meta import Key, Model, Object
from dpf_api.bfb import BFB, file_of
from dpf_api.bfb import Phase as BFBPhase
from dpf_api.dpu import DPU
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.dpuset import DPUSet

KINDS: Mapping[str, type[Object]] = {each.RESOURCE.kind: each for each in (DPUSet, DPUFlavor, BFB)}
REFUSED = 3
"""Exit status if the API server would refuse the edit."""
NAMED = 3
"""DPUs of a row that are named unless ``-o wide`` is given."""
BATCHES = 5
"""Batches from the start that are shown unless ``-o wide`` is given; and the last."""
COLOURS = {
    Action.CREATE: output.GREEN,
    Action.DELETE: output.RED,
    Action.REPROVISION: output.YELLOW,
    Action.BLOCKED: output.RED,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of ``dpfctl plan``."""
    parser.add_argument(
        "-f", "--filename", action="append", required=True, metavar="FILE", help="manifests, YAML or JSON; - for stdin"
    )
    parser.add_argument("-o", "--output", choices=["table", "wide", "json", "yaml"], default="table")
    parser.add_argument(
        "-c", "--color", action=argparse.BooleanOptionalAction, help="default: on a terminal, if NO_COLOR is not set"
    )
    connect.add_flags(parser)
    parser.set_defaults(run=lambda arguments: connect.run(arguments, lambda session: plan(session, arguments)))


@dataclass
class Plan:
    """What comes of all manifests."""

    sets: list[Rehearsal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """For programs."""
        return {"sets": [each.plain() for each in self.sets], "notes": self.notes, "refusals": self.refusals}


async def plan(session: Session, arguments: argparse.Namespace) -> int:
    """Prints what would happen."""
    here = session.namespace or session.kubeconfig.namespace
    objects, notes = parse(manifests(arguments.filename), here)
    session.namespace = ""
    async with asyncio.TaskGroup() as group:
        dpusets = group.create_task(session.find(DPUSet))
        bfbs = group.create_task(session.find(BFB))
        flavors = group.create_task(session.find(DPUFlavor))
        dpus = group.create_task(session.find(DPU))
        nodes = group.create_task(session.find(Node))
    live: list[Object] = [*dpusets.result(), *bfbs.result(), *flavors.result()]
    result = work_out(objects, live, nodes.result(), dpus.result())
    result.notes = notes + result.notes
    if arguments.output in ("json", "yaml"):
        output.dump(result.plain(), arguments.output)
    else:
        _print(result, wide=arguments.output == "wide", coloured=output.painted(always=arguments.color))
    return REFUSED if result.refusals else 0


# From manifests to a plan


class Loader(yaml.CSafeLoader):
    """As kubectl reads YAML: what looks like a date is text, a card's PCI address for one."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def manifests(files: Iterable[str]) -> list[dict[str, Any]]:
    """The documents of files; a List is taken apart.

    :raises ConfigError: naming the file and what is wrong with it.
    """
    found: list[dict[str, Any]] = []
    for name in files:
        try:
            text = sys.stdin.read() if name == "-" else Path(name).read_text()
            documents = [each for each in yaml.load_all(text, Loader) if each is not None]
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"cannot read manifests from {name}: {error}") from None
        for document in documents:
            found += _taken_apart(name, document)
    return found


def _taken_apart(file: str, document: Any) -> list[dict[str, Any]]:
    """A document, or those of a List.

    :raises ConfigError: if one is no manifest.
    """
    if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
        raise ConfigError(f"{file}: a manifest must be a mapping with apiVersion, kind, metadata and spec")
    if document["kind"] == "List" and isinstance(items := document.get("items"), list):
        return [each for item in items for each in _taken_apart(file, item)]
    if not isinstance(document.get("metadata") or {}, dict):
        raise ConfigError(f"{file}: metadata of a {document['kind']} must be a mapping")
    return [document]


def parse(documents: Iterable[Mapping[str, Any]], namespace: str) -> tuple[list[Object], list[str]]:
    """The objects of manifests that a plan can be made of, and notes on the others.

    :param namespace: of objects that name none.
    :raises ConfigError: if one does not fit its kind; the message names kind, field and rule.
    """
    objects: list[Object] = []
    notes: list[str] = []
    for document in documents:
        metadata = document.get("metadata") or {}
        title = f"{document.get('kind')} {metadata.get('name', '')!r}"
        kind = KINDS.get(str(document.get("kind")))
        if kind is None or document.get("apiVersion") != kind.RESOURCE.api_version:
            notes.append(f"{title} of {document.get('apiVersion')} is not looked at: plans are of {', '.join(KINDS)}")
            continue
        try:
            obj = kind.model_validate(
                {**document, "metadata": {**metadata, "namespace": metadata.get("namespace") or namespace}}
            )
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise ConfigError(f"{title}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        if not obj.name:
            raise ConfigError(f"{title}: metadata.name is required")
        notes += [f"{title} has a field {path} that the API does not know" for path in unknown(kind, document, "")]
        objects.append(obj)
    return objects, notes


def unknown(model: type[Model], value: Any, path: str) -> list[str]:
    """Paths of fields that the model does not have: mistyped, most likely, and dropped by the server."""
    if not isinstance(value, Mapping):
        return []
    found: list[str] = []
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    for key, inner in value.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in fields:
            found += [] if where in ("status", "metadata") or path == "metadata" else [where]
        elif (nested := _model_in(fields[key].annotation)) is not None:
            each = inner if isinstance(inner, list) else [inner]
            found += [wrong for one in each for wrong in unknown(nested, one, where)]
    return found


def _model_in(annotation: Any) -> type[Model] | None:
    """The model that a field holds, alone, in a list or as one that may be missing."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation
    return next((found for each in get_args(annotation) if (found := _model_in(each)) is not None), None)


def work_out(objects: Sequence[Object], live: Sequence[Object], nodes: Sequence[Node], dpus: Sequence[DPU]) -> Plan:
    """The plan: what each object of the manifests comes to in a cluster with these objects."""
    there = {(type(each), each.key): each for each in live}
    # BFBs and DPUFlavors that are there stay as they are, with the status that no manifest has.
    after = {(type(each), each.key): each for each in objects} | there
    result = Plan()
    for obj in objects:
        old = there.get((type(obj), obj.key))
        if isinstance(obj, DPUSet):
            rehearsal = rehearse(old if isinstance(old, DPUSet) else None, obj, nodes, dpus)
            result.sets.append(rehearsal)
            rehearsal.notes += _references(obj, after)
            flavor = after.get((DPUFlavor, Key(obj.namespace, members.template_spec(obj).dpu_flavor)))
            look_at_reboots(rehearsal, nodes, flavor if isinstance(flavor, DPUFlavor) else None)
        elif isinstance(obj, BFB | DPUFlavor):
            _frozen(result, obj, old, dpus)
    return result


def _frozen(result: Plan, obj: BFB | DPUFlavor, old: Object | None, dpus: Sequence[DPU]) -> None:
    """BFBs and DPUFlavors can be made, and can't be changed."""
    title, kind = f"{obj.RESOURCE.kind} {obj.key}", obj.RESOURCE.kind
    named = [
        each for each in dpus if obj.key == (each.namespace, each.spec.bfb if kind == "BFB" else each.spec.dpu_flavor)
    ]
    if old is None:
        waiting = f"; {len(named)} DPUs name it already and go on then" if named else ""
        result.notes.append(f"{title} is created{waiting}")
    elif _spec(obj) != _spec(old):
        result.refusals.append(
            f"{title} can't be changed, and {len(named)} DPUs use it: create a {kind} of another name and name that in "
            "the DPUSet's template"
        )
    else:
        result.notes.append(f"{title} stays as it is")


def _spec(obj: Object) -> Any:
    plain = obj.model_dump(mode="json", by_alias=True, exclude_none=True).get("spec", {})
    if isinstance(obj, BFB):
        plain["fileName"] = file_of(obj)
    return plain


def _references(dpuset: DPUSet, after: Mapping[tuple[type[Object], Any], Object]) -> list[str]:
    """What the DPUs of a set would wait for."""
    template = members.template_spec(dpuset)
    notes = []
    bfb = after.get((BFB, (dpuset.namespace, template.bfb.name)))
    if bfb is None:
        notes.append(
            f"there is no BFB {template.bfb.name!r} in namespace {dpuset.namespace}: DPUs wait until it is created"
        )
    elif isinstance(bfb, BFB) and bfb.uid and bfb.status.phase is not BFBPhase.READY:
        notes.append(f"BFB {bfb.name} is {bfb.status.phase.value}: DPUs wait until it is Ready")
    flavor = template.dpu_flavor
    if flavor and (DPUFlavor, (dpuset.namespace, flavor)) not in after:
        notes.append(f"there is no DPUFlavor {flavor!r} in namespace {dpuset.namespace}: DPUs wait until it is created")
    return notes


# For people


def _print(result: Plan, *, wide: bool, coloured: bool) -> None:
    blocks = [_block(each, wide=wide, coloured=coloured) for each in result.sets]
    blocks += ["\n".join(f"note: {note}" for note in result.notes)] if result.notes else []
    refused = [f"refused: {each}" for each in result.refusals]
    blocks += ["\n".join(output.colour(line, output.RED) if coloured else line for line in refused)] if refused else []
    output.say("\n\n".join(blocks) or "no manifests: nothing would happen")


def _block(rehearsal: Rehearsal, *, wide: bool, coloured: bool) -> str:
    dpuset = rehearsal.dpuset
    pace = f", at most {rehearsal.allowed} of {rehearsal.attainable} DPUs unavailable" if rehearsal.allowed else ""
    title = f"DPUSet {dpuset.key}{' (new)' if rehearsal.created else ''}: {rehearsal.strategy}{pace}"
    lines = [output.colour(title, output.BOLD) if coloured else title]
    if rehearsal.changes:
        rows = _every(rehearsal) if wide else _summed(rehearsal)
        lines.append(output.table(rows, _paint if coloured else lambda _, cell: cell, empty=""))
    counts = tally([rehearsal])
    said = [f"{counts[action]} {word}" for action, word in _WORDS.items() if counts[action]]
    batches = f", in {rehearsal.batches} batches" if rehearsal.batches > 1 else ""
    lines.append(f"DPUs: {', '.join(said)}{batches}." if said else "No DPU is touched.")
    if counts[Action.CREATE] or counts[Action.REPROVISION]:
        lines.append(f"Meanwhile their hosts are {meanwhile(rehearsal)}.")
    return "\n".join([*lines, *(f"note: {note}" for note in rehearsal.notes)])


_WORDS = {
    Action.CREATE: "to create",
    Action.DELETE: "to delete",
    Action.REPROVISION: "to provision anew",
    Action.UPDATE: "to update as they are",
    Action.OUTDATED: "left outdated",
    Action.BLOCKED: "blocked",
}


def _every(rehearsal: Rehearsal) -> list[dict[str, str]]:
    return [
        {"step": e.step, "action": e.action.value, "dpu": e.dpu, "node": e.node, "why": e.why}
        for e in rehearsal.changes
    ]


def _summed(rehearsal: Rehearsal) -> list[dict[str, str]]:
    """One row for what happens at one time for one reason; of many batches the first ones and the last."""
    groups: dict[tuple[str, Action, str], list[Change]] = {}
    last, skipped = rehearsal.batches, Counter[Action]()
    for change in rehearsal.changes:
        if BATCHES < change.batch < last:
            skipped[change.action] += 1
            if skipped[change.action] == 1:
                groups["...", change.action, change.why] = []
            continue
        why = "see -o wide" if change.action is Action.BLOCKED else change.why
        groups.setdefault((change.step, change.action, why), []).append(change)
    rows = []
    for (step, action, why), changes in groups.items():
        names = [change.dpu for change in changes]
        which = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
        count = len(names) or skipped[action]
        rows.append({"step": step, "action": action.value, "dpus": str(count), "which": which, "why": why})
    return rows


def _paint(column: str, cell: str) -> str:
    if column != "action":
        return cell
    return output.colour(cell, COLOURS.get(Action(cell.strip()), ""))
