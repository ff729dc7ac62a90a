"""Metrics of provisioning: how every object stands, and what was done to cards and images.

The first are under the names that kube-state-metrics gives them from upstream's configuration, so its dashboards work without it:
``<prefix>_created``, ``_info``, ``_status_phase``, ``_status_conditions`` and ``_status_condition_last_transition_time`` for
the prefixes ``dpu``, ``bfb`` and ``dpucluster``. They are read from the caches when somebody scrapes, straight from the bytes
that are kept there and written as text at once, a slice at a time: of a thousand DPUs there are 45,000 series, which cost some
tens of milliseconds that way and ten times that by way of models and the client library's samples.

The second are counted by those who do it, in :class:`Counts`, and begin at 0 with the process.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from dpf.runtime.cluster import Cluster
from dpf.runtime.metrics import Histogram, counter, histogram
from dpf_api import bfb as bfb_api
from dpf_api import dpu as dpu_api
from dpf_api import dpucluster as dpucluster_api

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

INSTALL_BUCKETS = (30.0, 60.0, 120.0, 180.0, 300.0, 450.0, 600.0, 900.0, 1200.0, 1800.0)
"""Seconds; a card takes some minutes, and is given up after thirty."""

SLICE = 25
"""Objects shown in one go; a slice takes a millisecond or two, then others get their turn."""
LEFT_OUT = "dpf_objects_left_out"
TRUTH = ("True", "False", "Unknown")


class Counts:
    """What this process has done since it began."""

    def __init__(self) -> None:
        self.installs: Counter[str] = Counter(success=0, failure=0)
        self.install_seconds = Histogram(INSTALL_BUCKETS)
        """Of installations that succeeded."""
        self.reboots: Counter[str] = Counter(WARM=0, COLD=0)
        """Reboots of hosts that were asked for, by method."""
        self.certificates: Counter[str] = Counter(success=0, failure=0)
        """Renewals of certificates of DMS."""
        self.downloads: Counter[str] = Counter(success=0, failure=0)
        self.downloaded_bytes = 0

    def collect(self) -> Iterator[Metric]:
        """All of it, for a scrape."""
        for name, text, label, counts in (
            ("dpf_dpu_installs", "Installations of cards that ended.", "outcome", self.installs),
            ("dpf_host_reboots", "Reboots asked of hosts.", "method", self.reboots),
            ("dpf_dms_certificate_renewals", "Renewals of certificates of DMS.", "outcome", self.certificates),
            ("dpf_bfb_downloads", "Downloads of images that ended.", "outcome", self.downloads),
        ):
            yield counter(name, text, {(value,): count for value, count in counts.items()}, (label,))
        yield counter("dpf_bfb_downloaded_bytes", "Bytes of images received.", {(): self.downloaded_bytes}, ())
        text = "From the first request to a card until its system was installed."
        yield histogram("dpf_dpu_install_duration_seconds", text, {(): self.install_seconds}, ())


# What is read of objects. The API server holds them to their CRD; one that another version of it let through is left out.


class _Meta(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    name: str
    namespace: str = ""
    uid: str = ""
    creation_timestamp: datetime | None = None


class _Condition(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    type: str
    status: str = "Unknown"
    last_transition_time: datetime | None = None


class _Firmware(msgspec.Struct, frozen=True, gc=False):
    bmc: str = ""
    nic: str = ""
    uefi: str = ""


class _Status(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    phase: str = ""
    conditions: list[_Condition] = []
    bfb_version: str = ""
    pci_device: str = ""
    firmware: _Firmware | None = None


class _Keepalived(msgspec.Struct, frozen=True, gc=False):
    vip: str = ""


class _Endpoint(msgspec.Struct, frozen=True, gc=False):
    keepalived: _Keepalived | None = None


class _Spec(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    node_name: str = ""
    max_nodes: int = 0
    version: str = ""
    type: str = ""
    cluster_endpoint: _Endpoint | None = None


class Shown(msgspec.Struct, frozen=True, gc=False):
    """An object, as far as metrics show it."""

    metadata: _Meta
    spec: _Spec = _Spec()
    status: _Status = _Status()


_decoder = msgspec.json.Decoder(Shown)


def _dpu_info(obj: Shown) -> dict[str, str]:
    status, firmware = obj.status, obj.status.firmware or _Firmware()
    parts = {"bmc": firmware.bmc, "nic": firmware.nic, "uefi": firmware.uefi}
    return {
        "bfb_version": status.bfb_version,
        "pci_device": status.pci_device,
        "firmware": ",".join(f"{name}={version}" for name, version in parts.items() if version),
        "node_name": obj.spec.node_name,
    }


def _dpucluster_info(obj: Shown) -> dict[str, str]:
    endpoint = obj.spec.cluster_endpoint
    keepalived = endpoint.keepalived if endpoint is not None else None
    return {
        "max_nodes": str(obj.spec.max_nodes),
        "version": obj.spec.version,
        "type": obj.spec.type,
        "keepalived_virtual_ip": keepalived.vip if keepalived is not None else "",
    }


@dataclass(frozen=True)
class Kind:
    """How objects of a kind are shown."""

    prefix: str
    phases: type[StrEnum]
    info: Callable[[Shown], dict[str, str]]
    conditions: bool = True


DPUS = Kind("dpu", dpu_api.Phase, _dpu_info)
BFBS = Kind("bfb", bfb_api.Phase, lambda _: {}, conditions=False)
DPUCLUSTERS = Kind("dpucluster", dpucluster_api.Phase, _dpucluster_info)


KINDS = ((DPUS, dpu_api.DPU), (BFBS, bfb_api.BFB), (DPUCLUSTERS, dpucluster_api.DPUCluster))


def object_metrics(cluster: Cluster, leads: Callable[[], bool]) -> Callable[[], AsyncIterator[str]]:
    """What shows the objects in the caches of a cluster, for a scrape.

    :param leads: whether this process shows them: of several replicas one does, or every sum would be a multiple.
    """
    shown = [(kind, cluster.cache[model]) for kind, model in KINDS]

    async def collect() -> AsyncIterator[str]:
        if not leads():
            return
        left_out = Counter({kind.prefix: 0 for kind, _ in shown})
        for kind, informer in shown:
            async for text in exposition(kind, informer.raws(), left_out):
                yield text
        yield left_out_metric(left_out)

    return collect


async def exposition(kind: Kind, raws: Iterable[bytes], left_out: Counter[str]) -> AsyncIterator[str]:
    """The metrics of all objects of a kind, from their JSON, in the text format: piece by piece, so that the text is never all in
    memory (what is shown of the objects is), and others get their turn in between.

    :param left_out: counts, by the kind's prefix, the objects that are not what a scrape can show.
    """
    objects: list[tuple[str, Shown]] = []
    for number, raw in enumerate(raws):
        try:
            obj = _decoder.decode(raw)
        except msgspec.DecodeError:
            # One object that is not as it should be must not take all others out of sight.
            left_out[kind.prefix] += 1
        else:
            objects.append((_labels(obj), obj))
        if number % SLICE == SLICE - 1:
            await asyncio.sleep(0)
    for name, text, series in _families(kind):
        yield f"# HELP {kind.prefix}_{name} {text}\n# TYPE {kind.prefix}_{name} gauge\n"
        start = f"{kind.prefix}_{name}{{"
        for at in range(0, len(objects), SLICE):
            lines = [f"{start}{line}\n" for labels, obj in objects[at : at + SLICE] for line in series(labels, obj)]
            yield "".join(lines)
            await asyncio.sleep(0)


def left_out_metric(left_out: Counter[str]) -> str:
    """How many objects a scrape does not show, by the prefix of their kind."""
    lines = [f'{LEFT_OUT}{{kind="{prefix}"}} {count}\n' for prefix, count in left_out.items()]
    help_text = "Objects that this scrape does not show, because they could not be read."
    return f"# HELP {LEFT_OUT} {help_text}\n# TYPE {LEFT_OUT} gauge\n{''.join(lines)}"


Series = Callable[[str, Shown], Iterable[str]]
"""The series of one object in a family, given the labels that all have: each from behind the opening brace."""


def _families(kind: Kind) -> Iterator[tuple[str, str, Series]]:
    """Name, help and series of each family of a kind."""
    phases = [phase.value for phase in kind.phases]

    def info(labels: str, obj: Shown) -> Iterable[str]:
        more = "".join(f',{name}="{_quoted(value)}"' for name, value in kind.info(obj).items())
        return (f"{labels}{more}}} 1",)

    def phase(labels: str, obj: Shown) -> Iterable[str]:
        current = obj.status.phase or phases[0]
        return [f'{labels},phase="{each}"}} {int(each == current)}' for each in phases]

    yield "created", "When the object was made, in seconds since 1970.", _created
    yield "info", "What the object is; always 1.", info
    yield "status_phase", "1 for the phase that the object is in, 0 for all others.", phase
    if kind.conditions:
        yield "status_conditions", "1 for the status that a condition has, 0 for the others.", _conditions
        text = "When a condition last changed its status, in seconds since 1970."
        yield "status_condition_last_transition_time", text, _changed


def _created(labels: str, obj: Shown) -> Iterable[str]:
    return (f"{labels}}} {_seconds(obj.metadata.creation_timestamp)}",)


def _conditions(labels: str, obj: Shown) -> Iterable[str]:
    return [
        f'{labels},type="{_quoted(condition.type)}",status="{truth}"}} {int(truth == condition.status)}'
        for condition in obj.status.conditions
        for truth in TRUTH
    ]


def _changed(labels: str, obj: Shown) -> Iterable[str]:
    return [
        f'{labels},type="{_quoted(c.type)}",status="{c.status}"}} {_seconds(c.last_transition_time)}'
        for c in obj.status.conditions
        if c.last_transition_time
    ]


def _labels(obj: Shown) -> str:
    meta = obj.metadata
    return f'name="{_quoted(meta.name)}",namespace="{meta.namespace}",uid="{meta.uid}"'


def _quoted(value: str) -> str:
    """A label's value as the text format wants it."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _seconds(moment: datetime | None) -> float:
    return moment.timestamp() if moment is not None else 0.0
