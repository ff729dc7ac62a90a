"""Settings for all tests, and what holds in all of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadGroupScheduling

from dpf.runtime.informer import Informer, Record
from dpf.runtime.testing import Reads

ROOT = Path(__file__).parents[1]
GROUP = re.compile(r"^pytestmark = pytest\.mark\.xdist_group\(\"(\w+)\"\)", re.MULTILINE)

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


# pytest-xdist puts the group of a test behind its id, and pytest 9 does not heed that any more: without a word the tests of a
# group run beside each other. So here the file that a test is in tells its group; the mark is put on whole modules.


class Groups(LoadGroupScheduling):  # type: ignore[misc]
    """Sends the tests of modules with the same ``xdist_group`` to one worker."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid.partition("::")[0]) or nodeid


@cache
def _group(path: str) -> str:
    found = GROUP.search((ROOT / path).read_text())
    return found[1] if found else ""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups | None:
    """The scheduler of ``--dist loadgroup``; another one is xdist's to make."""
    return Groups(config, log) if config.getvalue("dist") == "loadgroup" else None
