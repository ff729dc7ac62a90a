"""The fleet on real API servers: hosts that run pods, cards that join."""

from __future__ import annotations

import asyncio
import base64
import shutil
from pathlib import Path
from typing import Any

import pytest

from dpf.host.pci import Sysfs
from dpf.sandbox.api import path_of
from dpf.sandbox.fleet.containers import Container, Run
from dpf.sandbox.fleet.kubelet import LeaseTimes
from dpf.sandbox.fleet.nodes import lease_path
from test.integration.sandbox.conftest import Fleet, boot_id, is_ready


async def joined(fleet: Fleet) -> None:
    """The first card runs what was flashed and is a Node of the DPU cluster."""
    card = fleet.cards[0]
    await fleet.flash(card)
    network = await fleet.run_pod(card, "hostnetwork")
    await fleet.pod(network, is_ready)
    await fleet.reboot(card)
    await fleet.pod(network, lambda pod: restarts(pod) >= 1 and is_ready(pod))
    await fleet.node(fleet.dpu, card.dpu, is_ready)


async def test_hosts_are_nodes_with_labels_address_and_lease(fleet: Fleet) -> None:
    for host in fleet.inventory.hosts:
        node = await fleet.host.get(f"/api/v1/nodes/{host}")
        assert node["metadata"]["labels"]["feature.node.kubernetes.io/dpu-0-pci-address"] == "0000-04-00"
        assert node["status"]["addresses"][0]["address"] == fleet.inventory.address(host)
        # It comes after the Node, to which it belongs.
        async for event, lease in fleet.host.follow(lease_path()):
            if event != "DELETED" and lease["metadata"]["name"] == host:
                break


async def test_hostnetwork_makes_functions_on_the_host_and_makes_them_again_after_a_reboot(fleet: Fleet) -> None:
    card = fleet.cards[0]
    variables = {"device_pci_address": "0000:04:00", "num_of_vfs": "46", "vf_mtu": "9000"}
    env = [{"name": name, "value": value} for name, value in variables.items()]
    network = await fleet.run_pod(card, "hostnetwork", container={"env": env})
    await fleet.pod(network, is_ready)
    sysfs = Sysfs(fleet.layout.fleet_dir / "hosts" / card.host / "root" / "sys")
    assert sysfs.count("0000:04:00.0") == 46
    await fleet.reboot(card)
    await fleet.pod(network, lambda pod: restarts(pod) >= 1 and is_ready(pod))
    assert sysfs.count("0000:04:00.0") == 46


async def test_hostnetwork_of_a_card_that_was_pulled_out_is_not_ready_and_says_why(fleet: Fleet) -> None:
    card = fleet.cards[0]
    for function in (fleet.layout.fleet_dir / "hosts" / card.host).glob("root/sys/bus/pci/devices/0000:04:*"):
        shutil.rmtree(function)
    name = await fleet.run_pod(card, "hostnetwork")
    pod = await fleet.pod(name, lambda pod: "running" in container(pod)["state"])
    assert not is_ready(pod)
    said = fleet.layout.logs / "pods" / f"{name}.log"
    async with asyncio.timeout(20):
        while not said.exists():
            await asyncio.sleep(0.05)
    assert said.read_text().startswith("CardMissing: there is no PCI function 0000:04:00.0")


async def test_pod_that_others_call_unready_is_called_ready_again(fleet: Fleet) -> None:
    """As the node lifecycle controller does with the pods of a node whose Lease has ended."""
    name = await fleet.run_pod(fleet.cards[0], "hostnetwork")
    pod = await fleet.pod(name, is_ready)
    for condition in pod["status"]["conditions"]:
        condition["status"] = "False" if condition["type"] == "Ready" else condition["status"]
    marked = await fleet.host.patch(
        path_of(pod, "pods", subresource="status"), {"status": {"conditions": pod["status"]["conditions"]}}
    )
    assert not is_ready(marked)
    await fleet.pod(name, is_ready)


async def test_card_joins_the_dpu_cluster_after_the_host_was_rebooted(fleet: Fleet) -> None:
    card = fleet.cards[0]
    before = boot_id(await fleet.host.get(f"/api/v1/nodes/{card.host}"))
    await joined(fleet)
    await fleet.node(fleet.host, card.host, lambda node: boot_id(node) != before and is_ready(node))
    summary = await fleet.summary(card)
    counters = {name: summary[name] for name in ("installs", "activates", "boots", "hostReboots", "joins")}
    assert counters == {"installs": 1, "activates": 1, "boots": 2, "hostReboots": 1, "joins": 1}
    assert (await fleet.summary(fleet.cards[1]))["boots"] == 0


async def test_card_does_not_join_twice_when_the_fleet_is_restarted(stopped_fleet: Fleet) -> None:
    fleet, card = stopped_fleet, stopped_fleet.cards[0]
    async with asyncio.TaskGroup() as group:
        first = group.create_task(fleet.run())
        await fleet.node(fleet.host, card.host, is_ready)
        await joined(fleet)
        first.cancel()
    async with asyncio.TaskGroup() as group:
        second = group.create_task(fleet.run())
        # Its pods come up again, with a restart: that is the fleet at work.
        await fleet.pod(f"{card.dpu}-hostnetwork", lambda pod: restarts(pod) == 2 and is_ready(pod))
        summary = await fleet.summary(card)
        assert (summary["joins"], summary["boots"]) == (1, 2)
        second.cancel()


async def test_deleted_node_comes_back_only_with_the_next_boot(fleet: Fleet) -> None:
    card = fleet.cards[0]
    await joined(fleet)
    old = await fleet.dpu.get(f"/api/v1/nodes/{card.dpu}")
    await fleet.dpu.delete(f"/api/v1/nodes/{card.dpu}", uid=old["metadata"]["uid"])
    await fleet.reboot(card)
    new = await fleet.node(fleet.dpu, card.dpu, lambda node: node["metadata"]["uid"] != old["metadata"]["uid"])
    assert is_ready(new)
    assert (await fleet.summary(card))["joins"] == 1


async def test_lease_that_is_gone_alone_comes_back(stopped_fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a Node that is made again before its earlier Lease is collected, the Lease goes later."""
    times = LeaseTimes(40, 0.1)
    monkeypatch.setattr(LeaseTimes, "for_fleet", lambda _: times)
    fleet, card = stopped_fleet, stopped_fleet.cards[0]
    async with asyncio.TaskGroup() as group:
        running = group.create_task(fleet.run())
        await joined(fleet)
        for api, name in ((fleet.host, card.host), (fleet.dpu, card.dpu)):
            uid = (await api.get(f"/api/v1/nodes/{name}"))["metadata"]["uid"]
            old = (await api.get(lease_path(name)))["metadata"]["uid"]
            await api.delete(lease_path(name), uid=old)
            async for event, found in api.follow(lease_path()):
                meta = found["metadata"]
                if event != "DELETED" and meta["name"] == name and meta["uid"] != old:
                    assert meta["ownerReferences"][0]["uid"] == uid
                    break
        running.cancel()


async def test_card_does_not_join_without_the_host_network(fleet: Fleet) -> None:
    card = fleet.cards[0]
    await fleet.flash(card)
    await fleet.reboot(card)
    await fleet.node(fleet.host, card.host, is_ready)
    state = await fleet.settled(card)
    assert (state["state"], (await fleet.summary(card))["joins"]) == ("up", 0)
    await fleet.run_pod(card, "hostnetwork")
    await fleet.node(fleet.dpu, card.dpu, is_ready)


def restarts(pod: dict[str, dict[str, list[dict[str, int]]]]) -> int:
    statuses = (pod.get("status") or {}).get("containerStatuses") or [{"restartCount": 0}]
    return statuses[0]["restartCount"]


def container(pod: dict[str, dict[str, list[dict[str, Any]]]]) -> dict[str, Any]:
    """The status of the pod's first container, with an empty state while it has none."""
    return ((pod.get("status") or {}).get("containerStatuses") or [{"state": {}}])[0]


async def test_pod_is_bound_to_its_host_and_becomes_ready(fleet: Fleet) -> None:
    card = fleet.cards[0]
    name = await fleet.run_pod(card, "idle")
    pod = await fleet.pod(name, is_ready)
    assert pod["spec"]["nodeName"] == card.host
    assert pod["status"]["podIP"] == fleet.inventory.address(card.host)
    assert restarts(pod) == 0


async def test_pods_of_a_rebooted_host_are_started_again(fleet: Fleet) -> None:
    card = fleet.cards[0]
    name = await fleet.run_pod(card, "idle")
    await fleet.pod(name, is_ready)
    await fleet.reboot(card)
    await fleet.pod(name, lambda pod: restarts(pod) >= 1 and is_ready(pod))


async def test_host_that_does_not_come_back_runs_no_pods_until_it_does(fleet: Fleet) -> None:
    card = fleet.cards[0]
    name = await fleet.run_pod(card, "idle")
    await fleet.pod(name, is_ready)
    await fleet.ask("PUT", f"/cards/{card.dpu}/fault", {"fault": "host-does-not-come-back"})
    await fleet.reboot(card)
    await fleet.node(fleet.host, card.host, lambda node: not is_ready(node))
    await fleet.pod(name, lambda pod: not is_ready(pod))
    await fleet.ask("PUT", f"/cards/{card.dpu}/fault", {"fault": ""})
    await fleet.node(fleet.host, card.host, is_ready)
    await fleet.pod(name, is_ready)


async def test_crash_looping_pod_says_so_and_recovers(fleet: Fleet) -> None:
    card = fleet.cards[0]
    name = await fleet.run_pod(card, "idle")
    await fleet.pod(name, is_ready)
    await fleet.ask("PUT", f"/cards/{card.dpu}/fault", {"fault": "pod-crash-loops"})
    found = await fleet.pod(name, lambda pod: restarts(pod) >= 1 and "waiting" in container(pod)["state"])
    state = container(found)
    assert state["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert state["lastState"]["terminated"]["exitCode"] != 0
    await fleet.ask("PUT", f"/cards/{card.dpu}/fault", {"fault": ""})
    await fleet.pod(name, is_ready)


async def test_killed_container_is_started_again(fleet: Fleet) -> None:
    name = await fleet.run_pod(fleet.cards[0], "idle")
    await fleet.pod(name, is_ready)
    await fleet.ask("POST", f"/pods/{name}/kill")
    pod = await fleet.pod(name, lambda pod: restarts(pod) >= 1 and is_ready(pod))
    assert container(pod)["lastState"]["terminated"]["exitCode"] == 137


async def test_deleted_pod_is_stopped_and_goes(fleet: Fleet) -> None:
    stopped = asyncio.Event()

    async def careful(_: Container, run: Run) -> int:
        run.ready()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return 0

    fleet.entry_points["careful"] = careful
    name = await fleet.run_pod(fleet.cards[0], "careful")
    pod = await fleet.pod(name, is_ready)
    path = f"/api/v1/namespaces/{fleet.namespace}/pods"
    await fleet.host.delete(f"{path}/{name}", uid=pod["metadata"]["uid"], grace=30)
    await stopped.wait()
    async with asyncio.timeout(20):
        # Asked, not watched: a watch that begins when the pod is gone tells nothing of it.
        while await fleet.host.items(path):
            await asyncio.sleep(0.05)
    assert await fleet.ask("GET", "/pods") == []


async def test_secret_volume_is_there_when_the_container_starts_and_follows_the_secret(fleet: Fleet) -> None:
    seen: asyncio.Queue[Path] = asyncio.Queue()

    async def reader(container: Container, run: Run) -> int:
        seen.put_nowait(container.mounts["/etc/certs"] / "tls.crt")
        run.ready()
        await asyncio.Event().wait()
        return 0

    fleet.entry_points["reader"] = reader
    mount = {"volumeMounts": [{"name": "certs", "mountPath": "/etc/certs"}]}
    volumes = [{"name": "certs", "secret": {"secretName": "certs"}}]
    name = await fleet.run_pod(fleet.cards[0], "reader", container=mount, volumes=volumes)
    await fleet.pod(name, lambda pod: bool(pod["spec"].get("nodeName")))
    assert seen.empty()
    secrets = f"/api/v1/namespaces/{fleet.namespace}/secrets"
    await fleet.host.create(secrets, {"metadata": {"name": "certs"}, "data": {"tls.crt": encoded(b"one")}})
    file = await seen.get()
    assert file.read_bytes() == b"one"
    before = file.resolve()
    await fleet.host.patch(f"{secrets}/certs", {"data": {"tls.crt": encoded(b"two")}})
    async with asyncio.timeout(20):
        while file.resolve() == before:
            await fleet.pod(name, lambda _: True)
    assert file.read_bytes() == b"two"


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("fault", ["wrong-pin", "wrong-token"])
async def test_card_does_not_join_a_cluster_it_cannot_trust(fleet: Fleet, fault: str) -> None:
    card = fleet.cards[0]
    if fault == "wrong-pin":
        await fleet.flash(card, pin="sha256:" + "0" * 64)
    else:
        await fleet.flash(card, token="aaaaaa.0123456789abcdef")
    name = await fleet.run_pod(card, "hostnetwork")
    await fleet.pod(name, is_ready)
    await fleet.reboot(card)
    await fleet.pod(name, lambda pod: restarts(pod) >= 1 and is_ready(pod))
    assert (await fleet.summary(card))["joins"] == 0


async def test_maintenance_of_a_simulated_host_becomes_ready(fleet: Fleet) -> None:
    group = "/apis/maintenance.nvidia.com/v1alpha1"
    path = f"{group}/namespaces/{fleet.namespace}/nodemaintenances"
    spec = {"requestorID": "dpu.nvidia.com", "nodeName": fleet.cards[0].host}
    body = {"apiVersion": "maintenance.nvidia.com/v1alpha1", "kind": "NodeMaintenance", "metadata": {"name": "m"}}
    await fleet.host.create(path, {**body, "spec": spec})
    async for _, obj in fleet.host.follow(path):
        if is_ready(obj):
            break


async def test_host_that_is_dead_runs_no_pods_until_the_fault_is_cleared(fleet: Fleet) -> None:
    card = fleet.cards[0]
    before = boot_id(await fleet.host.get(f"/api/v1/nodes/{card.host}"))
    await fleet.ask("PUT", f"/cards/{card.dpu}/fault", {"fault": "host-dead"})
    await fleet.node(fleet.host, card.host, lambda node: not is_ready(node))
    name = await fleet.run_pod(card, "idle")
    await fleet.ask("PUT", f"/cards/{card.dpu}/fault", {"fault": ""})
    await fleet.node(fleet.host, card.host, lambda node: is_ready(node) and boot_id(node) != before)
    await fleet.pod(name, is_ready)


async def test_host_that_crashes_boots_anew_and_nobody_has_asked_for_it(fleet: Fleet) -> None:
    card = fleet.cards[0]
    before = boot_id(await fleet.host.get(f"/api/v1/nodes/{card.host}"))
    await fleet.ask("POST", f"/pods/{card.host}/kill")
    await fleet.node(fleet.host, card.host, lambda node: is_ready(node) and boot_id(node) != before)
    summary = await fleet.summary(card)
    assert (summary["hostReboots"], summary["boots"]) == (0, 0)
