"""What is kept up while a DPU rests: the certificate of its DMS, the MTU of its host's network."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dpf.provisioning.dpu.deciding import deciding
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.steps import Act, Hold, waits
from dpf.provisioning.dpu.upkeep import (
    kept_up,
    other_mtu,
    relabel,
    renew,
    renewal_in,
    replace_network,
    waiting_for_turn,
)
from dpf.provisioning.metrics import Counts
from dpf.provisioning.settings import Settings
from dpf.runtime.errors import Unavailable
from dpf.runtime.k8s import Node
from dpf_api.dpu import DPU, ConditionType, DMSCertificate, Phase
from dpf_api.names import LABEL_DPU_HOST_IP, LABEL_DPUSET_NAME
from dpf_api.operatorconfig import DPFOperatorConfig
from test.unit.provisioning.worlds import NOW, assigned, card_node, condition, host, network, pod, see

DAY = 86400.0
BY_CERT_MANAGER = Settings(certificates="cert-manager")


def ready(name: str = "d1", *, certificate: dict[str, Any] | None = None) -> DPU:
    status: dict[str, Any] = {
        "phase": "Ready",
        "conditions": [condition(ConditionType.DMS_RUNNING, True), condition(ConditionType.READY, True)],
    }
    if certificate is not None:
        status["certificate"] = certificate
    return assigned(name, status=status)


def shown(
    *, days: float | None = 10, ends: float | None = None, address: str = "10.0.0.1", retry: float | None = None
) -> dict[str, Any]:
    """A certificate that is to be renewed in so many days."""
    found: dict[str, Any] = {"address": address}
    found |= {"renewAt": (NOW + timedelta(days=days)).isoformat()} if days is not None else {}
    found |= {"expiresAt": (NOW + timedelta(days=ends)).isoformat()} if ends is not None else {}
    found |= {"retryAt": (NOW + timedelta(days=retry)).isoformat()} if retry is not None else {}
    return found


def moved(*addresses: str) -> Node:
    node = host()
    found = [{"type": "InternalIP", "address": address} for address in addresses]
    return Node.model_validate(
        {"metadata": {"name": node.name, "labels": node.labels}, "status": {"addresses": found, "nodeInfo": {}}}
    )


@pytest.mark.parametrize(
    ("certificate", "around", "left"),
    [
        (shown(days=10), {}, 10 * DAY),
        (shown(days=-1), {}, -DAY),
        (None, {}, 0.0),
        (shown(), {"node": moved("10.9.9.9")}, 0.0),
        (shown(), {"node": moved()}, None),
        (shown(), {"node": None}, None),
        (shown(), {"dms_pod": None}, None),
        (shown(days=-1, retry=0.5), {}, DAY / 2),
        (shown(address="10.9.9.9", retry=0.5), {}, DAY / 2),
        (shown(days=None), {"settings": BY_CERT_MANAGER}, None),
        (shown(days=None), {}, 0.0),
        (shown(days=None), {"settings": BY_CERT_MANAGER, "node": moved("10.9.9.9")}, 0.0),
        (shown(days=5), {"settings": BY_CERT_MANAGER}, 5 * DAY),
        (shown(days=20, ends=30), {}, 20 * DAY),
        (shown(days=21, ends=31), {}, 0.0),
        (shown(days=21, ends=31, retry=0.5), {}, DAY / 2),
    ],
    ids=[
        "in ten days",
        "due",
        "unknown",
        "another address",
        "no address",
        "no host",
        "no pod",
        "failed before",
        "failed for the address",
        "cert-manager's",
        "was cert-manager's",
        "cert-manager's for another address",
        "to be cert-manager's",
        "made just now",
        "made by a clock that was ahead",
        "made by a clock that was ahead, and failed before",
    ],
)
def test_a_certificate_is_renewed_at_its_time_and_when_the_host_moves(
    certificate: dict[str, Any] | None, around: dict[str, Any], left: float | None
) -> None:
    assert renewal_in(see(ready(certificate=certificate), **({"dms_pod": pod("d1-dms")} | around))) == left


def resting(subject: DPU, **around: Any) -> Any:
    pods = {"dms_pod": pod("d1-dms"), "hostnetwork_pod": network()}
    seen = see(subject, **(pods | {"dpu_node": card_node(a="1")} | around))
    return deciding(subject.status.phase)(seen)


def test_a_ready_dpu_wakes_when_its_certificate_is_due_and_for_nothing_else() -> None:
    step = resting(ready(certificate=shown(days=12)))
    assert isinstance(step, Hold)
    assert step.after == 12 * DAY
    due = resting(ready(certificate=shown(days=0)))
    assert isinstance(due, Act)
    assert due.do is renew


def test_it_is_renewed_whatever_the_phase_waits_for_and_before_a_later_look_of_the_phase() -> None:
    wait = Hold(waits(ConditionType.REBOOTED, "Rebooting", "waiting"), after=1800)
    around = {"dms_pod": pod("d1-dms")}
    due = kept_up(wait, see(ready(certificate=shown(days=0)), **around))
    assert isinstance(due, Act)
    assert due.do is renew
    assert kept_up(wait, see(ready(certificate=shown(days=1)), **around)) == wait
    assert kept_up(wait, see(ready(certificate=shown(days=0.01)), **around)) == replace(wait, after=864.0)
    assert kept_up(wait, see(ready())) == wait, "without a pod there is nobody to show one"


@pytest.mark.parametrize(
    ("told", "ours", "cut"),
    [
        (["a"], ["a"], False),
        (["a"], [], False),
        ([], ["a"], False),
        (["a"], ["a", "heir"], False),
        (["a", "heir"], ["heir", "a"], False),
        (["a"], ["b"], True),
        (["a"], ["heir", "a"], True),
        (["heir", "a"], ["a"], True),
    ],
    ids=[
        "the same",
        "ours not known yet",
        "made by an earlier version",
        "a successor is announced",
        "the successor took over",
        "another",
        "one that it was never told of signs",
        "restored from a backup",
    ],
)
@pytest.mark.parametrize("phase", list(Phase))
def test_a_dms_that_trusts_other_authorities_gets_another_certificate_before_anything_else(
    phase: Phase, told: list[str], ours: list[str], cut: bool
) -> None:
    subject = ready(certificate=shown() | {"authorities": told})
    seen = see(subject, dms_pod=pod("d1-dms"), authorities=ours)
    step = deciding(phase)(seen)
    assert (isinstance(step, Act) and step.do is renew) == cut
    failed = ready(certificate=shown(retry=0.01) | {"authorities": told})
    step = deciding(phase)(replace(seen, dpu=failed))
    assert not isinstance(step, Act) or step.do is not renew, "what failed just now holds nobody up"


class Told:
    """Keeps the reasons of events."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def normal(self, _: object, reason: str, __: str) -> None:
        self.reasons.append(reason)

    warning = normal


class Issuer:
    """Gives a certificate, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    async def ensure_server(self, _: DPU, node: Node) -> DMSCertificate:
        if self._error is not None:
            raise self._error
        return DMSCertificate(address=node.internal_ip, renew_at=NOW + timedelta(days=20))


def hands(issuer: Issuer, told: Told) -> Hands:
    return cast("Hands", SimpleNamespace(certificates=issuer, events=told, counts=Counts()))


async def test_a_renewal_that_fails_harms_nothing_and_is_tried_again_later() -> None:
    told, subject = Told(), ready(certificate=shown(days=-1))
    seen = see(subject, dms_pod=pod("d1-dms"))
    failing = hands(Issuer(Unavailable(503, "ServiceUnavailable", "etcd is away")), told)
    changes = await renew(failing, seen)
    assert changes is not None
    assert told.reasons == ["CertificateRenewalFailed"]
    assert failing.counts.certificates == {"success": 0, "failure": 1}
    status = subject.status.model_copy(update=dict(changes))
    later = see(subject.model_copy(update={"status": status}), dms_pod=pod("d1-dms"))
    assert renewal_in(later) == 600
    changes = await renew(hands(Issuer(), told), later)
    assert changes is not None
    assert changes["certificate"].retry_at is None
    assert told.reasons[1:] == ["CertificateRenewed"]


# The label


def labelled(labels: dict[str, str], certificate: dict[str, Any] | None = None) -> DPU:
    subject = ready(certificate=certificate or shown())
    return subject.model_copy(update={"metadata": subject.metadata.model_copy(update={"labels": labels})})


OF_SET = {LABEL_DPUSET_NAME: "set"}


@pytest.mark.parametrize(
    ("labels", "wrong"),
    [
        ({LABEL_DPU_HOST_IP: "10.9.9.9"}, True),
        ({LABEL_DPU_HOST_IP: "10.0.0.1"}, False),
        (OF_SET, True),
        (OF_SET | {LABEL_DPU_HOST_IP: "10.0.0.1"}, False),
        ({}, False),
    ],
    ids=["stale", "right", "a DPUSet's without", "a DPUSet's", "nobody's"],
)
def test_the_label_follows_the_host_also_where_the_certificate_did_already(labels: dict[str, str], wrong: bool) -> None:
    step = resting(labelled(labels))
    assert isinstance(step, Act) is wrong
    if isinstance(step, Act):
        assert step.do is relabel
    assert isinstance(resting(labelled(labels), node=moved()), Hold), "a host that says no address changes nothing"


async def test_a_label_that_is_refused_harms_nothing_and_is_tried_again_later() -> None:
    told, subject = Told(), labelled({LABEL_DPU_HOST_IP: "10.9.9.9"})

    class Refusing:
        async def merge_patch(self, *_: object) -> None:
            raise Unavailable(503, "ServiceUnavailable", "etcd is away")

    mute = cast("Hands", SimpleNamespace(client=Refusing(), events=told))
    changes = await relabel(mute, see(subject))
    assert changes is not None
    assert told.reasons == ["HostAddressNotLabelled"]
    status = subject.status.model_copy(update=dict(changes))
    step = resting(subject.model_copy(update={"status": status}))
    assert isinstance(step, Hold)
    assert step.after == 600
    status = status.model_copy(update={"certificate": DMSCertificate.model_validate(shown(retry=0))})
    again = resting(subject.model_copy(update={"status": status}))
    assert isinstance(again, Act)
    assert again.do is relabel


def test_a_certificate_goes_before_a_label_that_may_be_refused() -> None:
    step = resting(labelled({LABEL_DPU_HOST_IP: "10.9.9.9"}, certificate=shown(days=0)))
    assert isinstance(step, Act)
    assert step.do is renew


# The MTU


def config(mtu: int) -> DPFOperatorConfig:
    return DPFOperatorConfig.model_validate({"spec": {"networking": {"highSpeedMTU": mtu}}})


def test_a_pod_of_another_mtu_is_made_anew() -> None:
    subject = ready(certificate=shown())
    step = resting(subject, config=config(9000))
    assert isinstance(step, Act)
    assert step.do is replace_network
    assert isinstance(resting(subject, config=config(1500)), Hold)
    assert isinstance(resting(subject), Hold), "without a DPFOperatorConfig its default holds"
    assert isinstance(resting(subject, config=config(9000), hostnetwork_pod=network(deleting=True)), Hold)


@pytest.mark.parametrize("phase", [Phase.ERROR, Phase.REBOOTING, Phase.DPU_CLUSTER_CONFIG])
def test_a_pod_stays_where_the_phase_would_not_make_another(phase: Phase) -> None:
    subject = ready(certificate=shown())
    subject = subject.model_copy(update={"status": subject.status.model_copy(update={"phase": phase})})
    wait = Hold(waits(ConditionType.READY, "Because", "waiting"))
    around: dict[str, Any] = {"hostnetwork_pod": network(), "config": config(9000)}
    assert kept_up(wait, see(subject, **around)) == wait
    first = subject.model_copy(update={"metadata": subject.metadata.model_copy(update={"name": "d0", "uid": "uid-d0"})})
    beside = see(ready(), **around, siblings=(first,), networks={first.uid: network("d0")})
    assert not waiting_for_turn(beside), "and the others of its host do not wait for it"


def test_a_pod_that_says_no_mtu_is_left_alone() -> None:
    assert not other_mtu(see(ready(), hostnetwork_pod=pod("d1-hostnetwork"), config=config(9000)))


@pytest.mark.parametrize(
    ("other", "its_pod", "waits"),
    [
        ("d0", network("d0"), True),
        ("d2", network("d2"), False),
        ("d2", network("d2", deleting=True), True),
        ("d2", None, True),
        ("d2", network("d2", mtu=9000, ready=False), True),
        ("d0", network("d0", mtu=9000), False),
    ],
    ids=["is first by name", "comes later", "ends", "comes", "starts", "is done"],
)
def test_of_the_cards_of_a_host_one_goes_after_the_other(other: str, its_pod: Any, waits: bool) -> None:
    sibling = ready(other)
    networks = {sibling.uid: its_pod} if its_pod is not None else {}
    seen = see(ready(), hostnetwork_pod=network(), config=config(9000), siblings=(sibling,), networks=networks)
    assert waiting_for_turn(seen) is waits
