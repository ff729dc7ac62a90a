"""What is kept up while a DPU rests: the certificate of its DMS, the label with its host's address, the MTU of the host's network.

None may hold up the phase, so they come after what it decided, and a renewal that fails is tried again later, long before the
certificate ends. Only one whose authority is trusted no more is renewed before: no phase gets an answer by it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from dpf.provisioning.dpu import hostnetworkpod, podparts
from dpf.provisioning.dpu.certificates import SERVER_LIFETIME
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Act, Changes, Hold, Step
from dpf.runtime.errors import ApiError, Conflict, Waiting
from dpf_api.dpu import ConditionType, DMSCertificate, Phase
from dpf_api.names import LABEL_DPU_HOST_IP, LABEL_DPUSET_NAME, host_ip

RETRY = timedelta(minutes=10)
"""After which a renewal that failed is tried again."""

PUT_BACK = frozenset({Phase.HOST_NETWORK_CONFIGURATION, Phase.READY})
"""Phases that make a host network pod where there is none. In any other one it is left as it is: in Error it would be gone until
somebody asks for a retry."""


def cut_off(seen: Seen) -> Step | None:
    """What comes before anything else that a phase does: its DMS would not answer this process."""
    left = renewal_in(seen) if distrusted(seen) else None
    return Act(renew, ConditionType.DMS_RUNNING) if left is not None and left <= 0 else None


def kept_up(step: Hold, seen: Seen) -> Step:
    """What to do before resting as the phase decided; else the rest, ended in time for what comes next."""
    if seen.dpu.status.phase in PUT_BACK and other_mtu(seen) and not waiting_for_turn(seen):
        return Act(replace_network, ConditionType.HOST_NETWORK_READY)
    # In this order: who has refused the label puts both off.
    for left, do in ((renewal_in(seen), renew), (relabel_in(seen), relabel)):
        if left is None:
            continue
        if left <= 0:
            return Act(do, ConditionType.DMS_RUNNING)
        step = replace(step, after=left if step.after is None else min(left, step.after))
    return step


# The certificate


def renewal_in(seen: Seen) -> float | None:
    """Seconds until the certificate of the DPU's DMS is to be made anew; None if there is nothing to wait for."""
    address = podparts.host_address(seen.node) if seen.node is not None else ""
    if seen.dms_pod is None or seen.dms_pod.deleting or not address:
        return None
    certificate = seen.dpu.status.certificate or DMSCertificate()
    due = certificate.renew_at
    if certificate.address != address or (due is None and seen.settings.certificates == "self"):
        due = seen.now
    if due is None:
        return None
    if certificate.expires_at is not None and certificate.expires_at - SERVER_LIFETIME > seen.now:
        due = seen.now  # It was made while a clock was ahead, and does not hold yet.
    if distrusted(seen):
        due = seen.now
    if certificate.retry_at is not None:
        due = max(due, certificate.retry_at)
    return (due - seen.now).total_seconds()


def distrusted(seen: Seen) -> bool:
    """Whether DMS and this process trust different authorities: somebody deleted, restored or replaced the one in the Secret."""
    certificate, ours = seen.dpu.status.certificate, seen.authorities
    if certificate is None or not certificate.authorities or not ours:
        return False
    return certificate.authorities[0] not in ours or ours[0] not in certificate.authorities


async def renew(hands: Hands, seen: Seen) -> Changes | None:
    """Makes the certificate anew, for the host's address as it is now. The pod's volume follows, and DMS reads it by itself."""
    if seen.node is None:
        return None
    dpu = seen.dpu
    try:
        certificate = await hands.certificates.ensure_server(dpu, seen.node)
    except Conflict:
        raise
    except (ApiError, Waiting) as error:
        hands.counts.certificates["failure"] += 1
        hands.events.warning(dpu, "CertificateRenewalFailed", f"the certificate of its DMS can't be renewed: {error}")
        return _later(seen)
    hands.counts.certificates["success"] += 1
    until = f", until {certificate.expires_at:%Y-%m-%d %H:%M} UTC" if certificate.expires_at is not None else ""
    note = f"the certificate of its DMS was made anew for {certificate.address}{until}"
    hands.events.normal(dpu, "CertificateRenewed", note)
    return {"certificate": certificate}


def _later(seen: Seen) -> Changes:
    certificate = seen.dpu.status.certificate or DMSCertificate()
    return {"certificate": certificate.model_copy(update={"retry_at": seen.now.replace(microsecond=0) + RETRY})}


# The label


def relabel_in(seen: Seen) -> float | None:
    """Seconds until the DPU is to be labelled with its host's address; None if it is, or if nobody labelled it: then it is left
    without."""
    address = host_ip(seen.node.internal_ip) if seen.node is not None else ""
    labels, certificate = seen.dpu.labels, seen.dpu.status.certificate
    if not address or not (LABEL_DPU_HOST_IP in labels or LABEL_DPUSET_NAME in labels):
        return None
    if labels.get(LABEL_DPU_HOST_IP) == address:
        return None
    retry_at = certificate.retry_at if certificate is not None else None
    return (retry_at - seen.now).total_seconds() if retry_at is not None else 0.0


async def relabel(hands: Hands, seen: Seen) -> Changes | None:
    """Says the host's address in the DPU's label."""
    if seen.node is None:
        return None
    address = seen.node.internal_ip
    try:
        await hands.client.merge_patch(seen.dpu, {"metadata": {"labels": {LABEL_DPU_HOST_IP: address}}})
    except Conflict:
        raise
    except ApiError as error:
        note = f"its label {LABEL_DPU_HOST_IP} can't be made {address}: {error}"
        hands.events.warning(seen.dpu, "HostAddressNotLabelled", note)
        return _later(seen)
    return None


# The MTU


def other_mtu(seen: Seen) -> bool:
    """Whether the host network pod was made with another MTU than is asked for now."""
    pod = seen.hostnetwork_pod
    made_with = hostnetworkpod.mtu_of(pod) if pod is not None and not pod.deleting else None
    return made_with is not None and made_with != hostnetworkpod.mtu(seen.config)


def waiting_for_turn(seen: Seen) -> bool:
    """Whether another card of the host has its pod made anew at the moment, or is to be first by name."""
    wanted = hostnetworkpod.mtu(seen.config)
    for other in seen.siblings:
        pod = seen.networks.get(other.uid)
        if other.deleting or other.status.phase not in PUT_BACK:
            continue
        if pod is None:
            if other.status.phase is Phase.READY:
                return True
        elif hostnetworkpod.mtu_of(pod) == wanted:
            if pod.deleting or not pod.ready:
                return True
        elif pod.deleting or (other.namespace, other.name) < (seen.dpu.namespace, seen.dpu.name):
            return True
    return False


async def replace_network(hands: Hands, seen: Seen) -> Changes | None:
    """Ends the pod; the phase makes another one when it is gone."""
    pod = seen.hostnetwork_pod
    if pod is None:
        return None
    await hands.client.delete(pod)
    note = f"pod {pod.name} is made anew: MTU {hostnetworkpod.mtu_of(pod)} became {hostnetworkpod.mtu(seen.config)}"
    hands.events.normal(seen.dpu, "HostNetworkChanged", note, related=pod)
    return None
