"""Nodes that are left in a cluster, as its DPUCluster has them on record."""

from __future__ import annotations

import json

import pytest

from dpf.provisioning.leftnodes import recorded
from dpf_api.names import LEFT_NODE
from test.unit.provisioning.worlds import cluster

GOOD = {"at": "2026-01-01T00:00:00+00:00", "token": "abcdef"}


@pytest.mark.parametrize(
    "value",
    [
        json.dumps({"at": "2026-01-01T00:00:00", "token": "abcdef"}),
        json.dumps({"at": "2026-01-01"}),
        json.dumps({"at": 5}),
        json.dumps({}),
        "[]",
        "x",
    ],
)
def test_a_record_that_somebody_edited_is_left_alone_and_harms_no_other(value: str) -> None:
    annotations = {f"{LEFT_NODE}/edited": value, f"{LEFT_NODE}/d1": json.dumps(GOOD)}
    found = cluster()
    subject = found.model_copy(update={"metadata": found.metadata.model_copy(update={"annotations": annotations})})
    assert [(left.name, left.token) for left in recorded(subject)] == [("d1", "abcdef")]
