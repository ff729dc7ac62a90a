"""The join token of a card that was flashed and has not joined yet: it is kept alive for as long as that may still happen.

A host may wait for days until somebody reboots it, and the card joins after that. The card has its token, so another one would
be of no use: the end of the one it has is put off, a day each time, until :data:`LONGEST`. A card whose token has ended can't
join any more; then the DPU goes to Error, and another try is a new flash with a new token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from dpf.provisioning.bfcfg import join
from dpf.provisioning.dpu.hands import Hands
from dpf.provisioning.dpu.observe import Seen
from dpf.provisioning.dpu.steps import Act, Changes, Hold, Step, fail
from dpf.runtime.errors import Terminal
from dpf.runtime.meta import Key
from dpf_api.dpu import DPU, ConditionType

EXPIRED = "JoinTokenExpired"
MARGIN = timedelta(hours=8)
"""How long before its end a token is renewed: a manager or a cluster may be away for a night."""
AWAY = 60.0
"""Seconds between looks whether the cluster of a token that is due is back: a DPU that waits for something else is not told."""
LONGEST = timedelta(days=7)
"""How long after the card was first asked to install its token is renewed: who has the token may join the cluster."""

Decide = Callable[[Seen], Step]


def kept(decide: Decide) -> Decide:
    """A phase in which the card's token is kept alive while there is nothing else to do."""

    def decided(seen: Seen) -> Step:
        step = decide(seen)
        ends = end(seen)
        if not isinstance(step, Hold) or step.cluster or ends is None or _joined(seen) or seen.cluster is None:
            return step
        kind = ConditionType(step.condition.type)
        due = ends if _too_late(seen) else ends - MARGIN
        left = (due - seen.now).total_seconds()
        if seen.away:
            left = max(left, AWAY)
        elif left <= 0:
            return fail(kind, EXPIRED, _lost(seen)) if _too_late(seen) else Act(renew, kind, "JoinTokenNotRenewed")
        return replace(step, after=left if step.after is None else min(left, step.after))

    return decided


def end(seen: Seen) -> datetime | None:
    """When the token ends, as far as is on record; None if the card was not flashed by this system."""
    install = seen.install
    if install.join_token_expires_at is not None or install.started_at is None:
        return install.join_token_expires_at
    return install.started_at + join.LIFETIME


async def renew(hands: Hands, seen: Seen) -> Changes | None:
    """Puts off the token's end.

    :raises Terminal: if there is no such token any more.
    """
    reference = seen.dpu.spec.cluster
    remote = hands.remotes.get(Key(reference.namespace, reference.name))
    until = await join.extend_token(remote.client, join.token_id(seen.dpu.uid, seen.install.attempt))
    if until is None:
        raise Terminal(EXPIRED, _lost(seen))
    return {"install": seen.install.model_copy(update={"join_token_expires_at": until})}


async def take_away(hands: Hands, dpu: DPU, attempt: int, *, used: bool = False) -> None:
    """Removes the token of an attempt: who has it could join the cluster; that it is gone already is fine.

    :param used: the card has joined with it.
    :raises ClusterUnavailable: if the cluster can't be reached.
    """
    reference = dpu.spec.cluster
    remote = hands.remotes.get(Key(reference.namespace, reference.name))
    await join.delete_token(remote.client, dpu.name, join.token_id(dpu.uid, attempt), used=used)


def _joined(seen: Seen) -> bool:
    """Whether the card needs its token no more; a Node that is left of an earlier life of the card does not count."""
    if seen.install.join_token_deleted:
        return True
    node, started = seen.dpu_node, seen.install.started_at
    made = node.metadata.creation_timestamp if node is not None else None
    return node is not None and (node.ready or started is None or (made is not None and made >= started))


def _too_late(seen: Seen) -> bool:
    started = seen.install.started_at
    return started is not None and seen.now >= started + LONGEST


def _lost(seen: Seen) -> str:
    return (
        f"the card did not join cluster {seen.dpu.spec.cluster.name} before its join token ended, and can't any more; "
        "a retry flashes it anew"
    )
