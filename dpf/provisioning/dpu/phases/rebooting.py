"""Rebooting: the host boots anew, so that it meets the card as it is now, and the card its configuration.

That the host was rebooted is seen by its boot id, compared with that of the moment when the system was installed. The request is
written to the status before it is made and carries an id, so it is made once however often this is run. It is written when nothing
is in its way and made at once, so what is on record may have been asked for, whoever was killed in between. Of several cards of
one host one goes after the other, and none pulls the host from under another's installation: see ``turns``.

A DMS that does not answer is asked again. One that refuses the request, or took it and says that it could not carry it out, has
failed: the DPU goes to Error and waits for somebody to ask for another try, or to reboot the host by hand. Another try bears
the same id, so DMS does again what failed and nothing that did not.
"""

from __future__ import annotations

from dataclasses import replace

from dpf.provisioning.dpu import dmsserver, needs, rebootpolicy, turns
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.install import NoRoom, RebootFailed, Refused, Unreachable
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Act, Advance, Changes, Hold, Remember, Step, done, fail, waits
from dpf.provisioning.dpu.waiting import HOST_BACK
from dpf.runtime.errors import Terminal, Waiting
from dpf.runtime.log import get_logger
from dpf.runtime.meta import Condition, now
from dpf_api.dpu import ConditionType, Phase, Reboot

log = get_logger(__name__)

REBOOTED, RUNNING = ConditionType.REBOOTED, ConditionType.DMS_RUNNING
UNREACHABLE = "DMSUnreachable"
MANUAL = "WaitingForManualPowerCycleOrReboot"
SEND_AGAIN = (1.0, 60.0)
"""Seconds until a DMS that did not answer is asked for the reboot again: at least and at most. In between the longer, the longer it
has not."""
LOOK_ONCE = 60.0
"""Seconds for which a DMS is asked at least: it answers in them, if it is there."""
FOLLOW_AGAIN = 60.0
"""Seconds until an eye that could not be kept on a reboot is kept again."""


def decide(seen: Seen) -> Step:
    if seen.node is None:
        return Hold(waits(REBOOTED, "NodeNotFound", needs.host_gone(seen.dpu)))
    if not seen.boot_id:
        message = f"node {seen.node.name} reports no boot id; goes on when its kubelet does, so look at that"
        return Hold(waits(REBOOTED, "BootIDUnknown", message))
    if not seen.install.boot_id:
        return Advance(Phase.REBOOTING, changes={"install": seen.install.model_copy(update={"boot_id": seen.boot_id})})
    try:
        policy = rebootpolicy.policy(seen.dpu, seen.node, seen.flavor)
    except ValueError as error:
        return Hold(waits(REBOOTED, "InvalidRebootCommand", str(error)))
    if policy.skip and seen.install.resets_itself is not False:
        return _on(seen, "the reboot is skipped, as the node's annotation says")
    if seen.boot_id != seen.install.boot_id:
        return _booted(seen)
    if policy.skip:
        message = (
            f"node {seen.node.name} says to skip the reboot, and did not yet when the card's bf.cfg was made, so the card does not "
            "reboot itself: power-cycle or reboot the node by hand, or take the annotation away"
        )
        return Hold(waits(REBOOTED, MANUAL, message))
    if not rebootpolicy.authorised(seen.dpu):
        message = f"power-cycle or reboot node {seen.node.name} by hand: nothing here may do it"
        return Hold(waits(REBOOTED, MANUAL, message))
    return _order(seen)


def _on(seen: Seen, message: str) -> Advance:
    """On to the host's network. No phase looks at DMS until the DPU is Ready; so long it would be said what was amiss with it."""
    pod = seen.dms_pod
    answers = (done(RUNNING),) if pod is not None and pod.ready and not pod.deleting else ()
    changes = {"required_reset": False}
    return Advance(Phase.HOST_NETWORK_CONFIGURATION, (*answers, done(REBOOTED, message)), changes)


def _booted(seen: Seen) -> Step:
    """The host has booted since; but a reset for another card has not reset this one."""
    before = seen.install.boot_id
    # Where another's is on record as well, the one that was not answered has most likely reset nothing.
    ours = turns.announced(seen.dpu) and seen.reboot.issued_at is not None
    for_another = any(
        other.status.reboot is not None
        and other.status.phase is not Phase.ERROR
        and other.status.reboot.method == rebootpolicy.WARM
        and other.status.reboot.id.endswith(f"/{before}")
        for other in seen.siblings
    )
    if ours or not for_another:
        return _on(seen, "the host has booted since the system was installed")
    return Advance(Phase.REBOOTING, changes={"install": seen.install.model_copy(update={"boot_id": seen.boot_id})})


def _order(seen: Seen) -> Step:
    announced = turns.announced(seen.dpu)
    if announced and seen.reboot.issued_at is not None:
        return _issued(seen, HOST_BACK - (seen.now - seen.reboot.issued_at).total_seconds())
    if (other := turns.before_reset(seen) if announced else turns.before_announcing(seen)) is not None:
        return turns.hold(seen, REBOOTED, other)
    if (step := dmsserver.server(seen)) is not None:
        return step
    do = Act(send, REBOOTED, UNREACHABLE) if announced else Act(announce, REBOOTED)
    return replace(do, alone=True)


def _issued(seen: Seen, left: float) -> Step:
    """The host was told to reboot: an eye is kept on whether DMS can do it, until the host should be back. A manager that comes
    later still looks once: who was there before may not have heard."""
    node, job = seen.dpu.spec.node_name, seen.reboot_job
    if job is not None and isinstance(job.error, RebootFailed):
        return fail(REBOOTED, turns.REBOOT_FAILED, f"node {node} could not be rebooted: {job.error}")
    if job is None:
        return Act(keep_an_eye, REBOOTED)
    if left > 0:
        if job is not None and job.error is not None:
            return Act(look_away, REBOOTED)
        return Hold(_rebooting(seen), after=left)
    return Hold(waits(REBOOTED, "HostDoesNotComeBack", f"{_coming_back(seen)}; look at its console"))


def _rebooting(seen: Seen) -> Condition:
    return waits(REBOOTED, "Rebooting", _coming_back(seen))


def _coming_back(seen: Seen) -> str:
    return f"waiting for node {seen.dpu.spec.node_name} to come back from its reboot"


async def announce(hands: Hands, seen: Seen) -> Remember:
    """Puts on record that the host is about to be rebooted, before another card of the host has its turn."""
    if seen.node is None:
        raise Waiting("NodeNotFound", needs.host_gone(seen.dpu))
    method = rebootpolicy.policy(seen.dpu, seen.node, seen.flavor).method
    return Remember({"reboot": Reboot(id=rebootpolicy.request_id(seen.dpu), method=method), "required_reset": True})


async def send(hands: Hands, seen: Seen) -> Remember:
    """Asks DMS for the reboot on record. Asked again with the same id, it does nothing. That it was asked is written before
    another card of the host has its turn, or a flash would be gone on with while the host goes down.

    :raises Terminal: if DMS refuses it.
    :raises Waiting: if it does not answer: another card may have had the host rebooted, and DMS with it.
    """
    if seen.node is None:
        raise Waiting("NodeNotFound", needs.host_gone(seen.dpu))
    policy = rebootpolicy.policy(seen.dpu, seen.node, seen.flavor)
    if policy.power is not None:
        try:
            await hands.card.reboot(seen, policy)
        except Refused as error:
            raise Terminal(turns.REBOOT_FAILED, f"node {seen.node.name} could not be rebooted: {error}") from error
        except (Unreachable, NoRoom) as error:
            pause = min(max(SEND_AGAIN[0], seen.waited(REBOOTED) / 4), SEND_AGAIN[1])
            raise Waiting(UNREACHABLE, f"{error}; it is tried again", retry_after=pause) from error
        note = f"node {seen.node.name} was told to reboot ({policy.method}, {policy.power})"
        hands.events.normal(seen.dpu, "RebootRequested", note, related=seen.node, weight="milestone")
        hands.counts.reboots[policy.method] += 1
    issued = seen.reboot.model_copy(update={"issued_at": now().replace(microsecond=0)})
    return Remember({"reboot": issued}, conditions=(_rebooting(seen),))


async def keep_an_eye(hands: Hands, seen: Seen) -> Changes | None:
    """Begins to ask DMS whether it could carry the reboot out: it has taken the request, and can't call back."""
    issued = seen.reboot.issued_at or seen.now
    hands.card.follow_reboot(seen.dpu, max(LOOK_ONCE, HOST_BACK - (seen.now - issued).total_seconds()))
    return None


async def look_away(hands: Hands, seen: Seen) -> Changes | None:
    """Forgets an eye that something else than the reboot has closed; that says nothing about the reboot.

    :raises Waiting: the wait goes on as it is, and an eye is kept again later.
    """
    hands.reboots.cancel(seen.dpu.key)
    log.warning("reboot_not_followed", error=str(seen.reboot_job.error) if seen.reboot_job is not None else "")
    raise Waiting("Rebooting", _coming_back(seen), retry_after=FOLLOW_AGAIN)
