"""What a webhook answers; that a real API server understands it is tested on one."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, ClassVar, cast

import orjson
import pytest
from pydantic import Field

from dpf.runtime import certs
from dpf.runtime import webhook as serving
from dpf.runtime.certs import KeyPair, SmallCA
from dpf.runtime.client import Client
from dpf.runtime.errors import ConfigError
from dpf.runtime.k8s import WebhookConfiguration
from dpf.runtime.meta import Model, Object, Resource, now
from dpf.runtime.metrics import Metrics
from dpf.runtime.testing import run_virtual
from dpf.runtime.webhook import (
    CHECK_INTERVAL,
    HEARD,
    Cause,
    Denied,
    Endpoint,
    Registration,
    Webhook,
    WebhookServer,
    invalid,
    respond,
)


class Part(Model):
    name: str
    size: int = 0


class ThingSpec(Model):
    size: int = 0
    tags: list[str] = Field(default_factory=list)
    parts: list[Part] = Field(default_factory=list)
    limits: dict[str, str] = Field(default_factory=dict)


class Thing(Object):
    RESOURCE: ClassVar[Resource] = Resource("example.org", "v1", "things", "Thing")

    spec: ThingSpec = Field(default_factory=ThingSpec)


def thing(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "example.org/v1", "kind": "Thing", "metadata": {"name": "a", "namespace": "n"}, "spec": spec}


def answered(webhook: Webhook[Any], old: dict[str, Any] | None, new: dict[str, Any] | None) -> dict[str, Any]:
    return asyncio.run(respond(webhook, old, new))


def defaulted(sent: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    """The operations that a webhook answers which makes these changes to the spec."""

    def default(obj: Thing) -> Thing:
        return obj.model_copy(update={"spec": obj.spec.model_copy(update=changes)})

    answer = answered(Webhook("m", Thing, "/m", ("CREATE",), default=default), None, sent)
    assert answer["allowed"]
    return list(orjson.loads(base64.b64decode(answer["patch"]))) if "patch" in answer else []


def refused(
    validate: Callable[[Thing | None, Thing | None], Awaitable[None] | None], new: dict[str, Any] | None
) -> dict[str, Any]:
    answer = answered(Webhook("v", Thing, "/v", ("CREATE",), validate=validate), None, new)
    assert not answer["allowed"]
    return dict(answer["status"])


def test_nothing_changed_is_no_patch() -> None:
    assert defaulted(thing(size=3, unknown={"kept": True})) == []


def test_only_what_was_changed_is_patched() -> None:
    assert defaulted(thing(size=3, tags=["x"], unknown=1), size=4) == [{"op": "add", "path": "/spec/size", "value": 4}]


def test_a_field_that_was_not_sent_is_added() -> None:
    assert defaulted(thing(), size=4) == [{"op": "add", "path": "/spec/size", "value": 4}]


def test_names_with_slashes_are_escaped() -> None:
    operations = defaulted(thing(limits={"a": "1"}), limits={"a": "1", "example.org/x~y": "2"})
    assert operations == [{"op": "add", "path": "/spec/limits/example.org~1x~0y", "value": "2"}]


def test_what_was_taken_out_is_removed() -> None:
    operations = defaulted(thing(limits={"a": "1", "b": "2"}), limits={"a": "1"})
    assert operations == [{"op": "remove", "path": "/spec/limits/b"}]


def test_unknown_fields_inside_a_list_stay() -> None:
    sent = thing(parts=[{"name": "a", "unknown": 1}, {"name": "b", "size": 5, "unknown": 2}])
    operations = defaulted(sent, parts=[Part(name="a", size=9), Part(name="b", size=5)])
    assert operations == [{"op": "add", "path": "/spec/parts/0/size", "value": 9}]


def test_a_list_of_another_length_is_replaced() -> None:
    operations = defaulted(thing(tags=["x"]), tags=["x", "y"])
    assert operations == [{"op": "add", "path": "/spec/tags", "value": ["x", "y"]}]


def test_a_refusal_names_kind_field_and_rule() -> None:
    def validate(_: Thing | None, new: Thing | None) -> None:
        assert new is not None
        raise invalid(new, [Cause("spec.size", "must be at most 3")])

    status = refused(validate, thing(size=4))
    assert (status["code"], status["reason"]) == (422, "Invalid")
    assert status["message"] == 'Thing.example.org "a" is invalid: spec.size: must be at most 3'
    assert status["details"]["causes"] == [
        {"field": "spec.size", "message": "must be at most 3", "reason": "FieldValueInvalid"}
    ]
    named = [status["details"][key] for key in ("group", "kind", "name")]
    assert named == ["example.org", "Thing", "a"], "kubectl says these beside the causes"


def test_a_plain_refusal_is_forbidden() -> None:
    def validate(_: Thing | None, __: Thing | None) -> None:
        raise Denied("not now")

    status = refused(validate, thing())
    assert (status["code"], status["reason"], status["message"]) == (403, "Forbidden", "not now")


def test_a_mistake_in_the_function_refuses_without_saying_what_it_was() -> None:
    def validate(_: Thing | None, __: Thing | None) -> None:
        raise RuntimeError("password=hunter2")

    status = refused(validate, thing())
    assert (status["code"], status["reason"]) == (500, "InternalError")
    assert "hunter2" not in status["message"]


def test_an_object_that_the_model_cannot_read_is_refused_by_field() -> None:
    status = refused(lambda _, __: None, thing(size="big"))
    assert (status["code"], status["reason"]) == (400, "BadRequest")
    assert "spec.size" in status["message"]


def test_a_deletion_is_validated_with_the_object_as_it_was() -> None:
    seen: list[tuple[Thing | None, Thing | None]] = []
    answer = answered(
        Webhook("v", Thing, "/v", ("DELETE",), validate=lambda old, new: seen.append((old, new))), thing(size=2), None
    )
    assert answer == {"allowed": True}
    [(old, new)] = seen
    assert new is None
    assert old is not None
    assert old.spec.size == 2


def seen_by_a_validator(old: dict[str, Any], new: dict[str, Any] | None) -> tuple[Thing | None, Thing | None]:
    seen: list[tuple[Thing | None, Thing | None]] = []
    webhook = Webhook(
        "v", Thing, "/v", ("UPDATE", "DELETE"), validate=lambda before, after: seen.append((before, after))
    )
    assert answered(webhook, old, new) == {"allowed": True}
    [found] = seen
    return found


def test_what_is_stored_and_cannot_be_read_is_deleted_by_its_metadata() -> None:
    old, new = seen_by_a_validator(thing(size="big"), None)
    assert new is None
    assert old is not None
    assert (str(old.key), old.deleting) == ("n/a", False)


def test_what_is_stored_and_cannot_be_read_is_mended_as_if_it_were_new() -> None:
    old, new = seen_by_a_validator(thing(size="big"), thing(size=2))
    assert old is None
    assert new is not None
    assert new.spec.size == 2


def test_what_cannot_be_read_and_is_being_deleted_is_let_go() -> None:
    going = thing(size="big")
    going["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": []}
    for webhook in (
        Webhook("v", Thing, "/v", ("UPDATE",), validate=lambda _, __: None),
        Webhook("m", Thing, "/m", ("UPDATE",), default=lambda obj: obj),
    ):
        assert answered(webhook, going, going) == {"allowed": True}
        assert answered(webhook, thing(size="big"), thing(size="big"))["status"]["code"] == 400


def test_an_endpoint_is_a_service_or_a_url() -> None:
    service = Endpoint(service="hooks", namespace="n")
    assert service.names() == ["hooks.n.svc", "hooks.n.svc.cluster.local"]
    assert service.client_config("/x") == {"service": {"name": "hooks", "namespace": "n", "path": "/x", "port": 443}}
    url = Endpoint(url="https://[::1]:9443")
    assert url.names() == ["::1"]
    assert url.client_config("/x") == {"url": "https://[::1]:9443/x"}


def test_a_new_certificate_is_shown_when_every_api_server_has_heard_of_its_authority(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    story: list[tuple[float, str, bytes]] = []

    def tell(what: str, of: bytes) -> None:
        story.append((asyncio.get_running_loop().time(), what, of))

    class Registrar:
        async def apply(self, configuration: WebhookConfiguration) -> None:
            [entry] = configuration.webhooks
            tell("registered", base64.b64decode(entry["clientConfig"]["caBundle"]))

    async def new_pair() -> KeyPair | None:
        return None if story[-1][2] == b"new" else KeyPair(b"cert", b"key", b"new")

    async def body() -> None:
        client, registration = cast("Client", Registrar()), Registration("ca", "n", "m", "v")
        server = WebhookServer(client, "127.0.0.1:9443", Endpoint(service="s", namespace="n"), registration, Metrics())
        server.add(Webhook("v", Thing, "/v", ("CREATE",), validate=lambda _, __: None))
        server._pair = KeyPair(b"cert", b"key", b"old")
        monkeypatch.setattr(server, "_new_pair", new_pair)
        monkeypatch.setattr(server, "_load", lambda pair: tell("shown", pair.ca))
        task = asyncio.create_task(server._keep())
        await asyncio.sleep(CHECK_INTERVAL + HEARD - 0.1)
        assert story == [(0, "registered", b"old"), (CHECK_INTERVAL, "registered", b"new")]
        await asyncio.sleep(1)
        assert story[2] == (CHECK_INTERVAL + HEARD, "shown", b"new")
        task.cancel()
        await asyncio.wait([task])

    run_virtual(body)


async def test_a_certificate_that_a_clock_ahead_made_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    authority = SmallCA.make("ca")

    async def shared(*_: object) -> SmallCA:
        return authority

    monkeypatch.setattr(serving, "shared_ca", shared)
    registration = Registration("ca", "n", "m", "v")
    client = cast("Client", None)
    server = WebhookServer(client, "127.0.0.1:9443", Endpoint(service="s", namespace="n"), registration, Metrics())
    with monkeypatch.context() as ahead:
        ahead.setattr(certs, "now", lambda: now() + timedelta(hours=2))
        early = server._pair = await server._new_pair()
        assert await server._new_pair() is None, "by its own clock it is young"
    fresh = server._pair = await server._new_pair()
    assert fresh is not None
    assert early is not None
    assert fresh.cert != early.cert
    assert await server._new_pair() is None


def test_a_server_without_an_address_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="address"):
        WebhookServer(None, "0", Endpoint(), None, None)  # type: ignore[arg-type]


def test_a_key_is_not_in_the_text_of_its_pair() -> None:
    assert "sesame" not in repr(KeyPair(b"cert", b"sesame", b"ca"))


def test_what_takes_long_is_awaited() -> None:
    async def validate(_: Thing | None, __: Thing | None) -> None:
        await asyncio.sleep(0)
        raise Denied("no")

    assert refused(validate, thing(size=1))["message"] == "no"


@pytest.mark.parametrize(
    ("code", "reason"), [(400, "BadRequest"), (403, "Forbidden"), (422, "Invalid"), (503, "ServiceUnavailable")]
)
def test_a_refusal_has_the_reason_that_belongs_to_its_code(code: int, reason: str) -> None:
    """By which client libraries tell whether the request may be made again."""

    def validate(_: Thing | None, __: Thing | None) -> None:
        raise Denied("no", code=code)

    status = answered(Webhook("v", Thing, "/v", ("CREATE",), validate=validate), None, thing(size=1))["status"]
    assert (status["code"], status["reason"]) == (code, reason)
