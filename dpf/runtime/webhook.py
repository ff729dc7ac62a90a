"""Admission webhooks: an HTTPS server with certificates it makes for itself, and its registration with the API server.

    webhooks.add(Webhook("vdpuset.kb.io", DPUSet, path="/validate-...", operations=("CREATE", "UPDATE"), validate=check))

What it guarantees:

* ``default`` gets the object and returns the one it should be; only what it changed is sent, as a JSON patch, so a field that
  the model does not know is never lost. ``validate`` gets the object before and after and raises :class:`Denied`.
* A refusal names kind, field path and rule; it is what ``kubectl`` shows.
* What the model cannot read is refused, but what is stored so can be mended and deleted.
* An exception in a function is a 500 for that request and a log line, never the end of the process. A body that is no admission
  review is a 400; one over 7 MiB a 413 (the API server's own limit is 3 MiB).
* The serving certificate is made anew well before it ends, and the authority before that, without a break: open connections
  stay, new ones get the new certificate, and the API server trusts old and new meanwhile.
* Registrations carry a short timeout and leave the control plane's own namespaces alone, so that a dead webhook stops writes of
  its own kinds only.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Generic, Literal, cast

import orjson
from aiohttp import web

from dpf.runtime.certs import KeyPair, SmallCA, due, load, shared_ca
from dpf.runtime.client import Client, UnreadableObject, decode
from dpf.runtime.errors import ApiError, ConfigError, DpfError
from dpf.runtime.http import spelt, split_address
from dpf.runtime.k8s import MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookConfiguration
from dpf.runtime.log import get_logger
from dpf.runtime.meta import Object, ObjectMeta, T, to_wire
from dpf.runtime.metrics import REQUEST_BUCKETS, Histogram, Metrics

log = get_logger(__name__)

BODY_LIMIT = 7 << 20
TIMEOUT_SECONDS = 5
"""How long the API server waits for an answer; its default is 10."""
CHECK_INTERVAL = 600.0
"""Seconds between looks at the certificates and registrations."""
HEARD = 5.0
"""Seconds in which every API server has heard of a changed registration."""
RETRY = 5.0

Operation = Literal["CREATE", "UPDATE", "DELETE"]


@dataclass(frozen=True)
class Cause:
    """What is wrong with one field: its path as the API spells it (``spec.dpuTemplate.spec.nodeEffect``) and the rule."""

    field: str
    message: str
    reason: str = "FieldValueInvalid"


class Denied(DpfError):
    """A request is refused. ``code``: 403 denied, 422 invalid, 400 bad request, 503 not known yet: ask again."""

    def __init__(self, message: str, *, code: int = 403, causes: Sequence[Cause] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.causes = tuple(causes)


def invalid(obj: Object, causes: Sequence[Cause]) -> Denied:
    """A refusal as the API server words its own: kind, name, and each field with its rule."""
    resource = obj.RESOURCE
    fields = "; ".join(f"{cause.field}: {cause.message}" for cause in causes)
    message = f'{resource.kind}.{resource.group} "{obj.name}" is invalid: {fields}'
    return Denied(message, code=422, causes=causes)


@dataclass(frozen=True)
class Webhook(Generic[T]):
    """One webhook: defaulting (``default``) or validating (``validate``), not both.

    :param name: as registered, for example ``vdpu.kb.io``.
    :param validate: called with the object before (None on create, or if it cannot be read) and after (None on delete, and then
        what cannot be read has its metadata alone before); awaited if there is something to await, as when it takes long.
    :param when: CEL expression over ``object`` and ``oldObject``; requests for which it is false are not sent here at all.
    :param required: whether a write is refused while no webhook answers. What only fills in what a reader would assume anyway,
        or is guarded by a finalizer too, need not be.
    """

    name: str
    kind: type[T]
    path: str
    operations: tuple[Operation, ...]
    default: Callable[[T], T] | None = None
    validate: Callable[[T | None, T | None], Awaitable[None] | None] | None = None
    when: str = ""
    required: bool = True


@dataclass(frozen=True)
class Endpoint:
    """How the API server reaches the webhooks: a Service, or a URL where it runs beside them."""

    service: str = ""
    namespace: str = ""
    url: str = ""
    """Up to the path, for example ``https://127.0.0.1:9443``."""

    def client_config(self, path: str) -> dict[str, Any]:
        """As a webhook configuration has it, without ``caBundle``."""
        if self.url:
            return {"url": f"{self.url}{path}"}
        return {"service": {"name": self.service, "namespace": self.namespace, "path": path, "port": 443}}

    def names(self) -> list[str]:
        """What the serving certificate must hold for."""
        if self.url:
            return [self.url.removeprefix("https://").rsplit(":", 1)[0].strip("[]")]
        host = f"{self.service}.{self.namespace}.svc"
        return [host, f"{host}.cluster.local"]


@dataclass(frozen=True)
class Registration:
    """Names of what the server keeps in the API: its authority's Secret and the two configurations.

    :param only: the namespace whose objects the webhooks are asked about; all but the control plane's own if empty.
    """

    ca_secret: str
    namespace: str
    mutating: str
    validating: str
    only: str = ""
    labels: dict[str, str] = field(default_factory=dict)

    def namespaces(self) -> dict[str, Any]:
        """The selector of those namespaces."""
        operator, values = ("In", [self.only]) if self.only else ("NotIn", ["kube-system", "kube-public"])
        return {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": operator, "values": values}]}


class WebhookServer:
    """Serves webhooks and keeps them registered. A runnable of the manager; not bound to leadership."""

    needs_leader = False

    def __init__(
        self, client: Client, address: str, endpoint: Endpoint, registration: Registration, metrics: Metrics
    ) -> None:
        bound = split_address(address)
        if bound is None:
            raise ConfigError("webhooks need an address to listen on")
        self.started = False
        """Whether it serves and is registered: a check for ``/readyz``."""
        self._client = client
        self._address = bound
        self._endpoint = endpoint
        self._registration = registration
        self._metrics = metrics
        self._webhooks: dict[str, Webhook[Any]] = {}
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self._authority: SmallCA | None = None
        self._pair: KeyPair | None = None

    def add(self, *webhooks: Webhook[Any]) -> None:
        """Adds webhooks, before :meth:`run`."""
        for webhook in webhooks:
            self._webhooks[webhook.path] = webhook

    async def run(self) -> None:
        """Serves until cancelled.

        :raises ConfigError: if the address cannot be listened on.
        """
        pair = self._pair = await self._new_pair() or self._pair
        self._load(pair)
        app = web.Application(client_max_size=BODY_LIMIT)
        app.router.add_post("/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=2)
        await runner.setup()
        try:
            host, port = self._address
            try:
                await web.TCPSite(runner, host, port, ssl_context=self._tls).start()
            except OSError as error:
                raise ConfigError(f"cannot listen on {spelt(host, port)} for webhooks: {error.strerror}") from error
            log.info("listening", server="webhooks", address=spelt(host, port))
            await self._keep()
        finally:
            self.started = False
            await runner.cleanup()

    async def _keep(self) -> None:
        """Keeps registrations as they should be and the certificate young, for ever."""
        while True:
            await self._register()
            self.started = True
            await asyncio.sleep(CHECK_INTERVAL)
            if (fresh := await self._new_pair()) is not None:
                # The API server must trust the new one before it meets it.
                self._pair = fresh
                await self._register()
                await asyncio.sleep(HEARD)
                self._load(fresh)
                log.info("webhook_certificate_changed")

    async def _new_pair(self) -> KeyPair | None:
        """A serving certificate, if there is none, it is old or does not hold yet, or the authority has changed."""
        while True:
            try:
                authority = await shared_ca(self._client, self._registration.ca_secret, self._registration.namespace)
                break
            except (ApiError, ConfigError) as error:
                log.warning("webhook_authority_unavailable", error=str(error))
                await asyncio.sleep(RETRY)
        if self._pair is not None and authority == self._authority and not due(self._pair.cert):
            return None
        self._authority = authority
        return authority.issue("webhook", purposes=["server"], names=self._endpoint.names())

    def _load(self, pair: KeyPair | None) -> None:
        """New connections get the certificate."""
        if pair is not None:
            load(self._tls, pair)

    # Registration

    async def _register(self) -> None:
        while True:
            try:
                for configuration in self.configurations():
                    await self._client.apply(configuration)
            except (ApiError, ConfigError) as error:
                log.warning("webhooks_not_registered", error=str(error))
                await asyncio.sleep(RETRY)
            else:
                return

    def configurations(self) -> list[WebhookConfiguration]:
        """The configurations as they should be in the API."""
        kinds: tuple[tuple[type[WebhookConfiguration], str, bool], ...] = (
            (MutatingWebhookConfiguration, self._registration.mutating, True),
            (ValidatingWebhookConfiguration, self._registration.validating, False),
        )
        found = []
        for kind, name, mutates in kinds:
            webhooks = [self._entry(w) for w in self._webhooks.values() if (w.default is not None) == mutates]
            if webhooks:
                meta = ObjectMeta(name=name, labels=self._registration.labels)
                found.append(kind(metadata=meta, webhooks=webhooks))
        return found

    def _entry(self, webhook: Webhook[Any]) -> dict[str, Any]:
        resource = webhook.kind.RESOURCE
        bundle = self._pair.ca if self._pair is not None else b""
        rule = {
            "apiGroups": [resource.group],
            "apiVersions": [resource.version],
            "resources": [resource.plural],
            "operations": list(webhook.operations),
            "scope": "Namespaced" if resource.namespaced else "Cluster",
        }
        conditions = [{"name": "concerned", "expression": webhook.when}] if webhook.when else []
        return {
            "name": webhook.name,
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail" if webhook.required else "Ignore",
            "matchConditions": conditions,
            "matchPolicy": "Equivalent",
            "timeoutSeconds": TIMEOUT_SECONDS,
            "rules": [rule],
            "namespaceSelector": self._registration.namespaces(),
            "clientConfig": {**self._endpoint.client_config(webhook.path), "caBundle": _base64(bundle)},
        }

    # Serving

    async def _handle(self, request: web.Request) -> web.Response:
        started, code = perf_counter(), 500
        path = request.path if request.path in self._webhooks else "unknown"
        self._metrics.webhooks_in_flight[path] += 1
        try:
            response = await self._answer(request)
            code = response.status
        finally:
            self._metrics.webhooks_in_flight[path] -= 1
            self._metrics.webhooks[path, code] += 1
            seconds = self._metrics.webhook_seconds.setdefault(path, Histogram(REQUEST_BUCKETS))
            seconds.observe(perf_counter() - started)
        return response

    async def _answer(self, request: web.Request) -> web.Response:
        webhook = self._webhooks.get(request.path)
        if webhook is None:
            return web.Response(status=404, text=f"no webhook at {request.path}")
        try:
            review = orjson.loads(await request.read())
            asked = review["request"]
            uid, old, new = asked["uid"], asked.get("oldObject"), asked.get("object")
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return web.Response(status=400, text="the body is no admission.k8s.io/v1 AdmissionReview")
        verdict = await respond(webhook, old, new)
        self._metrics.webhook_panics[request.path] += verdict.get("status", {}).get("code") == 500
        answer = {"uid": uid, **verdict}
        body = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}
        return web.Response(body=orjson.dumps(body), content_type="application/json")


async def respond(webhook: Webhook[T], old: dict[str, Any] | None, new: dict[str, Any] | None) -> dict[str, Any]:
    """The response part of a review, for the object before and after as the API server sent them."""
    try:
        after = decode(webhook.kind, orjson.dumps(new)) if new else None
        before = _before(webhook.kind, old, after)
        if webhook.validate is not None and (validated := webhook.validate(before, after)) is not None:
            await validated
        if webhook.default is None or after is None or new is None:
            return {"allowed": True}
        patch = list(_patch(to_wire(after), to_wire(webhook.default(after)), new))
    except Denied as denied:
        denial = _denial(denied.code, denied.message, denied.causes)
        if denied.causes:
            # By these kubectl names the object, beside the causes.
            resource, meta = webhook.kind.RESOURCE, (new or old or {}).get("metadata") or {}
            denial["status"]["details"] |= {
                "group": resource.group,
                "kind": resource.kind,
                "name": meta.get("name", ""),
            }
        return denial
    except UnreadableObject as error:
        if new and (new.get("metadata") or {}).get("deletionTimestamp"):
            # On its way out it is only let go; else nobody could take its finalizers off.
            return {"allowed": True}
        return _denial(400, str(error), ())
    except Exception:
        log.exception("webhook_failed", webhook=webhook.name)
        return _denial(500, f"webhook {webhook.name} failed; its log says why", ())
    if not patch:
        return {"allowed": True}
    return {"allowed": True, "patchType": "JSONPatch", "patch": _base64(orjson.dumps(patch))}


def _before(kind: type[T], old: dict[str, Any] | None, after: T | None) -> T | None:
    """The object as it is stored. One that cannot be read keeps nobody from mending or deleting it: what replaces it is looked at
    as new, and of what is deleted there is the metadata alone, which an API server keeps in order.
    """
    if not old:
        return None
    try:
        return decode(kind, orjson.dumps(old))
    except UnreadableObject:
        if after is not None:
            return None
        return cast("T", kind.model_construct(metadata=ObjectMeta.model_validate(old["metadata"])))


def _denial(code: int, message: str, causes: Sequence[Cause]) -> dict[str, Any]:
    reason = {400: "BadRequest", 403: "Forbidden", 422: "Invalid", 503: "ServiceUnavailable"}.get(code, "InternalError")
    status: dict[str, Any] = {"code": code, "message": message, "reason": reason}
    if causes:
        status["details"] = {"causes": [{"field": c.field, "message": c.message, "reason": c.reason} for c in causes]}
    return {"allowed": False, "status": status}


def _patch(old: dict[str, Any], new: dict[str, Any], sent: dict[str, Any], path: str = "") -> Iterable[dict[str, Any]]:
    """The operations that bring what changed between ``old`` and ``new`` into the object as it was sent."""
    for key, value in new.items():
        here = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
        before, there = old.get(key), sent.get(key)
        if key in old and before == value:
            continue
        if isinstance(value, dict) and isinstance(there, dict):
            yield from _patch(before if isinstance(before, dict) else {}, value, there, here)
        elif items := _paired(before, value, there):
            for index, (was, item, raw) in enumerate(items):
                yield from _patch(was, item, raw, f"{here}/{index}")
        else:
            yield {"op": "add", "path": here, "value": value}
    for key in old.keys() - new.keys():
        if key in sent:
            yield {"op": "remove", "path": f"{path}/{key.replace('~', '~0').replace('/', '~1')}"}


def _paired(*lists: Any) -> list[tuple[Any, ...]]:
    """The items of lists of as many objects, side by side: patched one by one they keep what the model ignores. Else nothing."""
    if not all(isinstance(each, list) and all(isinstance(item, dict) for item in each) for each in lists):
        return []
    return list(zip(*lists, strict=True)) if len({len(each) for each in lists}) == 1 else []


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
