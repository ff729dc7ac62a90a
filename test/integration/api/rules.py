"""Sends objects to a real API server that has nothing but the CRDs: no webhook, no controller.

Objects are sent as the plain structures that a user's YAML holds, not through the models, so that wrong ones get there too.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import pytest
import yaml

from dpf.runtime.client import Client
from dpf.runtime.errors import Invalid, NotFound
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import Object, T
from dpf.sandbox import manifests
from dpf.sandbox.api import Api
from test.integration.conftest import Planes


class Server:
    """Sends plain structures to one namespace and returns what was stored."""

    def __init__(self, client: Client, namespace: str) -> None:
        self.client = client
        self.namespace = namespace

    async def create(self, kind: type[T], name: str = "x", **body: Any) -> T:
        """Creates an object with this spec and status, or none."""
        meta = {"metadata": {"name": name}}
        whole = {"apiVersion": kind.RESOURCE.api_version, "kind": kind.RESOURCE.kind} | meta | body
        answer = await self.client.request("POST", kind.RESOURCE.path(self.namespace), body=whole)
        return kind.model_validate_json(answer)

    async def change(self, obj: T, **fields: Any) -> T:
        """Changes fields of the spec; None removes one."""
        return await self.client.merge_patch(obj, {"spec": fields})

    async def get(self, obj: T) -> T:
        """The object as it is now."""
        return await self.client.get(type(obj), obj.name, self.namespace)

    async def refuses(self, kind: type[Object], message: str, name: str = "x", **body: Any) -> None:
        """Creating it is refused with this message."""
        with pytest.raises(Invalid, match=re.escape(message)):
            await self.create(kind, name, **body)

    async def keeps(self, obj: Object, message: str, **fields: Any) -> None:
        """Changing the fields is refused with this message, and what is stored stays."""
        with pytest.raises(Invalid, match=re.escape(message)):
            await self.change(obj, **fields)
        assert await self.get(obj) == obj

    async def lives(self, obj: Object) -> None:
        """Created, it can be read, sent again unchanged, and deleted."""
        assert await self.get(obj) == obj
        again = await self.client.replace(obj)
        assert again.metadata.generation == obj.metadata.generation
        assert again.model_dump(exclude={"metadata"}) == obj.model_dump(exclude={"metadata"})
        await self.client.delete(again)
        with pytest.raises(NotFound):
            await self.get(obj)


async def from_before(
    server: Server,
    planes: Planes,
    kind: type[Object],
    rules: Sequence[str],
    names: tuple[str, str],
    spec_: dict[str, Any],
) -> str:
    """Stores an object of a kind that has another group, and then has rules that the object would break; returns its path.

    :param rules: parts of the messages of the rules that come later.
    :param names: of the object, and of one that is refused once the rules are in force.
    """
    resource = kind.RESOURCE
    group = "before.dpf.test"
    text = (manifests.CONFIG / "crd" / f"{resource.group}_{resource.plural}.yaml").read_text()
    now, before = (yaml.safe_load(text) for _ in range(2))
    for crd in (now, before):
        crd["metadata"]["name"], crd["spec"]["group"] = f"{resource.plural}.{group}", group
    _drop_rules(before, rules)
    path = f"/apis/{group}/v1alpha1/namespaces/{server.namespace}/{resource.plural}"

    def body(name: str) -> dict[str, Any]:
        there = {"apiVersion": f"{group}/v1alpha1", "kind": resource.kind}
        return there | {"metadata": {"name": name}, "spec": spec_}

    async with Api(Kubeconfig.load(planes.host), user_agent="test") as api:
        await manifests.Applier(api).install_crds([before])
        await server.client.request("POST", path, body=body(names[0]))
        await manifests.Applier(api).install_crds([now])
    async with asyncio.timeout(30):
        while True:
            try:
                await server.client.request("POST", f"{path}?dryRun=All", body=body(names[1]))
            except Invalid:
                return f"{path}/{names[0]}"  # The rules are in force.
            await asyncio.sleep(0.05)


def _drop_rules(schema: Any, messages: Sequence[str]) -> None:
    if isinstance(schema, dict):
        if rules := schema.get("x-kubernetes-validations"):
            kept = [rule for rule in rules if not any(each in rule["message"] for each in messages)]
            schema["x-kubernetes-validations"] = kept
        schema = list(schema.values())
    if isinstance(schema, list):
        for each in schema:
            _drop_rules(each, messages)


async def patched(server: Server, path: str, *changes: dict[str, Any]) -> None:
    """Changes what is there; an :class:`Invalid` if it is refused."""
    for change in changes:
        await server.client.request("PATCH", path, body=change, content_type="application/merge-patch+json")


ANYWHERE = {"nodeName": "n", "bfb": "b"}


TAINT = {"taint": {"key": "dpu", "value": "provisioning", "effect": "NoSchedule"}}


TWO_EFFECTS = TAINT | {"noEffect": True}


POWER_CYCLE = "provisioning.dpu.nvidia.com/host-power-cycle-required"
