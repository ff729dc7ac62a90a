"""5,000 manifests through all that reads them: models, admission, decisions. Whatever is wrong is refused in plain words."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpf.runtime.client import UnreadableObject, decode
from dpf.runtime.meta import Object
from test.fuzz import decisions
from test.fuzz.manifests import KINDS, broken

EACH = 1_000
"""Manifests of each of the five kinds."""


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.RESOURCE.kind.lower())
def test_whatever_a_manifest_says_is_decided_on_or_refused_in_plain_words(kind: type[Object]) -> None:
    read = 0

    @settings(max_examples=EACH, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def every(data: st.DataObject) -> None:
        nonlocal read
        raw = decisions.stored(data.draw(broken(kind)))
        try:
            obj = decode(kind, raw)
        except UnreadableObject as error:
            if ": " not in str(error):
                raise AssertionError("a refusal that names no field") from error
            return
        read += 1
        decisions.admission(kind, orjson.loads(raw))
        decisions.controllers(obj)

    every()
    assert read > EACH // 3, "too few of them get past the models to prove anything"
