"""A real API server takes the manifests that install the system as they are: no unknown field, nothing it would refuse. And it lets
the scraper in.
"""

from __future__ import annotations

import asyncio
import base64
from contextlib import aclosing, suppress
from pathlib import Path

import pytest
import yaml

from dpf.runtime.client import APPLY_PATCH, Client
from dpf.runtime.errors import AlreadyExists
from dpf.runtime.k8s import Namespace
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import ObjectMeta
from dpf.runtime.scraping import ScrapeGuard
from dpf.runtime.testing import RETRY
from dpf.sandbox import manifests
from dpf.sandbox.api import Api
from test.integration.conftest import Planes
from test.kustomize import build

CONFIG = Path(__file__).parents[2] / "config"
NAMESPACE = "dpf-operator-system"
FOREIGN = ("NodeFeatureRule", "PodMonitor", "PrometheusRule")
"""Kinds of node feature discovery and of the Prometheus operator."""


async def make_namespace(client: Client) -> None:
    with suppress(AlreadyExists):
        await client.create(Namespace(metadata=ObjectMeta(name=NAMESPACE)))


@pytest.mark.timeout(300)
async def test_the_scraper_is_let_in_with_the_token_that_the_cluster_makes_for_it(
    control_planes: Planes, host_client: Client
) -> None:
    await make_namespace(host_client)
    async with Api(Kubeconfig.load(control_planes.host), user_agent="test") as api:
        scraper = [obj for obj in build(CONFIG / "observability") if obj["kind"] not in FOREIGN]
        await manifests.Applier(api).apply(scraper)
        token = ""
        async with asyncio.timeout(90), aclosing(api.follow(f"/api/v1/namespaces/{NAMESPACE}/secrets")) as secrets:
            async for _, secret in secrets:
                if secret["metadata"]["name"] == "dpf-metrics-scraper" and "token" in secret.get("data", {}):
                    token = base64.b64decode(secret["data"]["token"]).decode()
                    break
    guard = ScrapeGuard(host_client)
    async with asyncio.timeout(90):
        while await guard.verdict(f"Bearer {token}", "/metrics") != 200:
            # The API server hears of the binding some moments after it was made; a guard remembers what it was told.
            await asyncio.sleep(RETRY)
            guard = ScrapeGuard(host_client)
    assert await guard.verdict(f"Bearer {token}", "/debug") == 403


async def test_everything_that_is_installed_is_accepted_word_for_word(
    control_planes: Planes, host_client: Client
) -> None:
    added = [*build(CONFIG / "detector"), *build(CONFIG / "observability")]
    objects = [*build(CONFIG / "all-namespaces"), *(obj for obj in added if obj["kind"] not in FOREIGN)]
    await make_namespace(host_client)
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
