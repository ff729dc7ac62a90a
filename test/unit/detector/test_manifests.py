"""The manifests of ``config/detector``: they say what the program takes, and ask for no more than it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpf.host.pci import DPUS, VENDOR
from dpf.runtime.options import parse
from dpf_cmd import dpu_detector
from test.kustomize import build

FOLDER = Path(__file__).parents[3] / "config" / "detector"


def objects() -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in build(FOLDER)}


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = objects()["DaemonSet"]["spec"]["template"]["spec"]
    return spec


def test_the_daemonset_gives_flags_that_the_program_has() -> None:
    container = pod()["containers"][0]
    assert container["command"] == [dpu_detector.NAME]
    options = parse(dpu_detector.Options, container["args"], prog=dpu_detector.NAME, description="")
    host, _, port = options.health_probe_bind_address.partition(":")
    for probe in ("livenessProbe", "readinessProbe"):
        assert (container[probe]["httpGet"]["host"], str(container[probe]["httpGet"]["port"])) == (host, port)


def test_what_the_program_reads_and_writes_by_default_is_mounted() -> None:
    options = dpu_detector.Options()
    mounts = {mount["mountPath"]: mount for mount in pod()["containers"][0]["volumeMounts"]}
    assert mounts[str(options.sysfs)]["readOnly"]
    assert "readOnly" not in mounts[str(options.features_file.parent)]
    paths = {volume["name"]: volume["hostPath"]["path"] for volume in pod()["volumes"]}
    assert paths[mounts[str(options.sysfs)]["name"]] == "/sys"
    assert paths[mounts[str(options.features_file.parent)]["name"]] == str(options.features_file.parent)


def test_it_asks_for_no_rights() -> None:
    assert pod()["automountServiceAccountToken"] is False
    assert pod()["serviceAccountName"] == objects()["ServiceAccount"]["metadata"]["name"]
    security = pod()["containers"][0]["securityContext"]
    assert (security["privileged"], security["capabilities"]) == (False, {"drop": ["ALL"]})
    assert not {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"} & objects().keys()


def test_pods_are_found_by_their_label() -> None:
    spec = objects()["DaemonSet"]["spec"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


def test_the_rule_knows_the_cards_that_the_program_knows() -> None:
    (rule,) = objects()["NodeFeatureRule"]["spec"]["rules"]
    (feature,) = rule["matchFeatures"]
    asked = {name: set(expression["value"]) for name, expression in feature["matchExpressions"].items()}
    assert asked == {"vendor": {f"{VENDOR:04x}"}, "device": {f"{device:04x}" for device in DPUS}}
    assert rule["labels"] == {"dpu-enabled": "true"}
