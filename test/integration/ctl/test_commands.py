"""``dpfctl`` against real API servers."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dpf.ctl.completion import names
from dpf.ctl.wait import failures
from dpf.runtime.client import Client
from dpf.runtime.k8s import Node, Pod, ServiceAccount
from dpf.runtime.meta import ObjectMeta, owner_reference
from dpf_api.bfb import BFB
from dpf_api.dpu import DPU
from dpf_api.dpucluster import DPUCluster
from dpf_api.dpuset import DPUSet
from dpf_api.names import ANNOTATION_RETRY, FEATURE_PREFIX, LABEL_DPUSET_NAME
from dpf_cmd.dpfctl import main
from test.integration.conftest import Planes

Dpfctl = Callable[..., Coroutine[Any, Any, tuple[int, str, str]]]
TEMPLATE = {"bfb": {"name": "image"}, "nodeEffect": {"noEffect": True}}


@pytest.fixture
def dpfctl(control_planes: Planes, namespace: str, capsys: pytest.CaptureFixture[str]) -> Dpfctl:
    """Runs a command against this test's namespace; gives exit status, standard output and standard error."""

    async def run(*words: str, kubeconfig: Path = control_planes.host) -> tuple[int, str, str]:
        def call() -> int:
            with pytest.raises(SystemExit) as ended:
                main([*words, "--kubeconfig", str(kubeconfig), "-n", namespace])
            assert isinstance(ended.value.code, int)
            return ended.value.code

        capsys.readouterr()
        status = await asyncio.to_thread(call)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


async def put(client: Client, namespace: str, name: str = "d1", *, owner: DPUSet | None = None, **status: Any) -> DPU:
    """A DPU with a status that nobody but the test writes."""
    meta = ObjectMeta(
        name=name,
        namespace=namespace,
        owner_references=[owner_reference(owner)] if owner else [],
        labels={LABEL_DPUSET_NAME: owner.name} if owner else {},
    )
    body = {
        "nodeName": f"{name}-{namespace}",
        "bfb": "image",
        "pciAddress": "0000-04-00",
        "nodeEffect": {"noEffect": True},
    }
    dpu = await client.create(DPU.model_validate({"metadata": meta, "spec": body}))
    return await client.merge_patch(dpu, {"status": {"phase": "Pending", **status}}, subresource="status")


def condition(kind: str, status: str, reason: str = "Because") -> dict[str, str]:
    moment = "2026-01-01T00:00:00Z"
    return {"type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": moment}


async def put_set(client: Client, namespace: str) -> DPUSet:
    spec = {"strategy": {"type": "RollingUpdate"}, "nodeSelector": {"matchLabels": {"test": namespace}}}
    body = {"metadata": {"name": "set", "namespace": namespace}, "spec": spec | {"dpuTemplate": {"spec": TEMPLATE}}}
    return await client.create(DPUSet.model_validate(body))


async def test_describe_shows_what_owns_what(host_client: Client, namespace: str, dpfctl: Dpfctl) -> None:
    dpuset = await put_set(host_client, namespace)
    dpu = await put(host_client, namespace, owner=dpuset, reason="BFBNotReady", message="waiting for BFB image")
    containers = {"containers": [{"name": "dms", "image": "x"}], "serviceAccountName": "other"}
    await host_client.create(ServiceAccount(metadata=ObjectMeta(name="other", namespace=namespace)))
    meta = ObjectMeta(name="d1-dms", namespace=namespace, owner_references=[owner_reference(dpu)])
    await host_client.create(Pod.model_validate({"metadata": meta, "spec": containers}))
    status, out, _ = await dpfctl("describe")
    assert status == 0
    lines = [line.strip().split("  ")[0] for line in out.splitlines()]
    assert lines[-3:] == ["└─DPUSet/set", "└─DPU/d1", "└─Pod/d1-dms"]
    assert "BFBNotReady" in out
    assert "\x1b" not in out
    assert "\x1b[31m" in (await dpfctl("describe", "--color"))[1]
    tree = json.loads((await dpfctl("describe", "dpu", "d1", "-o", "json"))[1])
    (heading,) = tree["children"]
    assert heading["children"][0]["children"][0]["message"] == "waiting for BFB image"
    assert yaml.safe_load((await dpfctl("describe", "dpu", "d1", "-o", "yaml"))[1]) == tree


async def test_describe_shows_the_conditions_that_are_asked_for(
    host_client: Client, namespace: str, dpfctl: Dpfctl
) -> None:
    dpuset = await put_set(host_client, namespace)
    for name in ("d1", "d2", "d3"):
        await put(host_client, namespace, name, owner=dpuset, conditions=[condition("Initialized", "True")])

    async def below_the_set(*words: str) -> list[str]:
        _, out, _ = await dpfctl("describe", *words)
        return [line.strip().split("  ")[0] for line in out.splitlines()][4:]

    assert await below_the_set() == ["└─3 DPUs"]
    assert await below_the_set("--show-conditions", "dpu/d2") == ["├─2 DPUs", "└─DPU/d2", "└─Initialized"]
    assert len(await below_the_set("--show-conditions", "all")) == 6
    status, out, err = await dpfctl("describe", "--show-conditions", "dpu/d9")
    assert (status, out, err) == (1, "", "error: --show-conditions=dpu/d9: no DPU 'd9' is shown\n")
    status, out, err = await dpfctl("describe", "--show-conditions", "bogus")
    assert (status, out, "write none, failed, all, KIND or KIND/NAME" in err) == (1, "", True)


async def test_get_prints_what_kubectl_prints(host_client: Client, namespace: str, dpfctl: Dpfctl) -> None:
    await put(host_client, namespace, conditions=[condition("Ready", "False")])
    _, out, _ = await dpfctl("get", "dpu")
    head, line = (row.split() for row in out.splitlines())
    assert head == ["NAME", "READY", "PHASE", "NODE", "BFB", "CLUSTER", "REASON", "AGE"]
    assert line[:5] == ["d1", "False", "Pending", f"d1-{namespace}", "image"]
    assert json.loads((await dpfctl("get", "dpus", "d1", "-o", "json"))[1])["metadata"]["name"] == "d1"
    assert (await dpfctl("get", "dpus", "-o", "name"))[1] == "dpus.provisioning.dpu.nvidia.com/d1\n"
    status, _, err = await dpfctl("get", "dpu", "nobody")
    assert (status, err) == (1, f"error: there is no DPU 'nobody' in namespace {namespace}\n")


async def test_objects_are_named_as_kubectl_and_retry_print_them(
    host_client: Client, namespace: str, dpfctl: Dpfctl
) -> None:
    for name in ("d1", "d2"):
        await put(host_client, namespace, name, phase="Error")
    assert json.loads((await dpfctl("get", "dpu/d1", "-o", "json"))[1])["metadata"]["name"] == "d1"
    printed = (await dpfctl("get", "dpus", "-o", "name"))[1]
    assert (await dpfctl("get", *printed.split(), "-o", "name")) == (0, printed, "")
    assert (await dpfctl("describe", "dpu/d1"))[1] == (await dpfctl("describe", "dpu", "d1"))[1]
    status, _, err = await dpfctl("describe", "dpu/nobody")
    assert (status, err) == (1, "error: there is no DPU 'nobody'; `dpfctl get dpus` lists those there are\n")
    status, _, err = await dpfctl("describe", "dpu/d1", "dpu/d2")
    assert (status, err) == (1, "error: describe shows one object or all of a kind, not d1 and d2\n")
    assert (await dpfctl("wait", "dpu/d1", "--for", "phase=Error"))[0] == 0
    retried = (await dpfctl("retry", "dpu/d1"))[1]
    assert retried == "dpu/d1 is tried again\n"
    assert (await dpfctl("get", retried.split()[0]))[0] == 0
    status, _, err = await dpfctl("get", "dpu/d1", "-l", "team=blue")
    assert (status, "not both" in err) == (1, True)


async def test_plan_tells_what_an_edit_would_do_and_writes_nothing(
    host_client: Client, namespace: str, dpfctl: Dpfctl, tmp_path: Path
) -> None:
    dpuset = await put_set(host_client, namespace)
    labels = {f"{FEATURE_PREFIX}dpu-0-pci-address": "0000-04-00", "test": namespace}
    nodes = [
        await host_client.create(Node(metadata=ObjectMeta(name=f"{host}-{namespace}", labels=labels)))
        for host in ("a", "b")
    ]
    for host in ("a", "b"):
        await put(
            host_client,
            namespace,
            f"{host}-{namespace}-0000-04-00",
            owner=dpuset,
            conditions=[condition("Ready", "True")],
        )
    before = [each.metadata.resource_version for each in await host_client.list(DPU, namespace)]
    edit = dpuset.model_dump(mode="json", by_alias=True, include={"metadata": {"name"}, "spec": True})
    edit["spec"]["dpuTemplate"]["spec"]["bfb"]["name"] = "other"
    file = tmp_path / "edit.yaml"
    file.write_text(yaml.safe_dump({"apiVersion": "provisioning.dpu.nvidia.com/v1alpha1", "kind": "DPUSet", **edit}))
    status, out, _ = await dpfctl("plan", "-f", str(file), "-o", "json")
    assert status == 0
    (found,) = json.loads(out)["sets"]
    assert [(each["action"], each["step"], each["dpu"]) for each in found["changes"]] == [
        ("reprovision", "batch 1", f"a-{namespace}-0000-04-00"),
        ("reprovision", "batch 2", f"b-{namespace}-0000-04-00"),
    ]
    assert "DPUs: 2 to provision anew, in 2 batches." in (await dpfctl("plan", "-f", str(file)))[1]
    assert [each.metadata.resource_version for each in await host_client.list(DPU, namespace)] == before
    for node in nodes:
        await host_client.delete(node)


async def test_plan_of_a_changed_image_is_refused(
    host_client: Client, namespace: str, dpfctl: Dpfctl, tmp_path: Path
) -> None:
    body = {"metadata": {"name": "image", "namespace": namespace}, "spec": {"url": "http://x/a.bfb"}}
    await host_client.create(BFB.model_validate(body))
    file = tmp_path / "edit.json"
    edit = {
        **body,
        "apiVersion": "provisioning.dpu.nvidia.com/v1alpha1",
        "kind": "BFB",
        "spec": {"url": "http://x/b.bfb"},
    }
    file.write_text(json.dumps(edit))
    status, out, _ = await dpfctl("plan", "-f", str(file))
    assert status == 3
    assert "can't be changed" in out


async def test_retry_annotates_what_is_in_error_and_nothing_else(
    host_client: Client, namespace: str, dpfctl: Dpfctl
) -> None:
    await put(host_client, namespace, "good")
    await put(host_client, namespace, "bad", phase="Error", reason="InstallationFailed", message="write error")
    status, _, err = await dpfctl("retry", "dpu", "good")
    assert status == 1
    assert "not in Error" in err
    status, out, _ = await dpfctl("retry", "dpu", "--all")
    assert (status, out) == (0, "dpu/bad is tried again (failed: InstallationFailed: write error)\n")
    found = {each.name: ANNOTATION_RETRY in each.annotations for each in await host_client.list(DPU, namespace)}
    assert found == {"good": False, "bad": True}
    status, _, err = await dpfctl("wait", "dpu", "bad", "--timeout", "10s")
    assert status == 124, "what is tried again has not failed"
    assert "bad: is tried again; was in Error: write error" in err


async def test_whoever_has_no_name_may_retry_too(
    host_client: Client, namespace: str, dpfctl: Dpfctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 1000680000")

    monkeypatch.setattr("getpass.getuser", nameless)
    await put(host_client, namespace, "bad", phase="Error")
    assert (await dpfctl("retry", "dpu", "bad"))[0] == 0
    assert str(os.getuid()) in (await host_client.get(DPU, "bad", namespace)).annotations[ANNOTATION_RETRY]


@pytest.mark.parametrize("command", ["get", "wait"])
async def test_names_and_labels_together_are_refused(dpfctl: Dpfctl, command: str) -> None:
    status, _, err = await dpfctl(command, "dpus", "d1", "-l", "team=blue")
    assert (status, err) == (
        1,
        "error: give names or labels (-l), not both: names say already which objects are meant\n",
    )


async def test_wait_returns_when_all_are_ready_and_tells_of_them(
    host_client: Client, namespace: str, dpfctl: Dpfctl
) -> None:
    one = await put(host_client, namespace, "one")
    await put(host_client, namespace, "two", phase="Ready", conditions=[condition("Ready", "True")])
    waiting = asyncio.create_task(dpfctl("wait", "dpus", "--timeout", "60s"))
    done = {"status": {"phase": "Ready", "conditions": [condition("Ready", "True")]}}
    await host_client.merge_patch(one, done, subresource="status")
    status, _, err = await waiting
    assert status == 0
    assert {line.partition("] ")[2] for line in err.splitlines()} >= {"one: done", "two: done"}


async def test_wait_ends_at_errors_deadlines_and_deletions(host_client: Client, namespace: str, dpfctl: Dpfctl) -> None:
    dpu = await put(host_client, namespace)
    status, _, err = await dpfctl("wait", "dpu", "d1", "--timeout", "0.5s")
    assert status == 124
    assert "1 of 1 were not done in 0.5 s: d1" in err
    broken = {"status": {"phase": "Error", "message": "write error"}}
    dpu = await host_client.merge_patch(dpu, broken, subresource="status")
    status, _, err = await dpfctl("wait", "dpu", "d1", "-q")
    assert (status, err) == (3, "error: d1: Error: write error\n")
    waiting = asyncio.create_task(dpfctl("wait", "dpu", "d1", "--for", "deleted", "--through-errors"))
    held = asyncio.create_task(dpfctl("wait", "dpu", "d1", "--for", "phase=Error"))
    assert (await held)[0] == 0
    await host_client.delete(dpu)
    assert (await waiting)[0] == 0
    for words in (("dpu", "d1"), ("dpus",)):
        assert await dpfctl("wait", *words, "--for", "deleted") == (0, "", ""), "it is gone already"


async def test_wait_refuses_at_once_what_can_not_come(host_client: Client, namespace: str, dpfctl: Dpfctl) -> None:
    await put(host_client, namespace)
    status, _, err = await dpfctl("wait", "dpu", "d1", "--for", "phase=Bogus")
    assert (status, err[:36]) == (1, "error: a DPU has no phase 'Bogus'; c")
    spec = {"type": "vendor.com/own", "version": "v1.31.0", "maxNodes": 10}
    body = {"metadata": {"name": "theirs", "namespace": namespace}, "spec": spec}
    status, _, err = await dpfctl("wait", "dpucluster", "--for", "condition=Licensed")
    assert (status, err) == (
        1,
        "error: a DPUCluster has no condition 'Licensed'; choose from Created, Ready, KeepalivedReady\n",
    )
    theirs = await host_client.create(DPUCluster.model_validate(body))
    conditions = {"phase": "Ready", "conditions": [condition("Licensed", "True")]}
    await host_client.merge_patch(theirs, {"status": conditions}, subresource="status")
    assert (await dpfctl("wait", "dpucluster", "--for", "condition=Licensed"))[0] == 0


async def test_wait_ends_when_a_dpu_of_a_set_stays_in_error(
    host_client: Client, namespace: str, dpfctl: Dpfctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The set's status stays the same when its DPU fails again, so nothing but another look tells of it.
    monkeypatch.setattr("dpf.ctl.wait.LOOK", 0.2)
    looked = threading.Event()

    def noted(dpuset: DPUSet, dpus: Iterable[DPU]) -> list[str]:
        looked.set()
        return failures(dpuset, dpus)

    monkeypatch.setattr("dpf.ctl.wait.failures", noted)
    dpuset = await put_set(host_client, namespace)
    dpu = await put(host_client, namespace, owner=dpuset, phase="Error", message="write error")
    dpu = await host_client.merge_patch(dpu, {"metadata": {"annotations": {ANNOTATION_RETRY: "me"}}})
    counted = {"replicas": 1, "dpuStatistics": {"Error": 1}, "reason": "Failed", "observedGeneration": 1}
    await host_client.merge_patch(dpuset, {"status": counted}, subresource="status")
    status, _, err = await dpfctl("wait", "dpusets", "set", "--timeout", "1s")
    assert status == 124, "what is tried again has not failed"
    looked.clear()
    waiting = asyncio.create_task(dpfctl("wait", "dpuset", "set", "-q"))
    assert await asyncio.to_thread(looked.wait, 30)
    await host_client.merge_patch(dpu, {"metadata": {"annotations": {ANNOTATION_RETRY: None}}})
    said = "error: set: 0 of 1 DPUs are ready, 1 failed; DPU d1: Error: write error\n"
    assert await waiting == (3, "", said)
    status, _, err = await dpfctl("wait", "dpuset", "set", "--through-errors", "--timeout", "0.5s")
    assert (status, "1 of 1 were not done" in err) == (124, True)


async def test_a_cluster_without_the_crds_is_told_apart(control_planes: Planes, dpfctl: Dpfctl) -> None:
    status, _, err = await dpfctl("describe", kubeconfig=control_planes.dpu)
    assert status == 1
    assert "CRDs are not installed" in err


async def test_who_may_not_read_is_told_what_is_missing(
    host_client: Client, control_planes: Planes, namespace: str, dpfctl: Dpfctl
) -> None:
    await host_client.create(ServiceAccount(metadata=ObjectMeta(name="nobody", namespace=namespace)))
    status, _, err = await dpfctl("get", "dpus", kubeconfig=control_planes.account("nobody", namespace))
    assert status == 1
    assert "not allowed" in err
    assert 'cannot list resource "dpus"' in err


async def test_names_of_objects_complete(host_client: Client, control_planes: Planes, namespace: str) -> None:
    await put(host_client, namespace)
    assert await asyncio.to_thread(names, "dpu", control_planes.host, namespace) == ["d1"]
