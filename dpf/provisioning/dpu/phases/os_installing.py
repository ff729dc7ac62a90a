"""OS Installing: the card is flashed with the image and its configuration, by a job beside the workers.

What is asked of the card (version, digest of the configuration, attempt) is in the status before the card is asked. A manager
that takes over renders the same bytes again and asks again; DMS knows the pair and goes on or answers that it is done. If what it
renders from has changed meanwhile (the cluster's endpoint or CA, a token made anew, a release that writes it otherwise), they are
other bytes, and the card is flashed with those too: what it has may not let it join. None
begins on a host that is about to be reset for another of its cards: see ``turns``.
"""

from __future__ import annotations

from typing import Any

from dpf.provisioning.bfcfg.join import TokenUnusable
from dpf.provisioning.dpu import dmsserver, jointoken, needs, nodelabels, podhealth, rebootpolicy, turns
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.install import NoRoom, Refused, Unreachable
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.outcome import Outcome, Progress
from dpf.provisioning.dpu.steps import Act, Advance, Changes, Hold, Remember, Step, done, fail, waits
from dpf.provisioning.volume import VolumeSilent
from dpf.runtime.conditions import find
from dpf.runtime.errors import DpfError, Waiting
from dpf.runtime.meta import Condition, now
from dpf_api.dpu import ConditionType, Install, Phase

INSTALLED, RUNNING = ConditionType.OS_INSTALLED, ConditionType.DMS_RUNNING
UNREACHABLE = "DMSUnreachable"
VOLUME_FULL = "VolumeFull"
VOLUME_SILENT = "VolumeSilent"
TROUBLE = (UNREACHABLE, VOLUME_FULL, VOLUME_SILENT)
"""Reasons of waits that may last; said until it is known that they are over, though it is tried again meanwhile."""
AGAIN = (10.0, 300.0)
"""Seconds until such a DPU has another turn: at least and at most. In between the longer, the longer the trouble lasts."""
LOOK = 10.0
"""Seconds between looks at how far a running installation is."""


def decide(seen: Seen) -> Step:
    job = seen.job
    if seen.replaced:
        return Act(begin_anew, INSTALLED)
    if job is not None and job.done:
        return _ended(seen)
    pod = seen.dms_pod
    if job is not None and pod is None:
        return Act(dmsserver.create, RUNNING)
    if job is not None and pod is not None and podhealth.ended(pod) and not pod.deleting:
        return podhealth.anew(seen, pod, RUNNING)
    if job is not None:
        return Hold(_at_it(seen), after=LOOK, changes=_heard(seen))
    if not needs.image_there(seen):
        return needs.image(seen, INSTALLED)
    if (step := dmsserver.server(seen)) is not None:
        return step
    if (other := turns.before_flash(seen)) is not None:
        return turns.hold(seen, INSTALLED, other)
    # Said with what is put on record, so that it is one write.
    return Act(begin, INSTALLED, "InstallationFailed", (_at_it(seen),), alone=True)


def _at_it(seen: Seen) -> Condition:
    """How a job stands that is not done, or is about to be started."""
    job = seen.job or Outcome(queued=seen.full)
    if job.progress.lost:
        return waits(INSTALLED, UNREACHABLE, job.progress.text)
    if job.progress.text:
        return waits(INSTALLED, "Installing", job.progress.text)
    before = find(seen.dpu.status.conditions, INSTALLED.value)
    if before is not None and before.reason in TROUBLE:
        return before  # until something else is heard
    if job.queued:
        limit = f"{seen.settings.installs} cards are flashed at a time (--installs)"
        return waits(INSTALLED, "Queued", f"BFB {seen.dpu.spec.bfb} will be installed in its turn: {limit}")
    return waits(INSTALLED, "Installing", f"BFB {seen.dpu.spec.bfb} is being installed on the card")


def _heard(seen: Seen) -> Changes:
    """What the status keeps of a running job, so that the next one goes on from there."""
    progress = seen.job.progress if seen.job is not None else Progress()
    install = seen.install.model_copy(
        update={
            "percent": progress.percent or seen.install.percent,
            "activated_at": progress.activated_at or seen.install.activated_at,
        }
    )
    return {"install": install} if install != seen.install else {}


def _ended(seen: Seen) -> Step:
    error = seen.job.error if seen.job is not None else None
    if error is None:
        # What was installed before is found so; that the host was rebooted since then still holds.
        before = seen.install
        ended = before.finished_at or seen.now.replace(microsecond=0)
        install = before.model_copy(
            update={"finished_at": ended, "boot_id": before.boot_id or seen.boot_id, "percent": 100}
        )
        changes: dict[str, Any] = {"install": install, "bfb_version": install.version, "required_reset": True}
        changes["firmware"] = seen.job.firmware if seen.job is not None else None
        return Advance(Phase.REBOOTING, (done(INSTALLED, f"{install.version} is installed"),), changes)
    if isinstance(error, Refused):
        return fail(INSTALLED, "InstallationFailed", str(error))
    return Act(try_again, INSTALLED, "InstallationFailed")


async def begin(hands: Hands, seen: Seen) -> Remember:
    """Makes the card's configuration, puts on record what the card will be asked for, and starts the job once that is written.

    :raises Waiting: if something the configuration needs is missing.
    """
    if labels := nodelabels.missing(seen.dpu, seen.bfb):
        await hands.client.merge_patch(seen.dpu, {"spec": {"cluster": {"nodeLabels": labels}}})
    before = seen.install
    if before.join_token_deleted:
        # The card has joined with what it was given; to join once more it needs something else. Only a hand in the status, or a
        # restored backup of it, leads here.
        before = Install(attempt=before.attempt + 1)
    if before.attempt and before.started_at is None:
        await jointoken.take_away(hands, seen.dpu, before.attempt - 1)
    try:
        order = await hands.card.prepare(seen, before.attempt)
    except TokenUnusable:
        # Nobody has been at it for a day: a card that was flashed then could not join any more. Or it is another DPU's.
        before = Install(attempt=before.attempt + 1)
        order = await hands.card.prepare(seen, before.attempt)
    started = before.started_at or now().replace(microsecond=0)
    install = Install(
        attempt=before.attempt,
        version=order.version,
        config_sha256=order.sha256,
        started_at=started,
        percent=before.percent,
        cluster_uid=seen.cluster.uid if seen.cluster is not None else "",
        resets_itself=seen.node is not None
        and rebootpolicy.resets_itself(seen.dpu, seen.node, seen.flavor, before.attempt),
    )
    if (before.version, before.config_sha256) == (install.version, install.config_sha256):
        install = before.model_copy(update={"started_at": started, "resets_itself": install.resets_itself})
    changes = {"install": install, "pci_device": seen.pci}
    return Remember(changes, lambda: hands.card.start(seen.dpu, order, install.activated_at))


async def begin_anew(hands: Hands, seen: Seen) -> Changes | None:
    """The cluster that the card was told to join is gone, and another bears its name: that is a new attempt."""
    hands.jobs.cancel(seen.dpu.key)
    return {"install": Install(attempt=seen.install.attempt + 1)}


async def try_again(hands: Hands, seen: Seen) -> Changes | None:
    """Forgets a job that something outside the card has ended, and reports its error; with back-off it is begun anew.

    :raises Waiting: if DMS or the shared volume did not answer, or has no room. The pod, when it
        is ready again, wakes the DPU before the pause is over.
    """
    hands.jobs.cancel(seen.dpu.key)
    error = seen.job.error if seen.job is not None else None
    if error is None:
        return None
    pause = min(max(AGAIN[0], seen.waited(INSTALLED) / 4), AGAIN[1])
    if isinstance(error, NoRoom):
        raise Waiting(VOLUME_FULL, f"{error}; it is tried again", retry_after=pause)
    if isinstance(error, VolumeSilent):
        raise Waiting(VOLUME_SILENT, f"{error.strerror}; it is tried again", retry_after=pause)
    if isinstance(error, DpfError | OSError) and not isinstance(error, Unreachable):
        raise error
    raise Waiting(UNREACHABLE, str(error), retry_after=pause)
