"""Finalizers, put on and taken off by patches that touch nothing else and say what they assume."""

from __future__ import annotations

from dpf.runtime.client import Client
from dpf.runtime.errors import NotFound
from dpf.runtime.meta import T


async def add(client: Client, obj: T, finalizer: str) -> T:
    """The object with the finalizer on it; locked on its version, so that nobody else's is lost.

    :raises Conflict: if the object has changed since it was read.
    """
    if finalizer in obj.metadata.finalizers:
        return obj
    patch = {"metadata": {"finalizers": [*obj.metadata.finalizers, finalizer]}}
    return await client.merge_patch(obj, patch, resource_version=obj.metadata.resource_version)


async def remove(client: Client, obj: T, finalizer: str) -> None:
    """Takes the finalizer off this very object; that the object is gone is fine.

    :raises Invalid: if the list has changed since the object was read; read again.
    """
    if finalizer not in obj.metadata.finalizers:
        return
    path = f"/metadata/finalizers/{obj.metadata.finalizers.index(finalizer)}"
    operations = [
        {"op": "test", "path": "/metadata/uid", "value": obj.uid},
        {"op": "test", "path": path, "value": finalizer},
        {"op": "remove", "path": path},
    ]
    try:
        await client.json_patch(obj, operations)
    except NotFound:
        return
