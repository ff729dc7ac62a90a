"""Finalizers, put on and taken off by patches that touch nothing else and say what they assume."""

from __future__ import annotations

from dpf.runtime.client import Client
from dpf.runtime.errors import Conflict, Invalid, NotFound
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

    :raises Conflict: if the list has changed since the object was read, or it is another object by now; read again.
    :raises Invalid: if the object without it breaks a rule.
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
        left = await client.json_patch(obj, operations)
    except NotFound:
        client.gone(obj)
        return
    except Invalid as error:
        # A test that does not hold is 422 too, without details; where a rule is broken the details say which.
        if error.details:
            raise
        raise Conflict(409, "Overtaken", f"{obj.key}: its finalizers have changed since it was read") from error
    if left.deleting and not left.metadata.finalizers and not left.metadata.deletion_grace_period_seconds:
        # The server has removed it, in the same version that it had: else it would be undone again until the watch tells.
        client.gone(left)
