"""The webhooks of provisioning, by the names and paths that upstream registers them with."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from dpf.provisioning.admission import dpu, dpuset
from dpf.provisioning.admission.bfb import BFBAdmission
from dpf.provisioning.admission.dpuflavor import DPUFlavorAdmission
from dpf.provisioning.admission.users import DPUSET_BY_BFB, DPUSET_BY_FLAVOR, Users
from dpf.provisioning.indexes import BFB_NAME, FLAVOR
from dpf.runtime.cluster import Cluster
from dpf.runtime.errors import ConfigError
from dpf.runtime.manager import Manager
from dpf.runtime.meta import Object
from dpf.runtime.webhook import Endpoint, Operation, Registration, Webhook, WebhookServer
from dpf_api.bfb import BFB
from dpf_api.dpu import DPU
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.dpuset import DPUSet
from dpf_api.labels import KEY, LONGEST, LONGEST_PREFIX, VALUE
from dpf_api.names import ANNOTATION_CHECKSUM, ANNOTATION_HOST_POWER_CYCLE_REQUIRED

SERVICE = "dpf-provisioning-webhook-service"
WRITES: tuple[Operation, ...] = ("CREATE", "UPDATE")


def registration(namespace: str) -> Registration:
    """What the webhooks' server keeps in the API, its authority's Secret in ``namespace``, whose objects it is asked about."""
    return Registration(
        ca_secret="dpf-provisioning-webhook-ca",  # noqa: S106 - the name of a Secret
        namespace=namespace,
        mutating="dpf-provisioning-mutating-webhook-configuration",
        validating="dpf-provisioning-validating-webhook-configuration",
        only=namespace,
    )


def webhooks(cluster: Cluster) -> list[Webhook[Any]]:
    """The webhooks; they look references up in the cluster's cache.

    Nothing waits for one that has nothing to say: DPUs, DPUSets and BFBs that are there are sent here only if the annotation
    changes that no schema can check, or a label for a Node comes that no Node can have, and of flavors that are there only those
    that get their spec now, as it is frozen then. So what managers and garbage collection write to them, finalizers above all,
    goes through though nobody answers.
    While no webhook answers, defaults are left to whoever reads the object, and what would go through unchecked is refused: a BFB
    or flavor that is new or deleted, the annotation, and such a label.
    """
    dpusets, dpus = cluster.cache[DPUSet], cluster.cache[DPU]
    bfbs = BFBAdmission(cluster.cache[BFB], Users(dpusets, DPUSET_BY_BFB, dpus, BFB_NAME))
    flavors = DPUFlavorAdmission(Users(dpusets, DPUSET_BY_FLAVOR, dpus, FLAVOR))
    power_cycle = ANNOTATION_HOST_POWER_CYCLE_REQUIRED
    return [
        Webhook("mbfb.kb.io", BFB, _path("mutate", BFB), WRITES, default=bfbs.default, required=False),
        Webhook(
            "vbfb.kb.io",
            BFB,
            _path("validate", BFB),
            (*WRITES, "DELETE"),
            validate=bfbs.validate,
            when=f"request.operation != 'UPDATE' || ({_annotates('metadata', ANNOTATION_CHECKSUM)})",
        ),
        Webhook(
            "vdpu.kb.io",
            DPU,
            _path("validate", DPU),
            WRITES,
            validate=dpu.validate,
            when=_any(_annotates("metadata", power_cycle), *map(_mislabels, dpu.LABELS)),
        ),
        Webhook(
            "vdpuflavor.kb.io",
            DPUFlavor,
            _path("validate", DPUFlavor),
            (*WRITES, "DELETE"),
            validate=flavors.validate,
            when="request.operation != 'UPDATE' || (has(object.spec) && !has(oldObject.spec))",
        ),
        Webhook("mdpuset.kb.io", DPUSet, _path("mutate", DPUSet), WRITES, default=dpuset.default, required=False),
        Webhook(
            "vdpuset.kb.io",
            DPUSet,
            _path("validate", DPUSet),
            WRITES,
            validate=dpuset.validate,
            when=_any(_annotates("spec.dpuTemplate", power_cycle), *map(_mislabels, dpuset.LABELS)),
        ),
    ]


def _any(*expressions: str) -> str:
    """CEL: one of them holds."""
    return " || ".join(f"({each})" for each in expressions)


def _annotates(holder: str, annotation: str) -> str:
    """CEL: the request puts the annotation there, or another value into it.

    :param holder: path in the object of what has the annotations.
    """
    same = f"object.{holder}.annotations['{annotation}'] == oldObject.{holder}.annotations['{annotation}']"
    before = _annotated(f"oldObject.{holder}", annotation)
    return f"{_annotated(f'object.{holder}', annotation)} && (request.operation != 'UPDATE' || !({before} && {same}))"


def _annotated(holder: str, annotation: str) -> str:
    """CEL: the annotation is there, and all that leads to it."""
    return f"{_there(f'{holder}.annotations')} && '{annotation}' in {holder}.annotations"


def _mislabels(labels: str) -> str:
    """CEL: the request puts a label there that looks as if no Node could have it, or another value into one.

    Lengths first, as matching costs by them.

    :param labels: their path in the object.
    """
    new, old = f"object.{labels}", f"oldObject.{labels}"
    fits = (
        f"key.size() <= {LONGEST_PREFIX} && {new}[key].size() <= {LONGEST}"
        f" && key.matches('^{KEY}$') && {new}[key].matches('^{VALUE}$')"
    )
    same = f"request.operation == 'UPDATE' && {_there(old)} && key in {old} && {old}[key] == {new}[key]"
    return f"{_there(new)} && {new}.exists(key, !({fits}) && !({same}))"


def _there(path: str) -> str:
    """CEL: the field is there, and all that leads to it."""
    first, *rest = path.split(".")
    paths = accumulate(rest, lambda before, part: f"{before}.{part}", initial=first)
    return " && ".join(f"has({each})" for each in paths if each != first)


def server(manager: Manager, address: str) -> WebhookServer:
    """The server of these webhooks, added to the manager. On a loopback address the API server is told that address, else
    the Service before the manager's pods.

    :raises ConfigError: if the manager was not told its namespace, or the address is none.
    """
    namespace = manager.options.namespace
    if not namespace:
        raise ConfigError(
            "webhooks need --namespace, where their authority is kept; or --webhook-bind-address 0 for none"
        )
    host = address.rpartition(":")[0]
    local = host.startswith("127.") or host in {"localhost", "[::1]"}
    endpoint = Endpoint(url=f"https://{address}") if local else Endpoint(service=SERVICE, namespace=namespace)
    serving = WebhookServer(manager.cluster.client, address, endpoint, registration(namespace), manager.metrics)
    serving.add(*webhooks(manager.cluster))
    manager.add(serving)
    manager.add_readiness("webhooks", lambda: serving.started)
    return serving


def _path(verb: str, kind: type[Object]) -> str:
    resource = kind.RESOURCE
    return f"/{verb}-{resource.group.replace('.', '-')}-{resource.version}-{resource.kind.lower()}"
