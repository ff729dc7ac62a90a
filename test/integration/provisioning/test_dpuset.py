"""DPUSets on a real API server."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from dpf.provisioning.dpuset import controller
from dpf.runtime import conditions
from dpf.runtime.errors import ConfigError, Conflict, Forbidden
from dpf.runtime.informer import Informer, Record
from dpf.runtime.k8s import Event
from dpf.runtime.meta import Object, ObjectMeta
from dpf.runtime.testing import eventually_gone
from dpf_api.dpu import DPU, DPUSpec
from dpf_api.dpuset import DPUSet
from dpf_api.names import (
    FEATURE_PREFIX,
    FINALIZER_DPU,
    FINALIZER_DPUSET,
    LABEL_DPU_HOST_IP,
    LABEL_DPU_PF_NAME,
    LABEL_DPUSET_NAME,
    LABEL_DPUSET_NAMESPACE,
)
from test.integration.provisioning.conftest import PCI, World
from test.spec import spec


def said(dpuset: DPUSet, kind: str) -> tuple[str, str]:
    """Reason and message of a condition."""
    found = conditions.find(dpuset.status.conditions, kind)
    return (found.reason, found.message) if found is not None else ("", "")


@spec("provisioning:69", "provisioning:70")
async def test_a_set_gets_its_finalizer_and_keeps_what_it_says(world: World) -> None:
    template = {"spec": {"automaticNodeReboot": False, "nodeEffect": {"drain": {"automaticNodeReboot": False}}}}
    await world.dpuset(dpuTemplate=template)
    found = await world.eventually(DPUSet, "set", until=lambda each: bool(each.metadata.finalizers))
    assert found.metadata.finalizers == [FINALIZER_DPUSET]
    assert found.spec.dpu_template.spec.automatic_node_reboot is False
    await world.node()
    dpu = await world.eventually(DPU, f"{world.host_node}-{PCI}")
    assert dpu.spec.automatic_node_reboot is False
    assert dpu.spec.node_effect.drain.automatic_node_reboot is False


@spec("provisioning:71")
async def test_a_matching_node_gets_exactly_one_dpu(world: World) -> None:
    await world.node(dpu_0_psid="MT_1", dpu_enabled="true")
    selector = {FEATURE_PREFIX + "dpu-0-psid": "MT_1", FEATURE_PREFIX + "dpu-0-pci-address": PCI}
    await world.dpuset(dpuSelector=selector)
    await world.eventually(DPUSet, "set", until=lambda each: each.status.dpu_statistics == {"Initializing": 1})
    assert [dpu.name for dpu in await world.host.list(DPU, world.namespace)] == [f"{world.host_node}-{PCI}"]


async def test_a_dpu_is_made_whole_and_reserved_labels_win(world: World) -> None:
    await world.node(dpu_0_pf0_name="ens1f0np0")
    meta = ObjectMeta(name="set", namespace=world.namespace, labels={LABEL_DPUSET_NAME: "forged", "team": "blue"})
    template = {"annotations": {"note": "x"}, "spec": {"bfb": {"name": "image"}, "dpuFlavor": "f"}}
    body = {"nodeSelector": {"matchLabels": {"test": world.namespace}}, "dpuTemplate": template}
    dpuset = await world.host.create(DPUSet.model_validate({"metadata": meta, "spec": body}))
    dpu = await world.eventually(DPU, f"{world.host_node}-{PCI}")
    assert dpu.labels[LABEL_DPUSET_NAME] == "set"
    assert dpu.labels[LABEL_DPUSET_NAMESPACE] == world.namespace
    assert dpu.labels["team"] == "blue"
    assert dpu.labels["provisioning.dpu.nvidia.com/dpu-pf-name"] == "ens1f0np0"
    assert dpu.annotations == {"note": "x"}
    assert dpu.metadata.finalizers == [FINALIZER_DPU]
    assert dpu.owned_by(dpuset)
    assert (dpu.spec.node_name, dpu.spec.pci_address, dpu.spec.dpu_flavor) == (world.host_node, PCI, "f")


async def test_a_node_that_is_not_selected_any_more_loses_its_dpu(world: World) -> None:
    node = await world.node()
    await world.dpuset()
    name = f"{world.host_node}-{PCI}"
    await world.eventually(DPU, name)
    await world.host.merge_patch(node, {"metadata": {"labels": {"test": None}}})
    await eventually_gone(world.host, DPU, name, world.namespace)
    await world.eventually(DPUSet, "set", until=lambda each: each.status.reason == "NothingSelected")


async def test_a_host_whose_detector_tells_nothing_any_more_keeps_its_dpus(world: World) -> None:
    node = await world.node(dpu_enabled="true")
    selector = {"matchLabels": {"test": world.namespace, FEATURE_PREFIX + "dpu-enabled": "true"}}
    await world.dpuset(nodeSelector=selector)
    dpu = await world.eventually(DPU, f"{world.host_node}-{PCI}")
    told = [label for label in node.labels if label.startswith(FEATURE_PREFIX)]
    await world.host.merge_patch(node, {"metadata": {"labels": dict.fromkeys(told)}})
    await world.eventually(DPUSet, "set", until=lambda each: "node labels tell no more" in str(each.status))
    assert not (await world.host.get(DPU, dpu.name, world.namespace)).deleting
    await world.host.merge_patch(node, {"metadata": {"labels": {"test": None}}})
    await eventually_gone(world.host, DPU, dpu.name, world.namespace)


async def test_two_sets_do_not_share_a_card(world: World) -> None:
    await world.node()
    first = await world.dpuset("first")
    name = f"{world.host_node}-{PCI}"
    await world.eventually(DPU, name)
    second = await world.dpuset("second")
    blocked = await world.eventually(DPUSet, "second", until=lambda each: each.status.reason == "CardTaken")
    ready = conditions.find(blocked.status.conditions, "Ready")
    assert ready is not None
    assert f"{world.namespace}/{name}" in ready.message
    assert (await world.host.get(DPU, name, world.namespace)).owned_by(first)
    await world.host.delete(first)
    await world.host.delete(await world.host.get(DPU, name, world.namespace))
    await world.eventually(DPU, name, until=lambda dpu: dpu.owned_by(second))


async def left_by(world: World, dpuset: str) -> DPU:
    """The DPU of this test's card as ``kubectl delete dpuset --cascade=orphan`` leaves it."""
    labels = {LABEL_DPUSET_NAME: dpuset, LABEL_DPUSET_NAMESPACE: world.namespace}
    meta = ObjectMeta(name=f"{world.host_node}-{PCI}", namespace=world.namespace, labels=labels)
    spec = DPUSpec(node_name=world.host_node, bfb="image", pci_address=PCI)
    return await world.host.create(DPU(metadata=meta, spec=spec))


async def test_a_set_that_is_made_again_takes_over_the_dpus_that_it_had_left(world: World) -> None:
    await world.node()
    dpu = await left_by(world, "set")
    dpuset = await world.dpuset()
    found = await world.eventually(DPU, dpu.name, until=lambda each: each.owned_by(dpuset))
    assert (found.uid, len(found.metadata.owner_references)) == (dpu.uid, 1)
    await world.eventually(DPUSet, "set", until=lambda each: each.status.replicas == 1)


async def test_a_dpu_that_is_taken_over_at_the_second_try_gets_the_template_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = world.managers[0].cluster.client
    patch, refused = client.merge_patch, 0

    async def overtaken(obj: DPU, body: dict[str, Any], **more: str) -> Object:
        nonlocal refused
        if isinstance(obj, DPU) and "ownerReferences" in body.get("metadata", {}) and not refused:
            refused += 1
            raise Conflict(409, "Conflict", "the object has been modified")
        return await patch(obj, body, **more)

    monkeypatch.setattr(client, "merge_patch", overtaken)
    await world.node()
    dpu = await left_by(world, "set")
    template = {"spec": {"bfb": {"name": "image"}, "nodeEffect": {"noEffect": True}, "automaticNodeReboot": False}}
    dpuset = await world.dpuset(dpuTemplate=template)
    found = await world.eventually(DPU, dpu.name, until=lambda each: each.spec.automatic_node_reboot is False)
    assert (found.owned_by(dpuset), found.spec.node_effect.no_effect, refused) == (True, True, 1)


async def test_a_dpu_that_a_set_of_another_name_had_left_is_not_taken_over(world: World) -> None:
    await world.node()
    dpu = await left_by(world, "first")
    await world.dpuset("second")
    await world.eventually(DPUSet, "second", until=lambda each: dpu.name in str(each.status.conditions))
    assert (await world.host.get(DPU, dpu.name, world.namespace)).controller is None


async def test_a_status_that_somebody_else_wrote_is_put_right(world: World) -> None:
    await world.node()
    dpuset = await world.dpuset()
    right = await world.eventually(DPUSet, "set", until=lambda each: each.status.dpu_statistics == {"Initializing": 1})
    wrong = {"status": {"conditions": None, "replicas": 77, "dpuStatistics": {"Ready": 99}}}
    await world.host.merge_patch(dpuset, wrong, subresource="status")
    await world.eventually(DPUSet, "set", until=lambda each: each.status.replicas == right.status.replicas)


async def test_the_set_that_has_a_card_is_told_that_another_wants_it_until_it_does_not(world: World) -> None:
    await world.node()
    await world.dpuset("first")
    await world.eventually(DPU, f"{world.host_node}-{PCI}")
    second = await world.dpuset("second")
    other = f"DPUSet {world.namespace}/second too"
    await world.eventually(DPUSet, "first", until=lambda each: other in said(each, "Ready")[1])
    blocked = await world.eventually(DPUSet, "second", until=lambda each: each.status.reason == "CardTaken")
    assert f"DPUSet {world.namespace}/first selects it too" in said(blocked, "Ready")[1]
    await world.host.merge_patch(second, {"spec": {"nodeSelector": {"matchLabels": {"test": "none"}}}})
    await world.eventually(DPUSet, "first", until=lambda each: other not in said(each, "Ready")[1])
    await world.host.merge_patch(second, {"spec": {"nodeSelector": {"matchLabels": {"test": world.namespace}}}})
    await world.eventually(DPUSet, "first", until=lambda each: other in said(each, "Ready")[1])
    await world.host.delete(second)
    await world.eventually(DPUSet, "first", until=lambda each: other not in said(each, "Ready")[1])


async def test_a_foreign_dpu_of_the_name_that_a_card_would_give_is_told_of_and_waited_for(world: World) -> None:
    name = f"{world.host_node}-{PCI}"
    spec = {"nodeName": "elsewhere", "bfb": "image", "nodeEffect": {"noEffect": True}}
    meta = {"name": name, "namespace": world.namespace}
    foreign = await world.host.create(DPU.model_validate({"metadata": meta, "spec": spec}))
    await world.node()
    dpuset = await world.dpuset()
    blocked = await world.eventually(DPUSet, "set", until=lambda each: each.status.reason == "CardTaken")
    assert f"DPU {world.namespace}/{name} has the name" in said(blocked, "Ready")[1]
    await world.host.delete(foreign)
    await world.eventually(DPU, name, until=lambda dpu: dpu.owned_by(dpuset))


async def test_a_dpu_of_that_name_that_cannot_be_read_is_waited_for_until_it_is_deleted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{world.host_node}-{PCI}"
    view = Informer.view

    def unreadable(informer: Informer[Any], record: Record | None) -> Any:
        obj = view(informer, record)
        return None if isinstance(obj, DPU) and obj.spec.node_name == "unreadable" else obj

    monkeypatch.setattr(Informer, "view", unreadable)
    meta = {"name": name, "namespace": world.namespace}
    spec = {"nodeName": "unreadable", "bfb": "image", "nodeEffect": {"noEffect": True}}
    foreign = await world.host.create(DPU.model_validate({"metadata": meta, "spec": spec}))
    await world.node()
    dpuset = await world.dpuset()
    await world.eventually(DPUSet, "set", until=lambda each: "can't be read" in said(each, "Ready")[1])
    await world.host.delete(foreign)
    await world.eventually(DPU, name, until=lambda dpu: dpu.owned_by(dpuset))


async def test_cards_that_others_have_do_not_keep_the_rest_from_their_dpus(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "BATCH", 1)
    await world.node(dpu_1_pci_address="0000-05-00")
    await world.dpuset("first")
    await world.eventually(DPU, f"{world.host_node}-{PCI}")
    both = {FEATURE_PREFIX + "dpu-0-pci-address": PCI, FEATURE_PREFIX + "dpu-1-pci-address": "0000-05-00"}
    second = await world.dpuset("second", dpuSelector=both)
    assert (await world.eventually(DPU, f"{world.host_node}-0000-05-00")).owned_by(second)


async def test_what_a_host_tells_of_a_card_later_reaches_its_dpu(world: World) -> None:
    node = await world.node()
    await world.dpuset()
    name = f"{world.host_node}-{PCI}"
    before = await world.eventually(DPU, name, until=lambda dpu: dpu.labels.get(LABEL_DPU_HOST_IP) == "10.0.0.1")
    assert LABEL_DPU_PF_NAME not in before.labels
    await world.host.merge_patch(node, {"metadata": {"labels": {FEATURE_PREFIX + "dpu-0-pf0-name": "ens1f0np0"}}})
    await world.eventually(DPU, name, until=lambda dpu: dpu.labels.get(LABEL_DPU_PF_NAME) == "ens1f0np0")
    await world.boot(node, "boot-1", "10.0.0.2")
    after = await world.eventually(DPU, name, until=lambda dpu: dpu.labels[LABEL_DPU_HOST_IP] == "10.0.0.2")
    assert after.uid == before.uid


async def test_a_dpu_is_made_with_the_address_that_its_host_has_by_then(world: World) -> None:
    node = await world.node()
    await world.dpuset()
    name = f"{world.host_node}-{PCI}"
    before = await world.eventually(DPU, name)
    await world.boot(node, "boot-1", "10.0.0.2")
    # The set knows by then, for what it tells the DPU that is there is what it tells the next.
    await world.eventually(DPU, name, until=lambda dpu: dpu.labels.get(LABEL_DPU_HOST_IP) == "10.0.0.2")
    await world.host.delete(before)
    after = await world.eventually(DPU, name, until=lambda dpu: dpu.uid != before.uid)
    assert after.labels[LABEL_DPU_HOST_IP] == "10.0.0.2"


async def test_a_client_that_cannot_work_does_not_keep_a_set_from_saying_how_it_stands(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = world.managers[0].cluster.client
    create = client.create

    async def refuse(obj: Object) -> Object:
        if isinstance(obj, DPU):
            raise ConfigError("the token file is gone")
        return await create(obj)

    monkeypatch.setattr(client, "create", refuse)
    await world.node()
    await world.dpuset()
    await world.eventually(DPUSet, "set", until=lambda each: each.status.replicas == 1)
    monkeypatch.undo()
    await world.eventually(DPU, f"{world.host_node}-{PCI}")


async def test_a_rolling_update_of_dpus_that_are_all_down_keeps_to_its_budget(world: World) -> None:
    hosts = [f"{world.host_node}-{number}" for number in range(3)]
    for host in hosts:
        await world.node(host)
    dpuset = await world.dpuset(strategy={"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}})
    await world.eventually(DPUSet, "set", until=lambda each: each.status.dpu_statistics == {"Initializing": 3})
    await world.host.merge_patch(dpuset, {"spec": {"dpuTemplate": {"spec": {"bfb": {"name": "newer"}}}}})
    first = f"{hosts[0]}-{PCI}"
    paused = await world.eventually(
        DPUSet,
        "set",
        until=lambda each: each.status.updated_replicas == 1 and said(each, "Progressing")[0] == "BudgetUsedUp",
    )
    assert said(paused, "Progressing")[1].endswith(f"is Ready: {first}")
    images = {dpu.name: dpu.spec.bfb for dpu in await world.host.list(DPU, world.namespace)}
    assert images == {first: "newer"} | {f"{host}-{PCI}": "image" for host in hosts[1:]}


async def test_a_rolling_update_takes_no_share_of_cards_that_another_set_has(world: World) -> None:
    taken, own = ([f"{world.host_node}-{rack}-{number}" for number in range(2)] for rack in (1, 2))
    for host in taken:
        await world.node(host, rack="1")
    first_rack = {"matchLabels": {"test": world.namespace, FEATURE_PREFIX + "rack": "1"}}
    await world.dpuset("first", nodeSelector=first_rack)
    await world.eventually(DPUSet, "first", until=lambda each: each.status.dpu_statistics == {"Initializing": 2})
    for host in own:
        await world.node(host)
    dpuset = await world.dpuset(strategy={"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "50%"}})
    await world.eventually(DPUSet, "set", until=lambda each: each.status.dpu_statistics == {"Initializing": 2})
    await world.host.merge_patch(dpuset, {"spec": {"dpuTemplate": {"spec": {"bfb": {"name": "newer"}}}}})
    paused = await world.eventually(
        DPUSet,
        "set",
        until=lambda each: each.status.updated_replicas == 1 and said(each, "Progressing")[0] == "BudgetUsedUp",
    )
    assert paused.status.replicas == 4
    images = {dpu.name: dpu.spec.bfb for dpu in await world.host.list(DPU, world.namespace) if dpu.owned_by(dpuset)}
    assert images == {f"{own[0]}-{PCI}": "newer", f"{own[1]}-{PCI}": "image"}


async def test_a_rolling_update_leaves_a_dpu_whose_card_the_labels_have_lost(world: World) -> None:
    first, second = f"{world.host_node}-1", f"{world.host_node}-2"
    lost = await world.node(first)
    await world.node(second)
    dpuset = await world.dpuset(strategy={"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}})
    await world.eventually(DPUSet, "set", until=lambda each: each.status.dpu_statistics == {"Initializing": 2})
    label = FEATURE_PREFIX + "dpu-0-pci-address"
    await world.host.merge_patch(lost, {"metadata": {"labels": {label: None}}})
    name = f"{first}-{PCI}"
    kept = await world.eventually(DPUSet, "set", until=lambda each: name in said(each, "Ready")[1])
    assert kept.status.replicas == 2
    await world.host.merge_patch(dpuset, {"spec": {"dpuTemplate": {"spec": {"bfb": {"name": "newer"}}}}})
    await world.eventually(DPU, f"{second}-{PCI}", until=lambda dpu: dpu.spec.bfb == "newer")
    left = await world.host.get(DPU, name, world.namespace)
    assert (left.spec.bfb, left.deleting) == ("image", False)


async def test_a_rolling_update_that_a_lost_card_holds_up_says_so_and_goes_on_when_its_dpu_is_deleted(
    world: World,
) -> None:
    hosts = [f"{world.host_node}-{number}" for number in range(2)]
    nodes = [await world.node(host) for host in hosts]
    first, second = (f"{host}-{PCI}" for host in hosts)
    dpuset = await world.dpuset(strategy={"type": "RollingUpdate"})
    await world.eventually(DPUSet, "set", until=lambda each: each.status.dpu_statistics == {"Initializing": 2})
    # The second serves as far as the set can see; without a DPU cluster it takes no step that would say otherwise.
    since = {"lastTransitionTime": "2026-01-01T00:00:00Z"}
    ready = [{"type": "Ready", "status": "True", "reason": "Played", "message": ""} | since]
    served = await world.eventually(DPU, second, until=lambda dpu: dpu.status.reason == "DPUClusterNotReady")
    await world.host.merge_patch(served, {"status": {"conditions": ready}}, subresource="status")
    await world.eventually(DPUSet, "set", until=lambda each: each.status.ready_replicas == 1)
    labels = {FEATURE_PREFIX + "dpu-0-pci-address": None}
    await world.host.merge_patch(nodes[0], {"metadata": {"labels": labels}})
    lost = await world.eventually(DPUSet, "set", until=lambda each: said(each, "Ready")[0] == "CardNotFound")
    assert (lost.status.replicas, lost.status.ready_replicas, lost.status.reason) == (2, 1, "CardNotFound")

    await world.host.merge_patch(dpuset, {"spec": {"dpuTemplate": {"spec": {"bfb": {"name": "newer"}}}}})
    held = await world.eventually(DPUSet, "set", until=lambda each: said(each, "Progressing")[0] == "BudgetUsedUp")
    progress = conditions.find(held.status.conditions, "Progressing")
    assert progress is not None
    assert progress.status == "False"
    assert f"can't be replaced: node labels tell no more of the cards of {first}: " in progress.message
    async with asyncio.timeout(30), aclosing(world.host.watch(Event, world.namespace)) as watch:
        async for _, event in watch:
            if event.regarding.uid == dpuset.uid and event.reason == "RolloutPaused":
                assert (event.type, event.note) == ("Warning", progress.message)
                break

    await world.host.delete(await world.host.get(DPU, first, world.namespace))
    await world.eventually(DPU, second, until=lambda dpu: dpu.spec.bfb == "newer")


async def test_a_rolling_update_whose_deletions_are_refused_says_so_until_they_are_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = world.managers[0].cluster.client
    delete = client.delete

    async def refuse(obj: Object, **more: str) -> None:
        if isinstance(obj, DPU):
            raise Forbidden(403, "Forbidden", "somebody's webhook denied the request")
        await delete(obj, **more)

    await world.node()
    dpuset = await world.dpuset(strategy={"type": "RollingUpdate"})
    name = f"{world.host_node}-{PCI}"
    await world.eventually(DPU, name)
    monkeypatch.setattr(client, "delete", refuse)
    await world.host.merge_patch(dpuset, {"spec": {"dpuTemplate": {"spec": {"bfb": {"name": "newer"}}}}})
    held = await world.eventually(DPUSet, "set", until=lambda each: said(each, "Progressing")[0] == "DeletionFailed")
    assert f"DPU {name} can't be deleted" in said(held, "Progressing")[1]
    assert "somebody's webhook denied" in said(held, "Progressing")[1]
    monkeypatch.undo()
    await world.eventually(DPU, name, until=lambda dpu: dpu.spec.bfb == "newer")
    await world.eventually(DPUSet, "set", until=lambda each: said(each, "Progressing")[0] == "UpToDate")


async def test_a_rolling_update_replaces_what_is_outdated(world: World) -> None:
    await world.node()
    dpuset = await world.dpuset(strategy={"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}})
    name = f"{world.host_node}-{PCI}"
    before = await world.eventually(DPU, name)
    await world.host.merge_patch(dpuset, {"spec": {"dpuTemplate": {"spec": {"bfb": {"name": "newer"}}}}})
    after = await world.eventually(DPU, name, until=lambda dpu: dpu.uid != before.uid)
    assert after.spec.bfb == "newer"


@pytest.mark.parametrize("strategy", ["Recreate", "RollingUpdate"])
async def test_an_edit_that_needs_no_flash_reaches_the_dpus_that_there_are(world: World, strategy: str) -> None:
    await world.node()
    dpuset = await world.dpuset(strategy={"type": strategy})
    name = f"{world.host_node}-{PCI}"
    before = await world.eventually(DPU, name)
    effect = {"noEffect": None, "drain": None, "taint": {"key": "dpu", "effect": "NoSchedule"}}
    spec = {"nodeEffect": effect, "automaticNodeReboot": False, "cluster": {"nodeLabels": {"rack": "1"}}}
    template = {"annotations": {"note": "x"}, "spec": spec}
    await world.host.merge_patch(dpuset, {"metadata": {"labels": {"team": "blue"}}, "spec": {"dpuTemplate": template}})
    after = await world.eventually(DPU, name, until=lambda dpu: dpu.labels.get("team") == "blue")
    after = await world.eventually(DPU, name, until=lambda dpu: dpu.annotations == {"note": "x"})
    assert after.uid == before.uid
    assert after.spec.node_effect.taint.key == "dpu"
    assert after.spec.node_effect.drain is None
    assert after.spec.automatic_node_reboot is False
    assert after.spec.cluster.node_labels["rack"] == "1"


async def test_with_recreate_an_outdated_dpu_is_told_of_and_made_anew_when_it_is_deleted(world: World) -> None:
    await world.node()
    dpuset = await world.dpuset()
    name = f"{world.host_node}-{PCI}"
    before = await world.eventually(DPU, name)
    await world.host.merge_patch(dpuset, {"spec": {"dpuTemplate": {"spec": {"bfb": {"name": "newer"}}}}})
    told = await world.eventually(
        DPUSet, "set", until=lambda each: any(c.reason == "Recreate" for c in each.status.conditions)
    )
    assert (told.status.replicas, told.status.updated_replicas) == (1, 0)
    await world.host.delete(before)
    after = await world.eventually(DPU, name, until=lambda dpu: dpu.uid != before.uid)
    assert after.spec.bfb == "newer"


async def test_every_card_of_a_node_has_its_dpu_and_a_narrowed_selector_takes_the_others(world: World) -> None:
    await world.node(dpu_1_pci_address="0000-05-00")
    both = {FEATURE_PREFIX + "dpu-0-pci-address": PCI, FEATURE_PREFIX + "dpu-1-pci-address": "0000-05-00"}
    dpuset = await world.dpuset(dpuSelector=both)
    first, second = f"{world.host_node}-{PCI}", f"{world.host_node}-0000-05-00"
    await world.eventually(DPU, first)
    await world.eventually(DPU, second)
    await world.host.merge_patch(dpuset, {"spec": {"dpuSelector": {FEATURE_PREFIX + "dpu-1-pci-address": None}}})
    await eventually_gone(world.host, DPU, second, world.namespace)
    assert not (await world.host.get(DPU, first, world.namespace)).deleting
