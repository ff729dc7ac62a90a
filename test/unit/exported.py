"""What the processes export, for tests of what is built upon it: dashboard, alerts and the page on observability."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import orjson
from prometheus_client.parser import text_string_to_metric_families

from dpf.dms.metrics import DmsMetrics
from dpf.provisioning.metrics import KINDS, Counts, exposition, left_out_metric
from dpf.runtime.metrics import Histogram, Metrics, rendered
from dpf.runtime.queue import WorkQueue

if TYPE_CHECKING:
    from dpf.runtime.cluster import Cache

AT = "2026-01-02T03:04:05Z"


@dataclass(frozen=True)
class Exported:
    """A metric: as scraped, counters with their ``_total``."""

    name: str
    type: str
    text: str
    labels: frozenset[str]

    @property
    def series(self) -> set[str]:
        """Names of its samples."""
        if self.type != "histogram":
            return {self.name}
        return {f"{self.name}{suffix}" for suffix in ("_bucket", "_sum", "_count")}


class _Informer:
    """One kind in a cache, as far as metrics look at it."""

    def __init__(self) -> None:
        self.kind = KINDS[0][1]

    def __len__(self) -> int:
        return 1


class _Stats:
    lists = watches = failures = expired = silent = dropped = 0


class _Reflector:
    stats = _Stats()


class _Cache:
    reflectors: Any = {KINDS[0][1]: _Reflector()}  # noqa: RUF012

    def informers(self) -> list[_Informer]:
        return [_Informer()]


async def _scrape() -> str:
    """All that a manager with the provisioning controllers shows, with a sample of each."""
    metrics = Metrics()
    controller = metrics.controller("dpu", 1)
    controller.watch(WorkQueue())
    metrics.count_request("host", "GET", 200, 0.1)
    metrics.leading["provisioning-manager"] = True
    metrics.circuit("ns/c", is_open=False)
    metrics.webhooks["/v", 200] += 1
    metrics.webhooks_in_flight["/v"] += 1
    metrics.webhook_panics["/v"] += 1
    metrics.webhook_seconds["/v"] = Histogram((1.0,))
    metrics.decode_failed("DPU")
    metrics.watch_skipped_writes("host", lambda: 1)
    metrics.watch_cache(cast("Cache", _Cache()))
    metrics.add(Counts().collect)
    meta = {"name": "a", "namespace": "n", "uid": "u", "creationTimestamp": AT}
    conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": AT}]
    raw = orjson.dumps({"metadata": meta, "status": {"conditions": conditions}})
    texts = [piece.decode() async for piece in metrics.scrape()]
    left_out = Counter({kind.prefix: 0 for kind, _ in KINDS})
    for kind, _ in KINDS:
        texts += [text async for text in exposition(kind, [raw], left_out)]
    texts.append(left_out_metric(left_out))
    texts.append(_of_dms())
    return "".join(texts)


def _of_dms() -> str:
    metrics = DmsMetrics()
    metrics.calls["unary", "gnmi.gNMI", "Get", "OK"] += 1
    metrics.certificate_ends = lambda: 1.0
    return rendered(metrics).decode()


def exported() -> dict[str, Exported]:
    """All metrics by name."""
    found: dict[str, Exported] = {}
    for family in text_string_to_metric_families(asyncio.run(_scrape())):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = frozenset(label for sample in family.samples for label in sample.labels)
        found[name] = Exported(name, family.type, family.documentation, labels)
    return found
