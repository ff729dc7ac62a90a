"""Admission webhooks called by a real API server, with certificates the server made for itself."""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from itertools import count

import aiohttp
import pytest
from aiohttp import web

from dpf.runtime import certs
from dpf.runtime import webhook as module
from dpf.runtime.client import Client
from dpf.runtime.errors import ApiError, BadRequest, Forbidden, Invalid
from dpf.runtime.k8s import MutatingWebhookConfiguration, ValidatingWebhookConfiguration
from dpf.runtime.meta import ObjectMeta
from dpf.runtime.metrics import Metrics
from dpf.runtime.webhook import Cause, Denied, Endpoint, Registration, Webhook, WebhookServer, invalid
from dpf.sandbox.controlplane.planes import free_ports
from test.unit.runtime.widgets import Widget, WidgetSpec, widget

pytestmark = pytest.mark.xdist_group("webhook")  # registrations hold for the whole cluster


def free_port() -> int:
    return free_ports([0])[0]


def default(obj: Widget) -> Widget:
    if obj.name == "panics":
        raise RuntimeError("a mistake")
    return obj.model_copy(update={"spec": WidgetSpec(size=obj.spec.size or 7)})


def validate(_: Widget | None, new: Widget | None) -> None:
    if new is None:
        raise Denied("widgets are for ever")
    if new.spec.size > 100:
        raise invalid(new, [Cause("spec.size", "must be at most 100")])


@asynccontextmanager
async def serving(client: Client, namespace: str) -> AsyncIterator[WebhookServer]:
    port = free_port()
    # Of this namespace only: the API server goes on calling a webhook for a moment after it was taken away.
    registration = Registration(
        "webhook-ca", namespace, f"mutating-{namespace}", f"validating-{namespace}", only=namespace
    )
    server = WebhookServer(
        client, f"127.0.0.1:{port}", Endpoint(url=f"https://127.0.0.1:{port}"), registration, Metrics()
    )
    server.add(
        Webhook("mwidget.bench.dpf.dev", Widget, "/mutate", ("CREATE", "UPDATE"), default=default),
        Webhook("vwidget.bench.dpf.dev", Widget, "/validate", ("CREATE", "UPDATE", "DELETE"), validate=validate),
    )
    task = asyncio.create_task(server.run())
    try:
        await client_sees(client, namespace)
        yield server
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        for configuration in server.configurations():
            await client.delete(configuration)


async def client_sees(client: Client, namespace: str) -> None:
    """The API server takes a moment to call a webhook that was just registered, for each of the two."""
    defaulted = denied = False
    async with asyncio.timeout(30):
        while not (defaulted and denied):
            for size in (0, 101):
                body = widget("probe", 0, size=size, namespace=namespace)
                body["metadata"] = {"name": "probe"}
                try:
                    path = Widget.RESOURCE.path(namespace)
                    answer = await client.request("POST", path, params={"dryRun": "All"}, body=body)
                except Invalid:
                    denied = True
                except ApiError:
                    continue
                else:
                    defaulted = defaulted or b'"size":7' in answer


async def test_defaults_are_filled_in_and_unknown_fields_stay(host_client: Client, namespace: str) -> None:
    async with serving(host_client, namespace):
        body = widget("a", 0, size=0, namespace=namespace)
        body["metadata"] = {"name": "a", "namespace": namespace}
        body["spec"] = {"unknownToTheModel": {"kept": True}}
        stored = await host_client.request("POST", Widget.RESOURCE.path(namespace), body=body)
        assert b'"unknownToTheModel":{"kept":true}' in stored
        assert b'"size":7' in stored


async def test_a_refusal_names_kind_field_and_rule(host_client: Client, namespace: str) -> None:
    async with serving(host_client, namespace):
        big = Widget(metadata=ObjectMeta(name="big", namespace=namespace), spec=WidgetSpec(size=101))
        with pytest.raises(
            Invalid, match=r'Widget\.bench\.dpf\.dev "big" is invalid: spec\.size: must be at most 100'
        ) as info:
            await host_client.create(big)
        assert info.value.details["causes"][0]["field"] == "spec.size"
        fine = await host_client.create(Widget(metadata=ObjectMeta(name="fine", namespace=namespace)))
        with pytest.raises(Forbidden, match="widgets are for ever"):
            await host_client.delete(fine)


async def test_a_mistake_in_a_function_refuses_that_request_only(host_client: Client, namespace: str) -> None:
    async with serving(host_client, namespace):
        with pytest.raises(ApiError, match="its log says why"):
            await host_client.create(Widget(metadata=ObjectMeta(name="panics", namespace=namespace)))
        unreadable = {
            "metadata": {"name": "odd"},
            "apiVersion": "bench.dpf.dev/v1",
            "kind": "Widget",
            "spec": {"size": "x"},
        }
        with pytest.raises(BadRequest, match=r"spec\.size"):
            await host_client.request("POST", Widget.RESOURCE.path(namespace), body=unreadable)
        fine = await host_client.create(Widget(metadata=ObjectMeta(name="fine", namespace=namespace)))
        assert fine.spec.size == 7


async def test_a_certificate_is_changed_without_a_break(
    host_client: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Far shorter than in production, but longer than an API server takes to hear of a changed registration.
    monkeypatch.setattr(module, "CHECK_INTERVAL", 0.5)
    monkeypatch.setattr(module, "HEARD", 5.0)
    monkeypatch.setattr(certs, "RENEW_AT", 0.0)
    monkeypatch.setattr(certs, "SKEW", timedelta(seconds=0))
    loads = 0
    load, handle = WebhookServer._load, WebhookServer._handle

    def counted(self: WebhookServer, pair: certs.KeyPair | None) -> None:
        nonlocal loads
        loads += 1
        load(self, pair)

    async def once(self: WebhookServer, request: web.Request) -> web.Response:
        """Each request of the API server comes by a new connection, so that each meets the certificate of its moment."""
        response = await handle(self, request)
        response.force_close()
        return response

    monkeypatch.setattr(WebhookServer, "_load", counted)
    monkeypatch.setattr(WebhookServer, "_handle", once)
    async with serving(host_client, namespace), asyncio.timeout(90):
        for number in count():
            made = await host_client.create(Widget(metadata=ObjectMeta(name=f"w{number}", namespace=namespace)))
            assert made.spec.size == 7
            if loads > 3:
                break


async def test_a_body_that_is_no_review_is_refused(host_client: Client, namespace: str) -> None:
    async with serving(host_client, namespace) as server:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        url = f"{server._endpoint.url}/validate"
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http:
            for body, code in ((b"not json", 400), (b"{}", 400), (b"x" * (module.BODY_LIMIT + 1), 413)):
                async with http.post(url, data=io.BytesIO(body)) as response:
                    assert response.status == code
            async with http.post(f"{server._endpoint.url}/elsewhere", data=b"{}") as response:
                assert response.status == 404


async def test_registrations_leave_the_control_plane_alone(host_client: Client, namespace: str) -> None:
    async with serving(host_client, namespace):
        for kind, name in (
            (MutatingWebhookConfiguration, f"mutating-{namespace}"),
            (ValidatingWebhookConfiguration, f"validating-{namespace}"),
        ):
            [entry] = (await host_client.get(kind, name)).webhooks
            assert entry["timeoutSeconds"] == 5
            assert entry["namespaceSelector"]["matchExpressions"][0]["values"] == [namespace]
    everywhere = Registration("ca", namespace, "m", "v").namespaces()["matchExpressions"][0]
    assert (everywhere["operator"], everywhere["values"]) == ("NotIn", ["kube-system", "kube-public"])
