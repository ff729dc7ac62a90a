"""Nodes that a deleted DPU had to leave in its cluster, for that was away or refused: on record at the DPUCluster, and removed when
the cluster answers again.

The record is an annotation of the DPUCluster for each Node, so that many can be written at once without a lock, and it goes with
the DPUCluster. Only what is on record is ever removed, and only a Node that was there already when the DPU went: a card that has
been flashed since then and has joined under the same name keeps its Node.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from dpf.provisioning import indexes
from dpf.provisioning.bfcfg import join
from dpf.runtime.client import Client
from dpf.runtime.errors import NotFound
from dpf.runtime.informer import Informer
from dpf.runtime.k8s import Node
from dpf.runtime.meta import now
from dpf_api.dpu import DPU
from dpf_api.dpucluster import DPUCluster
from dpf_api.names import LEFT_NODE

LONGEST_NAME = 63
"""Of a label or annotation behind its prefix, and of a host name: no card can have joined under a longer one."""


class Left(NamedTuple):
    """A Node that may be left: since when, and the public part of the token that its card was given."""

    name: str
    at: datetime
    token: str


async def record(client: Client, cluster: DPUCluster, dpu: DPU) -> None:
    """Puts it on record that the DPU's Node may be left in the cluster; a cluster that is gone by now needs no record."""
    if len(dpu.name) > LONGEST_NAME:
        return
    install = dpu.status.install
    token = join.token_id(dpu.uid, install.attempt) if install is not None else ""
    value = json.dumps({"at": now().replace(microsecond=0).isoformat(), "token": token})
    try:
        await client.merge_patch(cluster, {"metadata": {"annotations": {f"{LEFT_NODE}/{dpu.name}": value}}})
    except NotFound:
        return


def recorded(cluster: DPUCluster) -> Iterator[Left]:
    """What is on record; what can't be read was not written here, and is left alone."""
    for key, value in cluster.annotations.items():
        prefix, _, name = key.partition("/")
        if prefix != LEFT_NODE:
            continue
        try:
            found = json.loads(value)
            left = Left(name, datetime.fromisoformat(found["at"]), str(found.get("token", "")))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        if left.at.tzinfo is not None:  # else it can't be compared with when a Node was made
            yield left


async def remove(client: Client, remote: Client, cluster: DPUCluster, dpus: Informer[DPU]) -> list[str]:
    """Removes what is left in a cluster that answers, and then its record.

    :returns: the Nodes that were removed.
    :raises ApiError: if the cluster does not let it be done; what is on record stays there.
    """
    removed = []
    for left in recorded(cluster):
        owners = dpus.by(indexes.NODE, f"{cluster.key}/{left.name}")
        if not any(_flashed(each, left.at) for each in owners) and await _remove(remote, left):
            removed.append(left.name)
        if left.token:
            await join.delete_token(remote, left.name, left.token)
        await client.merge_patch(cluster, {"metadata": {"annotations": {f"{LEFT_NODE}/{left.name}": None}}})
    return removed


async def _remove(remote: Client, left: Left) -> bool:
    try:
        node = await remote.get(Node, left.name)
    except NotFound:
        return False
    made = node.metadata.creation_timestamp
    if made is None or made > left.at:
        return False
    await remote.delete(node)
    return True


def _flashed(dpu: DPU, since: datetime) -> bool:
    """Whether the DPU's card was flashed since then, so that the Node of its name is its own."""
    install = dpu.status.install
    return install is not None and install.finished_at is not None and install.finished_at >= since
