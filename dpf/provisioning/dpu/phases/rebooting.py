"""Rebooting: the host boots anew, so that it meets the card as it is now, and the card its configuration.

That the host was rebooted is seen by its boot id, compared with that of the moment when the system was installed. The request is
written to the status before it is made and carries an id, so it is made once however often this is run. Of several cards of
one host one goes after the other, and none pulls the host from under another's installation.
"""

from __future__ import annotations

from collections.abc import Iterable

from dpf.provisioning.dpu import rebootpolicy
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.phases import dms_deployment
from dpf.provisioning.dpu.steps import Act, Advance, Changes, Hold, Remember, Step, done, waits
from dpf.runtime.errors import Waiting
from dpf.runtime.meta import now
from dpf_api.dpu import DPU, ConditionType, Phase, Reboot

REBOOTED = ConditionType.REBOOTED
SLOW = 1800.0
"""Seconds after which a host that was told to reboot and did not is called overdue."""


def decide(seen: Seen) -> Step:
    if seen.node is None:
        return Hold(
            waits(REBOOTED, "NodeNotFound", f"node {seen.dpu.spec.node_name} is gone; waiting for it to be back")
        )
    if not seen.boot_id:
        return Hold(
            waits(REBOOTED, "BootIDUnknown", f"node {seen.node.name} reports no boot id; waiting for its kubelet")
        )
    if not seen.install.boot_id:
        return Advance(Phase.REBOOTING, changes={"install": seen.install.model_copy(update={"boot_id": seen.boot_id})})
    try:
        policy = rebootpolicy.policy(seen.dpu, seen.node, seen.flavor)
    except ValueError as error:
        return Hold(waits(REBOOTED, "InvalidRebootCommand", str(error)))
    if policy.skip:
        return _on("the reboot is skipped, as the node's annotation says")
    if seen.boot_id != seen.install.boot_id:
        return _booted(seen)
    if not rebootpolicy.authorised(seen.dpu):
        message = f"power-cycle or reboot node {seen.node.name} by hand: nothing here may do it"
        return Hold(waits(REBOOTED, "WaitingForManualPowerCycleOrReboot", message))
    return _order(seen)


def request_id(dpu: DPU) -> str:
    """Of the reboot that follows the DPU's installation: another boot id makes it another request."""
    return f"{dpu.uid}/{dpu.status.install.boot_id if dpu.status.install is not None else ''}"


def _on(message: str) -> Advance:
    return Advance(Phase.HOST_NETWORK_CONFIGURATION, (done(REBOOTED, message),), {"required_reset": False})


def _booted(seen: Seen) -> Step:
    """The host has booted since; but a reset for another card has not reset this one."""
    before = seen.install.boot_id
    ours = seen.reboot.id == request_id(seen.dpu)
    for_another = any(
        other.status.reboot is not None
        and other.status.reboot.method == rebootpolicy.WARM
        and other.status.reboot.id.endswith(f"/{before}")
        for other in seen.siblings
    )
    if ours or not for_another:
        return _on("the host has booted since the system was installed")
    return Advance(Phase.REBOOTING, changes={"install": seen.install.model_copy(update={"boot_id": seen.boot_id})})


def _order(seen: Seen) -> Step:
    announced = seen.reboot.id == request_id(seen.dpu)
    if announced and seen.reboot.issued_at is not None:
        late = (seen.now - seen.reboot.issued_at).total_seconds() > SLOW
        reason = "HostDoesNotComeBack" if late else "Rebooting"
        node = seen.dpu.spec.node_name
        message = f"waiting for node {node} to come back from its reboot" + ("; look at its console" if late else "")
        return Hold(waits(REBOOTED, reason, message), after=None if late else SLOW)
    if not announced and (other := in_the_way(seen.dpu, seen.siblings)) is not None:
        return Hold(waits(REBOOTED, "WaitingForOtherDPU", f"DPU {other.name} of the same host goes first"))
    if (step := dms_deployment.server(seen)) is not None:
        return step
    return Act(send if announced else announce, REBOOTED)


def in_the_way(dpu: DPU, siblings: Iterable[DPU]) -> DPU | None:
    """The DPU of the same host that must be done before the host is rebooted for this one: one that is being flashed, one
    whose reboot is under way, or the first by name of those that wait like this one."""
    for other in siblings:
        if other.deleting or other.uid == dpu.uid:
            continue
        phase, install, reboot = other.status.phase, other.status.install, other.status.reboot
        if phase is Phase.OS_INSTALLING and install is not None and install.started_at is not None:
            return other
        if phase is Phase.REBOOTING:
            announced = reboot is not None and reboot.id == request_id(other)
            if announced or (
                rebootpolicy.authorised(other) and (other.namespace, other.name) < (dpu.namespace, dpu.name)
            ):
                return other
    return None


async def announce(hands: Hands, seen: Seen) -> Remember:
    """Puts on record that the host is about to be rebooted."""
    if seen.node is None:
        raise Waiting("NodeNotFound", f"node {seen.dpu.spec.node_name} is gone")
    method = rebootpolicy.policy(seen.dpu, seen.node, seen.flavor).method
    return Remember({"reboot": Reboot(id=request_id(seen.dpu), method=method), "required_reset": True})


async def send(hands: Hands, seen: Seen) -> Changes | None:
    """Asks DMS for the reboot on record. Asked again with the same id, it does nothing."""
    if seen.node is None:
        raise Waiting("NodeNotFound", f"node {seen.dpu.spec.node_name} is gone")
    policy = rebootpolicy.policy(seen.dpu, seen.node, seen.flavor)
    if policy.power is not None:
        await hands.card.reboot(seen, policy)
        note = f"node {seen.node.name} was told to reboot ({policy.method}, {policy.power})"
        hands.events.normal(seen.dpu, "RebootRequested", note, related=seen.node)
        hands.counts.reboots[policy.method] += 1
    return {"reboot": seen.reboot.model_copy(update={"issued_at": now().replace(microsecond=0)})}
