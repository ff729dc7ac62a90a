"""What reads an object of each kind: admission, and the decisions of the controllers, in a world where everything else is there.

Each function calls all that reads its kind. It returns if every answer is a plain one; what is refused with one of the library's
own errors, which name what is wrong, is as plain.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import orjson
from prometheus_client.parser import text_string_to_metric_families

from dpf.clustermanager import static
from dpf.ctl import plan
from dpf.provisioning import indexes, metrics
from dpf.provisioning.admission.register import webhooks
from dpf.provisioning.bfb.checksum import named
from dpf.provisioning.bfb.source import shown
from dpf.provisioning.bfcfg import check
from dpf.provisioning.bfcfg.render import BfCfg, render
from dpf.provisioning.cards import Card
from dpf.provisioning.dpu import deleting, dmspod, hostnetworkpod, nodeeffect, nodelabels, rebootpolicy, story
from dpf.provisioning.dpu.outcome import Outcome
from dpf.provisioning.dpu.phases import PHASES
from dpf.provisioning.dpu.steps import Act
from dpf.provisioning.dpucluster import allocator
from dpf.provisioning.dpucluster.controller import judge
from dpf.provisioning.dpuset import members, rollout, select
from dpf.provisioning.dpuset.status import summary, tally
from dpf.provisioning.settings import Settings
from dpf.runtime.client import Client, decode
from dpf.runtime.cluster import Cluster
from dpf.runtime.errors import DpfError
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import Object, to_wire
from dpf.runtime.remote import Health
from dpf.runtime.webhook import respond
from dpf_api.bfb import BFB, file_of
from dpf_api.dpu import DPU, Phase
from dpf_api.dpucluster import DPUCluster
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.dpuset import DPUSet
from dpf_api.names import FEATURE_PREFIX
from test.unit.provisioning import worlds

CLUSTER = Cluster("host", Client(Kubeconfig(server="http://127.0.0.1:1"), field_owner="test"))
WEBHOOKS = webhooks(CLUSTER)
LABELS: Any = {f"{FEATURE_PREFIX}dpu-0-pci-address": "0000-04-00", "a": "1"}
NODE = worlds.host(**LABELS)

for _kind in (BFB, DPU, DPUSet, DPUCluster):
    CLUSTER.cache[_kind].replace([], 1)
    CLUSTER.cache[_kind].synced.set()
for _index in members.INDEXES:
    CLUSTER.cache[DPU].add_index(_index)


@contextmanager
def refusals() -> Iterator[None]:
    """What may be answered instead."""
    try:
        yield
    except DpfError as error:
        if not str(error):
            raise AssertionError("a refusal that says nothing") from error


def stored(body: dict[str, Any]) -> bytes:
    """The manifest as a server that holds it to no schema would have stored it: numbers are of 64 bits, half a surrogate pair is
    a replacement character."""
    meta = {"name": "fuzz", "namespace": "ns", "uid": "u", "resourceVersion": "1", "generation": 1}
    whole = body | {"metadata": {**body.get("metadata", {}), **meta, "creationTimestamp": "2026-01-01T00:00:00Z"}}
    return json.dumps(_as_kept(whole), ensure_ascii=False).encode(errors="replace")


def _as_kept(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_kept(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_as_kept(each) for each in value]
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        return float(value)
    return value


def admission(kind: type[Object], body: dict[str, Any]) -> None:
    """Every webhook of the kind answers, and what it fills in is JSON."""
    for webhook in WEBHOOKS:
        if webhook.kind is not kind:
            continue
        for old, new in ((None, body), (body, body), (body, None)):
            answer = asyncio.run(respond(webhook, old, new))
            code = answer.get("status", {}).get("code")
            assert code != 500, f"{webhook.name} failed"
            assert answer["allowed"] or answer["status"]["message"], f"{webhook.name} refuses and does not say why"
            orjson.loads(base64.b64decode(answer.get("patch", "W10=")))


def controllers(obj: Object) -> None:
    """All that reads an object of that kind."""
    again = decode(type(obj), orjson.dumps(to_wire(obj)))
    assert to_wire(again) == to_wire(obj), "it is another one when it has been sent and read again"
    READERS[type(obj)](obj)
    _shown(obj)


def _shown(obj: Object) -> None:
    """A scrape shows it, and is understood."""
    for kind, model in metrics.KINDS:
        if isinstance(obj, model):
            text = asyncio.run(_exposition(kind, orjson.dumps(to_wire(obj))))
            assert list(text_string_to_metric_families(text))


async def _exposition(kind: metrics.Kind, raw: bytes) -> str:
    left_out: Counter[str] = Counter()
    text = "".join([text async for text in metrics.exposition(kind, [raw], left_out)])
    assert not left_out, "what a model reads, a scrape shows"
    return text


def _bfb(bfb: Any) -> None:
    assert file_of(bfb)
    nodelabels.bfb_version(bfb.spec.url)
    assert shown(bfb.spec.url)
    with suppress(ValueError):
        named(bfb)
    for phase in Phase:
        PHASES[phase](worlds.see(worlds.assigned(status={"phase": phase.value}), bfb=bfb))


def _flavor(flavor: Any) -> None:
    with refusals():
        assert render(BfCfg("fuzz", flavor.spec, "kubeadm join")).encode()
    initializing = worlds.assigned(dpuFlavor="f")
    PHASES[Phase.INITIALIZING](worlds.see(initializing, flavor=flavor))
    asyncio.run(check.judge(flavor.spec))
    assert not isinstance(PHASES[Phase.INITIALIZING](worlds.see(initializing, flavor=flavor)), Act)
    with refusals():
        hostnetworkpod.build(worlds.assigned(), flavor, None, Settings())


def _dpuset(dpuset: Any) -> None:
    card = Card("worker1", 0, "0000-04-00")
    with refusals():
        dpu = decode(DPU, orjson.dumps(to_wire(members.build(dpuset, card)) | {"status": {"phase": "Ready"}}))
        assert members.drift(dpuset, dpu, card) is not None
        members.state(dpuset, dpu)
        _plan(dpuset, dpu)
    with refusals():
        dpus = CLUSTER.cache[DPU]
        summary(dpuset, tally(dpuset, ["a", "b", "c"], dpus), dpus, ["x"], ["y"])
    with refusals():
        select.choose(dpuset.spec.dpu_selector, NODE)
    strategy = dpuset.spec.strategy
    if strategy is not None and strategy.rolling_update is not None:
        with refusals():
            assert 1 <= rollout.budget(strategy.rolling_update.max_unavailable, 10) <= 10


def _plan(dpuset: Any, dpu: DPU) -> None:
    """The rehearsal of the edit to it, of a set with one DPU that is there and one that is to come."""
    old = DPUSet.model_validate({"metadata": to_wire(dpuset.metadata)})
    objects, _ = plan.parse([to_wire(dpuset)], "ns")
    orjson.dumps(plan.work_out(objects, [old], [NODE], [dpu]).plain())


def _dpu(dpu: Any) -> None:
    for index in (
        indexes.HOST,
        indexes.BFB_NAME,
        indexes.FLAVOR,
        indexes.CLUSTER,
        indexes.NODE,
        indexes.CARD,
        *members.INDEXES,
    ):
        assert all(isinstance(each, str) for each in index.of(dpu))
    seen = worlds.see(
        dpu, dms_pod=worlds.pod("fuzz-dms"), hostnetwork_pod=worlds.pod("h", ready=False), siblings=(worlds.dpu("d2"),)
    )
    around: list[dict[str, Any]] = [
        {},
        {"job": Outcome(done=True)},
        {"dms_pod": None},
        {"dpu_node": worlds.card_node()},
    ]
    for more in around:
        looked = worlds.see(dpu, **{"dms_pod": seen.dms_pod, "siblings": seen.siblings, **more})
        for phase in Phase:
            PHASES[phase](looked)
        deleting.unfinished(looked)
    assert seen.dms_port
    effect = dpu.spec.node_effect
    orjson.dumps(nodeeffect.apply(NODE, dpu.uid, effect))
    with refusals():
        orjson.dumps(to_wire(dmspod.build(dpu, Settings())))
    with refusals():
        orjson.dumps(to_wire(hostnetworkpod.build(dpu, None, None, Settings())))
    rebootpolicy.policy(dpu, NODE, None)
    list(story.told(worlds.dpu(), dpu, ()))
    members.stands(dpu)


def _dpucluster(cluster: Any) -> None:
    for health in (Health(ok=True, message="", version="v1"), Health(ok=False, message="gone")):
        orjson.dumps(to_wire(judge(cluster, health)))
    static.created(cluster)
    with refusals():
        allocator.first_fitting([cluster], lambda _: 0)


READERS: dict[type[Object], Callable[[Any], None]] = {
    BFB: _bfb,
    DPUFlavor: _flavor,
    DPUSet: _dpuset,
    DPU: _dpu,
    DPUCluster: _dpucluster,
}
