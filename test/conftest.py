"""Settings for all tests, and what holds in all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from _pytest.nodeid import NodeId
from hypothesis import HealthCheck, settings

from dpf.runtime.informer import Informer, Record
from dpf.runtime.testing import Reads

# Else gRPC writes to the standard error of whatever is forked beside it. Read when it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# Time limits per example mean nothing on a noisy machine; the same examples each run keep CI's verdict reproducible.
settings.register_profile(
    "dpf",
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("dpf")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts the group of a test into its id, by which pytest-xdist gives all of a group to one worker.

    It does so itself, but in a field that pytest has not had since 9.2: what must not run at once then did.
    """
    if not config.getoption("loadgroup", default=False):
        return
    for item in items:
        for mark in item.iter_markers("xdist_group"):
            if not item.nodeid.endswith(f"@{mark.args[0]}"):
                item._id = NodeId.parse(f"{item.nodeid}@{mark.args[0]}")


@pytest.fixture(autouse=True)
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    """Fails a test in which anybody changed what he had read from a cache."""
    reads, view = Reads(), Informer.view

    def remembered(informer: Informer[Any], record: Record | None) -> Any:
        obj = view(informer, record)
        if record is not None and obj is not None:
            reads.remember(record.raw, obj)
        return obj

    monkeypatch.setattr(Informer, "view", remembered)
    yield reads
    assert reads.changed() == [], "somebody changed what is in the cache"
