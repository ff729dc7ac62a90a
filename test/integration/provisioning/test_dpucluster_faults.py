"""Kubeconfigs that are broken or rotated, clusters that are deleted, made anew or spoken of by others: on real API servers."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import yaml

from dpf.provisioning.bfcfg import discovery
from dpf.runtime.certs import SmallCA
from dpf.runtime.conditions import find, new, set_condition
from dpf.runtime.k8s import ConfigMap, Node, Secret, encoded
from dpf.runtime.meta import ObjectMeta
from dpf.runtime.testing import eventually, eventually_gone
from dpf_api.dpu import DPU
from dpf_api.dpu import Phase as DPUPhase
from dpf_api.dpucluster import DPUCluster, Phase
from dpf_api.names import FINALIZER_CLUSTER_MANAGER, FINALIZER_DPUCLUSTER, LABEL_HOST
from test.integration.conftest import Planes
from test.integration.provisioning.conftest import World

Config = dict[str, Any]


def client_certificate(planes: Planes, name: str, lifetime: timedelta) -> dict[str, str]:
    """The user of a kubeconfig, signed by the DPU cluster's own authority; it began to hold five minutes ago."""
    pki = planes.dpu.parent / "pki"
    authority = SmallCA((pki / "ca.key").read_bytes(), (pki / "ca.crt").read_bytes())
    pair = authority.issue(name, purposes=["client"], lifetime=lifetime)
    return {"client-certificate-data": _b64(pair.cert), "client-key-data": _b64(pair.key)}


def _b64(data: bytes) -> str:
    return b64encode(data).decode()


def nowhere(config: Config, _: Planes) -> None:
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"


def unknown_host(config: Config, _: Planes) -> None:
    config["clusters"][0]["cluster"]["server"] = "https://dpu-cluster.invalid:6443"


def wrong_ca(config: Config, _: Planes) -> None:
    config["clusters"][0]["cluster"]["certificate-authority-data"] = _b64(SmallCA.make("another").bundle)


def expired(config: Config, planes: Planes) -> None:
    config["users"][0]["user"] = client_certificate(planes, "kubernetes-admin", timedelta(minutes=4))


def unknown_token(config: Config, _: Planes) -> None:
    config["users"][0]["user"] = {"token": "unknown"}


def without_rights(config: Config, planes: Planes) -> None:
    config["users"][0]["user"] = client_certificate(planes, "nobody", timedelta(hours=1))


def plugin(config: Config, _: Planes) -> None:
    execution = {"apiVersion": "client.authentication.k8s.io/v1", "command": "false", "interactiveMode": "Never"}
    config["users"][0]["user"] = {"exec": execution}


def no_file(config: Config, _: Planes) -> None:
    config["clusters"][0]["cluster"] = {"server": "https://127.0.0.1:1", "certificate-authority": "/no/such/ca.crt"}


def number_token(config: Config, _: Planes) -> None:
    config["users"][0]["user"] = {"token": 12345}


def no_host_name(config: Config, _: Planes) -> None:
    config["clusters"][0]["cluster"]["tls-server-name"] = ".example"


def no_list(config: Config, _: Planes) -> None:
    config["clusters"] = 5


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (nowhere, "127.0.0.1:1"),
        (unknown_host, "dpu-cluster.invalid"),
        (wrong_ca, "is not the cluster that the kubeconfig's certificate authority vouches for"),
        (expired, "the client certificate of the kubeconfig ended at"),
        (unknown_token, "does not know the kubeconfig's credentials"),
        (without_rights, "may this account list and watch"),
        (plugin, "exec would be of this machine; embed what is needed"),
        (no_file, "certificate-authority would be of this machine"),
        (number_token, "token must be text: put it in quotes"),
        (no_host_name, "tls-server-name must be a host name or IP address"),
        (no_list, "clusters must be a list of mappings"),
    ],
)
async def test_each_fault_of_a_kubeconfig_is_named_and_ends_when_it_is_mended(
    world: World, spoil: Callable[[Config, Planes], None], words: str
) -> None:
    await world.cluster()
    good = world.planes.dpu.read_text()
    config: Config = yaml.safe_load(good)
    spoil(config, world.planes)
    await put(world, json.dumps(config))
    broken = await world.eventually(DPUCluster, "c1", until=lambda c: words in c.status.message)
    assert broken.status.phase is Phase.NOT_READY
    ready = find(broken.status.conditions, "Ready")
    assert ready is not None
    assert (ready.status, ready.reason, ready.message) == ("False", "HealthCheckFailed", broken.status.message)
    await put(world, good)
    mended = await world.eventually(DPUCluster, "c1", until=lambda c: c.status.phase is Phase.READY)
    assert (mended.status.reason, mended.status.message) == ("", "")


async def test_a_cluster_whose_ca_is_not_known_takes_no_dpu_until_it_is_published(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under another name: all tests share the cluster, and cards of other tests join it."""
    published = await world.dpu.get(ConfigMap, *discovery.CLUSTER_INFO)
    name = f"cluster-info-{world.namespace}"
    monkeypatch.setattr(discovery, "CLUSTER_INFO", (name, published.namespace))
    await world.cluster()
    config: Config = yaml.safe_load(world.planes.dpu.read_text())
    del config["clusters"][0]["cluster"]["certificate-authority-data"]
    config["clusters"][0]["cluster"]["insecure-skip-tls-verify"] = True
    await put(world, json.dumps(config))
    unfit = await world.eventually(DPUCluster, "c1", until=lambda c: c.status.phase is Phase.NOT_READY)
    assert unfit.status.reason == "DPUClusterNotJoinable"
    assert f"ConfigMap {name} in its namespace kube-public can't be used" in unfit.status.message
    meta = ObjectMeta(name=name, namespace=published.namespace)
    await world.dpu.create(ConfigMap(metadata=meta, data=published.data))
    # It would be looked at again within a minute.
    await put(world, json.dumps(config, indent=1))
    await world.eventually(DPUCluster, "c1", until=lambda c: c.status.phase is Phase.READY)


async def put(world: World, kubeconfig: str) -> None:
    """Changes the cluster's kubeconfig in its Secret."""
    secret = await world.host.get(Secret, "c1-kubeconfig", world.namespace)
    await world.host.merge_patch(secret, {"data": encoded({"admin.conf": kubeconfig})})


async def test_a_secret_that_is_deleted_is_missed_and_what_is_connected_goes_on(world: World) -> None:
    name = await joined(world)
    await world.host.delete(await world.host.get(Secret, "c1-kubeconfig", world.namespace))
    missed = await world.eventually(DPUCluster, "c1", until=lambda c: c.status.phase is Phase.NOT_READY)
    assert "no Secret c1-kubeconfig" in missed.status.message
    node = await world.dpu.get(Node, name)
    await world.dpu.merge_patch(node, {"metadata": {"labels": {LABEL_HOST: "wrong"}}})
    await eventually(world.dpu, Node, name, until=lambda n: n.labels[LABEL_HOST] == world.host_node)
    meta = ObjectMeta(name="c1-kubeconfig", namespace=world.namespace)
    await world.host.create(Secret(metadata=meta, data=encoded({"admin.conf": world.planes.dpu.read_text()})))
    await world.eventually(DPUCluster, "c1", until=lambda c: c.status.phase is Phase.READY)


async def test_a_kubeconfig_of_another_cluster_shows_that_ones_nodes_and_the_right_one_its_own_again(
    world: World,
) -> None:
    name = await joined(world)
    await put(world, world.planes.host.read_text())
    lost = await world.eventually(DPU, name, until=lambda d: d.status.reason == "DPUNodeGetError")
    assert "kubeconfig" in lost.status.message
    await put(world, world.planes.dpu.read_text())
    dpu = await world.eventually(DPU, name, until=lambda d: d.status.reason == "")
    assert (dpu.status.phase, world.dms.count("activate")) == (DPUPhase.READY, 1)


# Conditions


async def test_what_others_say_of_a_cluster_leaves_it_ready_but_not_what_its_manager_says(world: World) -> None:
    cluster = await world.cluster()
    said = set_condition(cluster.status.conditions, new("BackedUp", False, "NoBackup", "of somebody else"))
    cluster = await world.host.status(cluster).set(cluster.status.model_copy(update={"conditions": said}))
    said = set_condition(cluster.status.conditions, new("KeepalivedReady", False, "PodsNotReady", "0 of 3 run"))
    await world.host.status(cluster).set(cluster.status.model_copy(update={"conditions": said}))
    down = await world.eventually(DPUCluster, "c1", until=lambda c: c.status.phase is Phase.NOT_READY)
    assert (down.status.reason, down.status.message) == ("PodsNotReady", "0 of 3 run")
    said = set_condition(down.status.conditions, new("KeepalivedReady", True, "Deployed"))
    await world.host.status(down).set(down.status.model_copy(update={"conditions": said}))
    back = await world.eventually(DPUCluster, "c1", until=lambda c: c.status.phase is Phase.READY)
    backup = find(back.status.conditions, "BackedUp")
    assert backup is not None
    assert backup.status == "False"


# Clusters that go


async def joined(world: World) -> str:
    """The name of a DPU that is Ready in cluster c1."""
    node = await world.node()
    await world.bfb()
    cluster = await world.cluster()
    name = (await world.create_dpu()).name
    await world.pod_ready(f"{name}-dms")
    await world.eventually(DPU, name, until=lambda d: d.status.reboot is not None and d.status.reboot.issued_at)
    await world.boot(node, "boot-2")
    await world.pod_ready(f"{name}-hostnetwork")
    there = await world.join(name)
    dpu = await world.eventually(DPU, name, until=lambda d: d.status.phase is DPUPhase.READY)
    assert dpu.status.install.cluster_uid == cluster.uid
    assert dpu.status.node_uid == there.uid
    return name


async def test_a_cluster_in_use_is_deleted_when_its_dpus_are_gone_though_the_manager_changes(
    idle_world: World,
) -> None:
    world = idle_world
    async with world.manager():
        name = await joined(world)
        await world.host.delete(await world.host.get(DPUCluster, "c1", world.namespace))
        held = await world.eventually(DPUCluster, "c1", until=lambda c: c.status.reason == "InUse")
        assert name in held.status.message
        assert held.status.phase is Phase.READY, "its DPUs still are"
        other = await world.create_dpu("d2", pci="0000-05-00")
        told = await world.eventually(DPU, other.name, until=lambda d: d.status.reason == "DPUClusterNotReady")
        assert "c1 is being deleted" in told.status.message
        await world.host.delete(other)
    async with world.manager():
        await world.host.delete(await world.host.get(DPU, name, world.namespace))
        await eventually_gone(world.host, DPU, name, world.namespace)
        await eventually_gone(world.dpu, Node, name)
        await eventually_gone(world.host, DPUCluster, "c1", world.namespace)


async def test_a_cluster_that_is_gone_for_good_holds_nobody_up_once_it_is_deleted(world: World) -> None:
    name = await joined(world)
    config: Config = yaml.safe_load(world.planes.dpu.read_text())
    nowhere(config, world.planes)
    await put(world, json.dumps(config))
    await world.eventually(DPUCluster, "c1", until=lambda c: c.status.phase is Phase.NOT_READY)
    await world.host.delete(await world.host.get(DPU, name, world.namespace))
    await world.eventually(DPU, name, until=lambda d: d.status.reason == "DPUClusterUnreachable")
    await world.host.delete(await world.host.get(DPUCluster, "c1", world.namespace))
    await eventually_gone(world.host, DPU, name, world.namespace)
    await eventually_gone(world.host, DPUCluster, "c1", world.namespace)
    await world.dpu.delete(await world.dpu.get(Node, name))


async def made_anew(world: World) -> DPUCluster:
    """Another DPUCluster of the same name, after somebody has taken the finalizer off the first one."""
    old = await world.host.get(DPUCluster, "c1", world.namespace)
    await world.host.delete(old)
    await world.eventually(DPUCluster, "c1", until=lambda c: c.status.reason == "InUse")
    await world.host.merge_patch(old, {"metadata": {"finalizers": None}})
    await eventually_gone(world.host, DPUCluster, "c1", world.namespace)
    spec = {"type": "static", "version": "", "kubeconfig": "c1-kubeconfig", "maxNodes": 1}
    body = {"metadata": {"name": "c1", "namespace": world.namespace}, "spec": spec}
    await world.host.create(DPUCluster.model_validate(body))
    cluster: DPUCluster = await world.eventually(DPUCluster, "c1", until=lambda c: c.status.phase is Phase.READY)
    return cluster


async def test_a_cluster_made_anew_is_another_one_and_its_nodes_are_its_own(world: World) -> None:
    name = await joined(world)
    await world.dpu.delete(await world.dpu.get(Node, name))
    await made_anew(world)
    namesake = await world.join(name)
    dpu = await world.eventually(DPU, name, until=lambda d: d.status.reason == "DPUClusterReplaced")
    assert "delete the DPU" in dpu.status.message
    # The old DPU takes no place there.
    other = await world.create_dpu("d2", pci="0000-05-00")
    await world.eventually(DPU, other.name, until=lambda d: d.spec.cluster.name == "c1")
    await world.host.delete(dpu)
    await eventually_gone(world.host, DPU, name, world.namespace)
    assert (await world.dpu.get(Node, name)).uid == namesake.uid


async def test_the_same_cluster_behind_a_new_object_keeps_its_dpus(world: World) -> None:
    name = await joined(world)
    cluster = await made_anew(world)
    dpu = await world.eventually(
        DPU,
        name,
        until=lambda d: (d.status.install.cluster_uid, d.status.reason) == (cluster.uid, ""),
    )
    assert (dpu.status.phase, world.dms.count("activate")) == (DPUPhase.READY, 1)
    full = await world.eventually(DPUCluster, "c1", until=lambda c: c.status.assigned_dpus == 1)
    assert full.spec.max_nodes == 1


async def test_a_dpu_counts_where_its_card_was_told_to_join_and_is_counted_anew_when_that_changes(world: World) -> None:
    await world.node()
    cluster = await world.cluster()
    dpu = await world.create_dpu()  # there is no image, so it goes no further than its cluster
    await world.eventually(DPUCluster, "c1", until=lambda c: c.status.assigned_dpus == 1)
    for uid, count in (("of-a-namesake", 0), (cluster.uid, 1)):
        await world.host.merge_patch(dpu, {"status": {"install": {"clusterUID": uid}}}, subresource="status")
        await world.eventually(DPUCluster, "c1", until=lambda c, count=count: c.status.assigned_dpus == count)


@pytest.mark.parametrize("named", ["", "by-hand"])
async def test_nothing_is_done_to_a_host_before_there_is_a_cluster(world: World, named: str) -> None:
    await world.node()
    reference: dict[str, Any] = {"cluster": {"name": named, "namespace": world.namespace}} if named else {}
    dpu = await world.create_dpu(nodeEffect={"customLabel": {"busy": "yes"}}, **reference)
    reason = "DPUClusterNotFound" if named else "DPUClusterNotReady"
    await world.eventually(DPU, dpu.name, until=lambda d: d.status.reason == reason)
    assert "busy" not in (await world.host.get(Node, world.host_node)).labels
    await world.cluster(named or "c1")
    await world.eventually(DPU, dpu.name, until=lambda d: d.status.phase is DPUPhase.PENDING)


async def test_a_finalizer_that_an_earlier_static_manager_left_goes_with_its_cluster(world: World) -> None:
    cluster = await world.cluster()
    both = [FINALIZER_DPUCLUSTER, FINALIZER_CLUSTER_MANAGER]
    await world.host.merge_patch(cluster, {"metadata": {"finalizers": both}})
    await world.eventually(DPUCluster, "c1", until=lambda c: c.metadata.finalizers == [FINALIZER_DPUCLUSTER])
    # Put on while it is going, as if the manager had been away.
    others = {"metadata": {"name": "k", "namespace": world.namespace, "finalizers": both}}
    spec = {"type": "kamaji", "version": ""}
    theirs = await world.host.create(DPUCluster.model_validate(others | {"spec": spec}))
    await world.host.delete(theirs)
    left = await world.eventually(DPUCluster, "k", until=lambda c: FINALIZER_DPUCLUSTER not in c.metadata.finalizers)
    assert left.metadata.finalizers == [FINALIZER_CLUSTER_MANAGER], "another manager's"
    await world.host.merge_patch(left, {"metadata": {"finalizers": None}})


async def test_a_cluster_in_use_that_somebody_lets_go_by_hand_is_disconnected(world: World) -> None:
    await joined(world)
    assert world.remotes is not None
    lost = asyncio.Event()
    world.remotes.on_health(lambda key, ok: None if ok or key.name != "c1" else lost.set())
    await world.host.delete(await world.host.get(DPUCluster, "c1", world.namespace))
    waiting = await world.eventually(DPUCluster, "c1", until=lambda c: c.status.reason == "InUse")
    assert not lost.is_set()
    await world.host.merge_patch(waiting, {"metadata": {"finalizers": None}})
    async with asyncio.timeout(60):
        await lost.wait()
    assert waiting.key not in world.remotes


async def test_a_finalizer_left_on_a_cluster_that_is_going_is_taken_off_too(idle_world: World) -> None:
    both = [FINALIZER_DPUCLUSTER, FINALIZER_CLUSTER_MANAGER]
    meta = {"name": "c", "namespace": idle_world.namespace, "finalizers": both}
    cluster = await idle_world.host.create(
        DPUCluster.model_validate({"metadata": meta, "spec": {"type": "static", "version": ""}})
    )
    await idle_world.host.delete(cluster)
    async with idle_world.manager():
        await eventually_gone(idle_world.host, DPUCluster, "c", idle_world.namespace)
