"""A small reader of kustomizations: of what ours use, and it fails for anything else. What it yields is what would be applied."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]
KNOWN = {"resources", "images", "configMapGenerator", "patches"}


def build(folder: Path) -> list[Json]:
    """The objects of a kustomization; names of generated ones bear no hash.

    :raises AssertionError: if it uses what this does not know, or names what is not in its folder.
    """
    kustomization: Json = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert kustomization.keys() <= KNOWN, f"{folder}: {kustomization.keys() - KNOWN}"
    objects = [each for name in kustomization.get("resources", ()) for each in _resource(folder, name)]
    for generator in kustomization.get("configMapGenerator", ()):
        _generate(objects, generator)
    for patch in kustomization.get("patches", ()):
        _patch_arguments(objects, yaml.safe_load(patch["patch"]))
    images = {each["name"]: f"{each['newName']}:{each['newTag']}" for each in kustomization.get("images", ())}
    for obj in objects:
        for container in containers(obj):
            name = re.sub(r"[:@][^/]*$", "", container["image"])
            container["image"] = images.get(name, container["image"])
    return objects


def containers(obj: Json) -> list[Json]:
    """The containers of a Deployment or DaemonSet; none of others."""
    if obj["kind"] not in ("Deployment", "DaemonSet"):
        return []
    found: list[Json] = obj["spec"]["template"]["spec"]["containers"]
    return found


def _patch_arguments(objects: list[Json], patch: Json) -> None:
    """A strategic merge patch that gives containers other arguments."""
    same = [obj for obj in objects if all(obj[key] == patch[key] for key in ("apiVersion", "kind"))]
    [patched] = [obj for obj in same if patch["metadata"].items() <= obj["metadata"].items()]
    for wanted in containers(patch):
        assert wanted.keys() == {"name", "args"}, wanted
        [container] = [each for each in containers(patched) if each["name"] == wanted["name"]]
        container["args"] = wanted["args"]


def _resource(folder: Path, name: str) -> Iterator[Json]:
    path = (folder / name).resolve()
    if path.is_dir():
        yield from build(path)
        return
    assert path.is_relative_to(folder.resolve()), f"{folder}: kustomize reads no file outside of the folder: {name}"
    yield from (each for each in yaml.safe_load_all(path.read_text()) if each)


def _generate(objects: list[Json], generator: Json) -> None:
    """Adds a ConfigMap, or puts what it says into the one that is there."""
    made = _config_map(generator)
    behavior = generator.get("behavior", "create")
    assert behavior in ("create", "merge"), behavior
    same = [obj for obj in objects if obj["kind"] == "ConfigMap" and obj["metadata"] == made["metadata"]]
    assert len(same) == (behavior == "merge"), f"{made['metadata']}: to {behavior}, and there are {len(same)}"
    if same:
        same[0]["data"] |= made["data"]
    else:
        objects.append(made)


def _config_map(generator: Json) -> Json:
    data = dict(literal.split("=", 1) for literal in generator["literals"])
    metadata = {"name": generator["name"], "namespace": generator["namespace"]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
