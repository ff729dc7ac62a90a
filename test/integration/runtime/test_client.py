"""The client on a real API server."""

from __future__ import annotations

import pytest

from dpf.runtime import finalizers
from dpf.runtime.client import Client
from dpf.runtime.cluster import Cluster
from dpf.runtime.errors import AlreadyExists, Conflict, NotFound
from dpf.runtime.k8s import ConfigMap, Pod, Secret, encoded
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import ObjectMeta
from dpf.runtime.testing import eventually, eventually_gone
from test.integration.conftest import Planes


def config_map(name: str, namespace: str, **data: str) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, namespace=namespace), data=data)


async def test_an_object_is_created_read_patched_applied_replaced_and_deleted(
    host_client: Client, namespace: str
) -> None:
    created = await host_client.create(config_map("a", namespace, x="1"))
    assert (await host_client.get(ConfigMap, "a", namespace)).uid == created.uid
    patched = await host_client.merge_patch(created, {"data": {"y": "2"}})
    assert patched.data == {"x": "1", "y": "2"}
    applied = await host_client.apply(config_map("a", namespace, z="3"))
    assert applied.data == {"x": "1", "y": "2", "z": "3"}
    replaced = await host_client.replace(applied.model_copy(update={"data": {"only": "this"}}))
    assert replaced.data == {"only": "this"}
    await host_client.delete(replaced)
    with pytest.raises(NotFound):
        await host_client.get(ConfigMap, "a", namespace)


async def test_a_second_object_of_the_name_is_refused(host_client: Client, namespace: str) -> None:
    await host_client.create(config_map("a", namespace))
    with pytest.raises(AlreadyExists):
        await host_client.create(config_map("a", namespace))


async def test_a_patch_locked_on_an_old_version_is_refused(host_client: Client, namespace: str) -> None:
    old = await host_client.create(config_map("a", namespace))
    await host_client.merge_patch(old, {"data": {"x": "1"}})
    with pytest.raises(Conflict):
        await host_client.merge_patch(old, {"data": {"x": "2"}}, resource_version=old.metadata.resource_version)


async def test_a_delete_spares_a_namesake_made_later(host_client: Client, namespace: str) -> None:
    first = await host_client.create(config_map("a", namespace))
    await host_client.delete(first)
    second = await host_client.create(config_map("a", namespace))
    with pytest.raises(Conflict):
        await host_client.delete(first)
    assert (await host_client.get(ConfigMap, "a", namespace)).uid == second.uid


async def test_a_delete_that_names_a_version_spares_any_other(host_client: Client, namespace: str) -> None:
    seen = await host_client.create(config_map("a", namespace))
    changed = await host_client.merge_patch(seen, {"data": {"k": "changed"}})
    with pytest.raises(Conflict):
        await host_client.delete(seen, resource_version=seen.metadata.resource_version)
    await host_client.delete(changed, resource_version=changed.metadata.resource_version)
    await eventually_gone(host_client, ConfigMap, "a", namespace)


async def test_a_status_is_written_through_its_subresource_and_not_twice(host_client: Client, namespace: str) -> None:
    spec = {"containers": [{"name": "c", "image": "i"}]}
    pod = await host_client.create(
        Pod.model_validate({"metadata": {"name": "p", "namespace": namespace}, "spec": spec})
    )
    wanted = pod.status.model_copy(update={"message": "hello"})
    written = await host_client.status(pod).set(wanted)
    assert written.status.message == "hello"
    assert await host_client.status(written).set(wanted) is written


async def test_finalizers_go_on_and_off_without_touching_those_of_others(host_client: Client, namespace: str) -> None:
    bare = await host_client.create(config_map("a", namespace))
    obj = await finalizers.add(host_client, bare, "x.example/one")
    with pytest.raises(Conflict):
        await finalizers.add(host_client, bare, "x.example/two")
    for name in ("x.example/two", "x.example/three"):
        obj = await finalizers.add(host_client, obj, name)
    await finalizers.remove(host_client, obj, "x.example/one")
    left = await host_client.get(ConfigMap, "a", namespace)
    assert left.metadata.finalizers == ["x.example/two", "x.example/three"]
    with pytest.raises(Conflict, match="finalizers have changed since it was read"):
        await finalizers.remove(host_client, obj, "x.example/one")
    await finalizers.remove(host_client, left, "x.example/three")
    left = await host_client.get(ConfigMap, "a", namespace)
    assert left.metadata.finalizers == ["x.example/two"]
    await finalizers.remove(host_client, left, "x.example/two")


async def test_what_went_with_its_last_finalizer_is_known_to_be_gone(control_planes: Planes, namespace: str) -> None:
    """The server answers with the version that the object had, by which no cache could tell."""
    async with Client(Kubeconfig.load(control_planes.host), field_owner="test") as client:
        cached = Cluster("host", client).cache[ConfigMap]
        cached.replace([], 1)  # no watch tells it anything: what it knows is of these writes
        obj = await client.create(config_map("a", namespace))
        for name in ("x.example/one", "x.example/two"):
            obj = await finalizers.add(client, obj, name)
        await client.delete(obj)
        obj = await client.get(ConfigMap, "a", namespace)
        await finalizers.remove(client, obj, "x.example/one")
        assert obj.key in cached
        await finalizers.remove(client, await client.get(ConfigMap, "a", namespace), "x.example/two")
        assert obj.key not in cached


async def test_a_secret_is_read_as_it_was_written(host_client: Client, namespace: str) -> None:
    secret = Secret(metadata=ObjectMeta(name="s", namespace=namespace), data=encoded({"k": "välue"}))
    assert (await host_client.create(secret)).text("k") == "välue"
    assert encoded({"k": "välue"})["k"] not in repr(secret)


async def test_waiting_sees_what_becomes_and_what_goes(host_client: Client, namespace: str) -> None:
    obj = await host_client.create(config_map("a", namespace))
    await host_client.merge_patch(obj, {"data": {"x": "1"}})
    assert (await eventually(host_client, ConfigMap, "a", namespace, until=lambda o: o.data == {"x": "1"})).name == "a"
    await host_client.delete(obj)
    await eventually_gone(host_client, ConfigMap, "a", namespace)
    with pytest.raises(AssertionError, match="seen last: nothing"):
        await eventually(host_client, ConfigMap, "a", namespace, timeout=0.2)
