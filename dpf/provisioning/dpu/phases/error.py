"""Error: provisioning has failed. The host is given back, and what failed stays in the conditions until it is tried again.

It is tried again when an annotation asks for it, when its cause is gone (the pod that failed is ready after all, the host that
could not be rebooted has booted), or by itself, later each time, where that does no harm: a drain that was refused costs nothing
to repeat, nor does a pod that did not start on a host that is not drained for it. A card that failed to install, or whose join
token ended before it joined, is left alone until somebody asks; that is a new attempt then, and so a new flash.

A retry is put on record before anything is done for it. So it is counted once and the annotation goes once, whoever dies in
between.
"""

from __future__ import annotations

from dpf.provisioning.dpu import effects, jointoken, nodeeffect
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Act, Advance, Changes, Hold, Remember, Step, waits
from dpf.runtime.conditions import is_true
from dpf.runtime.k8s import Pod
from dpf.runtime.meta import Condition
from dpf_api.dpu import ConditionType, Install, Phase, Retry
from dpf_api.names import ANNOTATION_RETRY

READY = ConditionType.READY
AGAIN = (60.0, 3600.0)
"""Seconds until a failure that has not touched the card is tried again: at first, and at most; doubled each time."""
HARMLESS = frozenset({ConditionType.NODE_EFFECT_READY.value, ConditionType.DMS_RUNNING.value})
"""Conditions that fail before anything is done to the card."""


def decide(seen: Seen) -> Step:
    if effects.to_undo(seen):
        return Act(effects.undo, READY, "NodeEffectError")
    failed = _failed(seen)
    if _retry(seen).pending:
        return Act(clear, READY, "RetryFailed") if _asked(seen) or _broken(seen) else _again(seen, failed)
    left = _left(seen, failed)
    if _asked(seen) or left == 0:
        return Act(note, READY)
    hold = failed or waits(READY, "ProvisioningFailed", "provisioning failed; annotate the DPU to try again")
    return Hold(hold, after=left)


def _retry(seen: Seen) -> Retry:
    return seen.dpu.status.retry or Retry()


def _asked(seen: Seen) -> bool:
    return ANNOTATION_RETRY in seen.dpu.annotations


def _failed(seen: Seen) -> Condition | None:
    """What failed: the step that was not done; only without one what is said of the DPU as a whole. But a card whose join token
    has ended must be flashed anew, whatever else is amiss."""
    failed = [each for each in reversed(seen.dpu.status.conditions) if each.status == "False"]
    if (expired := next((each for each in failed if each.reason == jointoken.EXPIRED), None)) is not None:
        return expired
    return next((each for each in failed if each.type != READY.value), failed[0] if failed else None)


def _broken(seen: Seen) -> list[Pod]:
    """Pods of the DPU that failed and are in the way of new ones."""
    pods = (seen.dms_pod, seen.hostnetwork_pod)
    return [pod for pod in pods if pod is not None and not pod.ready and not pod.deleting]


def _left(seen: Seen, failed: Condition | None) -> float | None:
    """Seconds until it is tried again unasked; None if it is not."""
    if failed is None or failed.reason == jointoken.EXPIRED:
        return None
    if failed.type == ConditionType.REBOOTED.value:
        return 0.0 if _booted(seen) else None
    pod = seen.hostnetwork_pod
    if failed.type == ConditionType.HOST_NETWORK_READY.value:
        return 0.0 if pod is None or pod.ready else None
    if failed.type not in HARMLESS:
        return None
    if failed.type == ConditionType.DMS_RUNNING.value:
        if seen.dms_pod is not None and seen.dms_pod.ready:
            return 0.0
        if not nodeeffect.none(seen.dpu.spec.node_effect):
            # To try would have the host drained again each time, for nothing most likely.
            return None
    retry = _retry(seen)
    since = max((at for at in (failed.last_transition_time, retry.last_at) if at is not None), default=seen.now)
    pause = min(AGAIN[0] * 2.0 ** min(retry.count, 16), AGAIN[1])
    return max(0.0, pause - (seen.now - since).total_seconds())


def _booted(seen: Seen) -> bool:
    """Whether the host has booted since the system was installed, by whomever."""
    return bool(seen.boot_id and seen.install.boot_id and seen.boot_id != seen.install.boot_id)


def _again(seen: Seen, failed: Condition | None) -> Advance:
    """Back on the way: behind the reboot if that is done, as a host is not rebooted again for its pods; else from the start,
    where an image that is installed already is found so."""
    retry = _retry(seen).model_copy(update={"pending": False})
    changes: dict[str, object] = {"retry": retry, "reason": "", "message": "", "conditions": []}
    kind, reason = (failed.type, failed.reason) if failed is not None else ("", "")
    if kind == ConditionType.OS_INSTALLED.value or reason == jointoken.EXPIRED:
        changes["install"] = Install(attempt=seen.install.attempt + 1)
        return Advance(Phase.INITIALIZING, changes=changes)
    done = [each for each in seen.dpu.status.conditions if each.status == "True"]
    if is_true(done, ConditionType.REBOOTED.value):
        return Advance(Phase.HOST_NETWORK_CONFIGURATION, changes=changes | {"conditions": done})
    if kind == ConditionType.REBOOTED.value:
        if _booted(seen):
            # By whomever: the request that failed was not it.
            return Advance(Phase.REBOOTING, changes=changes | {"conditions": done, "reboot": None})
        # It bears the same id when its turn has come once more.
        changes["reboot"] = None
    return Advance(Phase.INITIALIZING, changes=changes)


async def note(hands: Hands, seen: Seen) -> Remember:
    """Puts the retry on record. How the last try ended is dealt with: it is no outcome of the next one."""
    hands.jobs.cancel(seen.dpu.key)
    count = _retry(seen).count + 1
    return Remember({"retry": Retry(count=count, last_at=seen.now.replace(microsecond=0), pending=True)})


async def clear(hands: Hands, seen: Seen) -> Changes | None:
    """Takes away what the failure left: the annotation that asked, and pods that failed."""
    for pod in _broken(seen):
        await hands.client.delete(pod)
    if _asked(seen):
        await hands.client.merge_patch(seen.dpu, {"metadata": {"annotations": {ANNOTATION_RETRY: None}}})
    return None
