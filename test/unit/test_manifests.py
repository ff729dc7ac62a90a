"""The manifests that install the system agree with the processes, with each other and with the files that there are."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from dpf.provisioning.admission.register import SERVICE, registration
from dpf.provisioning.dpucluster.kubeconfigs import READER
from dpf.runtime.leader import RELEASE_TIMEOUT
from dpf.runtime.options import ManagerOptions, parse
from dpf_cmd import kamaji_cluster_manager, provisioning_manager, static_cluster_manager
from test.kustomize import Json, build, containers

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"
NAMESPACE = "dpf-operator-system"
PROCESSES: dict[str, Any] = {
    "provisioning-manager": provisioning_manager,
    "static-cluster-manager": static_cluster_manager,
    "kamaji-cluster-manager": kamaji_cluster_manager,
}
"""Module of each process that is deployed. A new manager has a row here, a file in config/manager and one in config/rbac."""

OBJECTS = build(CONFIG / "default")
EVERYWHERE = build(CONFIG / "all-namespaces")


def of_kind(kind: str, objects: list[Json] = OBJECTS) -> dict[str, Json]:
    """Objects by name."""
    return {obj["metadata"]["name"]: obj for obj in objects if obj["kind"] == kind}


def pod(name: str) -> Json:
    """The pod of a Deployment."""
    found: Json = of_kind("Deployment")[name]["spec"]["template"]["spec"]
    return found


def environment(name: str) -> dict[str, str]:
    """What the manager's container finds in its environment."""
    [container] = containers(of_kind("Deployment")[name])
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        found |= of_kind("ConfigMap")[source["configMapRef"]["name"]]["data"]
    for each in container.get("env", ()):
        assert each["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.namespace"
        found[each["name"]] = NAMESPACE
    return found


def options(name: str, objects: list[Json] = OBJECTS) -> Any:
    """The flags of a Deployment, as its process reads them."""
    [container] = containers(of_kind("Deployment", objects)[name])
    known = environment(name)
    arguments = [re.sub(r"\$\((\w+)\)", lambda match: known[match[1]], word) for word in container["args"]]
    return parse(PROCESSES[name].Options, arguments, prog=name, description="")


def test_every_manager_is_deployed_and_named_after_its_process() -> None:
    assert of_kind("Deployment").keys() == PROCESSES.keys()
    for name, module in PROCESSES.items():
        [container] = containers(of_kind("Deployment")[name])
        assert container["command"] == [module.NAME] == [name]
        selected = of_kind("Deployment")[name]["spec"]["selector"]["matchLabels"]
        assert selected.items() <= of_kind("Deployment")[name]["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("name", PROCESSES)
def test_every_argument_is_a_flag_and_ports_and_grace_are_those_that_the_process_has(name: str) -> None:
    manager: ManagerOptions = options(name).manager
    assert manager.leader_elect
    assert manager.guarded
    # Static clusters may be anywhere, and nothing else is looked at.
    assert manager.namespace == ("" if name == "static-cluster-manager" else NAMESPACE)
    [container] = containers(of_kind("Deployment")[name])
    ports = {port["name"]: f":{port['containerPort']}" for port in container["ports"]}
    assert (ports["metrics"], ports["health"]) == (manager.metrics_bind_address, manager.health_probe_bind_address)
    for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "health"}
    grace = pod(name)["terminationGracePeriodSeconds"]
    assert grace > manager.graceful_shutdown_timeout + RELEASE_TIMEOUT


def test_the_provisioning_manager_gets_its_volume_its_images_and_its_way_for_webhooks() -> None:
    name = "provisioning-manager"
    settings = options(name).settings()
    images = environment(name)
    assert (settings.dms_image, settings.hostnetwork_image) == (images["DMS_IMAGE"], images["HOSTNETWORK_IMAGE"])
    [container] = containers(of_kind("Deployment")[name])
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod(name)["volumes"]}
    claim = volumes[mounts[str(settings.bfb_dir)]]["persistentVolumeClaim"]["claimName"]
    assert claim == settings.bfb_pvc
    assert of_kind("PersistentVolumeClaim")[claim]["spec"]["accessModes"] == ["ReadWriteMany"]
    pulled = {each["name"] for each in pod(name)["imagePullSecrets"]}
    assert set(settings.image_pull_secrets) == pulled

    service = of_kind("Service")[SERVICE]["spec"]
    assert [(port["port"], port["targetPort"]) for port in service["ports"]] == [(443, "webhook-server")]
    labels = of_kind("Deployment")[name]["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    ports = {port["name"]: f":{port['containerPort']}" for port in container["ports"]}
    assert ports["webhook-server"] == options(name).webhook_bind_address


def test_what_runs_on_hosts_and_can_be_built_from_here_is_the_image_of_the_managers() -> None:
    [manager] = containers(of_kind("Deployment")["provisioning-manager"])
    [daemon_set] = [obj for obj in build(CONFIG / "detector") if obj["kind"] == "DaemonSet"]
    [detector] = containers(daemon_set)
    assert options("provisioning-manager").settings().hostnetwork_image == manager["image"] == detector["image"]
    secrets = daemon_set["spec"]["template"]["spec"]["imagePullSecrets"]
    assert secrets == pod("provisioning-manager")["imagePullSecrets"]


@pytest.mark.parametrize("name", PROCESSES)
def test_a_manager_has_its_own_account_and_no_power_over_its_node(name: str) -> None:
    spec = pod(name)
    assert spec["serviceAccountName"] == name
    assert name in of_kind("ServiceAccount")
    bound = {
        (subject["name"], subject["namespace"])
        for kind in ("RoleBinding", "ClusterRoleBinding")
        for binding in of_kind(kind).values()
        for subject in binding["subjects"]
    }
    assert (name, NAMESPACE) in bound
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    [container] = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "hostNetwork" not in spec
    assert not any("hostPath" in volume for volume in spec.get("volumes", ()))
    assert container["resources"].keys() == {"requests", "limits"}


def test_dpuclusters_of_all_namespaces_are_seen_and_by_default_no_secret_of_theirs_may_be_read() -> None:
    assert options("provisioning-manager").settings().all_dpuclusters
    assert READER in of_kind("ClusterRole")
    bindings = [*of_kind("ClusterRoleBinding").values(), *of_kind("RoleBinding").values()]
    assert READER not in {each["roleRef"]["name"] for each in bindings}
    for binding in of_kind("ClusterRoleBinding").values():
        role = of_kind("ClusterRole").get(binding["roleRef"]["name"], {"rules": []})
        assert not any("secrets" in rule["resources"] for rule in role["rules"])


def test_all_namespaces_differs_from_the_default_in_two_bindings_and_one_flag() -> None:
    for name in PROCESSES:
        usual, found = options(name), options(name, EVERYWHERE)
        if name == "kamaji-cluster-manager":
            assert found.manager.namespace == ""
            usual = replace(usual, manager=replace(usual.manager, namespace=""))
        assert found == usual
    bindings = of_kind("ClusterRoleBinding", EVERYWHERE)
    added = bindings.keys() - of_kind("ClusterRoleBinding").keys()
    assert {(bindings[name]["roleRef"]["name"], bindings[name]["subjects"][0]["name"]) for name in added} == {
        (READER, "provisioning-manager"),
        ("dpf-kamaji-clusters", "kamaji-cluster-manager"),
    }
    assert len(EVERYWHERE) == len(OBJECTS) + len(added)


@pytest.mark.parametrize("folder", ["all-namespaces", "crd", "detector", "manager", "observability", "rbac"])
def test_nothing_that_lies_in_a_folder_is_left_out(folder: str) -> None:
    listed = set(yaml.safe_load((CONFIG / folder / "kustomization.yaml").read_text())["resources"])
    assert {path.name for path in (CONFIG / folder).glob("*.yaml")} - {"kustomization.yaml"} <= listed


def test_the_image_is_made_of_what_is_pinned_and_does_not_run_as_root() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert next(line for line in lines if line.startswith("FROM")) == "FROM python:3.11-slim"
    assert any("--no-deps -r requirements.lock" in line for line in lines)
    user = next(line.split()[1] for line in lines if line.startswith("USER"))
    assert user == "65532:65532"
    for name in PROCESSES:
        context = pod(name)["securityContext"]
        assert f"{context['runAsUser']}:{context['runAsGroup']}" == user


def test_the_page_removes_the_manager_then_its_webhooks_then_what_they_would_be_asked_about() -> None:
    """What is deleted while a registered webhook is dead is refused; a manager that runs registers them anew."""
    page = (ROOT / "docs" / "install.md").read_text()
    own = registration(NAMESPACE)
    steps = [
        f"kubectl -n {NAMESPACE} delete deployment provisioning-manager --cascade=foreground",
        f"kubectl delete mutatingwebhookconfiguration {own.mutating}",
        f"kubectl delete validatingwebhookconfiguration {own.validating}",
        "kubectl delete -k my-dpf",
    ]
    places = [page.index(f"    {step}") for step in steps]
    assert places == sorted(places)
    assert "provisioning-manager" in of_kind("Deployment")
