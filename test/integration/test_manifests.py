"""A real API server takes the manifests that install the system as they are: no unknown field, nothing it would refuse."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import yaml

from dpf.runtime.client import APPLY_PATCH, Client
from dpf.runtime.errors import AlreadyExists
from dpf.runtime.k8s import Namespace
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import ObjectMeta
from dpf.sandbox import manifests
from dpf.sandbox.api import Api
from test.integration.conftest import Planes
from test.kustomize import build

CONFIG = Path(__file__).parents[2] / "config"


async def test_everything_that_is_installed_is_accepted_word_for_word(
    control_planes: Planes, host_client: Client
) -> None:
    # The rule's kind is node feature discovery's.
    detector = [obj for obj in build(CONFIG / "detector") if obj["kind"] != "NodeFeatureRule"]
    objects = [*build(CONFIG / "all-namespaces"), *detector]
    with suppress(AlreadyExists):
        await host_client.create(Namespace(metadata=ObjectMeta(name="dpf-operator-system")))
    strict = {"dryRun": "All", "fieldValidation": "Strict", "fieldManager": "test", "force": "true"}
    async with Api(Kubeconfig.load(control_planes.host), user_agent="test") as api:
        applier = manifests.Applier(api)
        for obj in objects:
            path, body = await applier.path(obj), yaml.safe_dump(obj).encode()
            await host_client.transport.request("PATCH", path, params=strict, body=body, content_type=APPLY_PATCH)
    assert {obj["kind"] for obj in objects} >= {
        "CustomResourceDefinition",
        "DaemonSet",
        "Deployment",
        "DPUFlavor",
        "Service",
    }
