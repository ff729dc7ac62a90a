"""OS Installing: the card is flashed with the image and its configuration, by a job beside the workers.

What is asked of the card (version, digest of the configuration, attempt) is in the status before the card is asked. A manager
that takes over renders the same bytes again and asks again; DMS knows the pair and goes on or answers that it is done.
"""

from __future__ import annotations

from typing import Any

from dpf.provisioning.bfcfg.join import TokenExpired
from dpf.provisioning.dpu import podhealth
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.install import Refused
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.phases import dms_deployment, pending
from dpf.provisioning.dpu.phases.initializing import missing_node_labels
from dpf.provisioning.dpu.steps import Act, Advance, Changes, Hold, Remember, Step, done, fail, waits
from dpf.runtime.meta import Condition, now
from dpf_api.bfb import Phase as BFBPhase
from dpf_api.dpu import ConditionType, Install, Phase

INSTALLED, RUNNING = ConditionType.OS_INSTALLED, ConditionType.DMS_RUNNING
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
        return Act(dms_deployment.create, RUNNING)
    if job is not None and pod is not None and podhealth.ended(pod) and not pod.deleting:
        return podhealth.anew(seen, pod, RUNNING)
    if job is not None:
        changes = {"install": seen.install.model_copy(update={"percent": job.percent})} if job.percent else {}
        return Hold(_at_it(seen, job.progress), after=LOOK, changes=changes)
    if seen.bfb is None or seen.bfb.status.phase is not BFBPhase.READY:
        return pending.image(seen, INSTALLED)
    if (step := dms_deployment.server(seen)) is not None:
        return step
    # Said with what is put on record, so that it is one write.
    return Act(begin, INSTALLED, "InstallationFailed", (_at_it(seen),))


def _at_it(seen: Seen, progress: str = "") -> Condition:
    return waits(INSTALLED, "Installing", progress or f"BFB {seen.dpu.spec.bfb} is being installed on the card")


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
    if labels := missing_node_labels(seen.dpu, seen.bfb):
        await hands.client.merge_patch(seen.dpu, {"spec": {"cluster": {"nodeLabels": labels}}})
    before = seen.install
    try:
        order = await hands.card.prepare(seen, before.attempt)
    except TokenExpired:
        # Nobody has been at it for a day: a card that was flashed then could not join any more.
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
    )
    if (before.version, before.config_sha256) == (install.version, install.config_sha256):
        install = before.model_copy(update={"started_at": started})
    # What was installed already and is only found so has all the time anew to say it.
    since = started if install.finished_at is None else now()
    return Remember({"install": install, "pci_device": seen.pci}, lambda: hands.card.start(seen.dpu, order, since))


async def begin_anew(hands: Hands, seen: Seen) -> Changes | None:
    """The cluster that the card was told to join is gone, and another bears its name: that is a new attempt."""
    hands.jobs.cancel(seen.dpu.key)
    return {"install": Install(attempt=seen.install.attempt + 1)}


async def try_again(hands: Hands, seen: Seen) -> Changes | None:
    """Forgets a job that something outside the card has ended, and reports its error; with back-off it is begun anew."""
    hands.jobs.cancel(seen.dpu.key)
    if seen.job is not None and seen.job.error is not None:
        raise seen.job.error
    return None
