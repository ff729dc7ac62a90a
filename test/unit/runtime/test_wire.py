"""Reading the wire without models."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpf.runtime import wire
from test.unit.runtime.widgets import too_deep

OBJECT = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "p",
        "namespace": "n",
        "uid": "u",
        "resourceVersion": "42",
        "labels": {"a": "b"},
        "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
        "ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "xu", "controller": True}],
    },
    "spec": {"managedFields": "not metadata"},
}


def test_slim_drops_managed_fields_of_the_metadata_and_nothing_else() -> None:
    slimmed = orjson.loads(wire.slim(orjson.dumps(OBJECT)))
    expected = {**OBJECT, "metadata": {k: v for k, v in OBJECT["metadata"].items() if k != "managedFields"}}  # type: ignore[attr-defined]
    assert slimmed == expected


def test_the_header_tells_what_predicates_need() -> None:
    header = wire.header(wire.slim(orjson.dumps(OBJECT)))
    assert (header.key, header.uid, header.labels) == (("n", "p"), "u", {"a": "b"})
    assert [(owner.kind, owner.name, owner.controller) for owner in header.owner_references] == [("X", "x", True)]


def test_versions_compare_as_numbers_of_any_length() -> None:
    ordered = ["9", "10", str(2**64 - 1), str(2**64), "1" * 40]
    assert sorted(ordered, key=wire.version_of) == ordered
    assert wire.version_of("") == 0


@given(st.lists(st.binary(min_size=1).filter(lambda line: b"\n" not in line)), st.integers(1, 7))
def test_lines_come_out_whole_however_the_stream_is_cut(lines: list[bytes], size: int) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    splitter = wire.LineSplitter()
    chunks = [stream[i : i + size] for i in range(0, len(stream), size)]
    assert [line for chunk in chunks for line in splitter.feed(chunk)] == lines


def test_a_list_is_split_without_reading_its_items() -> None:
    body = orjson.dumps({"metadata": {"resourceVersion": "7", "continue": "more"}, "items": [OBJECT, OBJECT]})
    items, version, more = wire.split_list(body)
    assert (len(items), version, more) == (2, "7", "more")
    assert wire.identity(items[0]).name == "p"


@pytest.mark.parametrize("body", [b"<html>bad gateway</html>", b"", b"[1]"])
def test_an_answer_that_is_no_status_becomes_a_message(body: bytes) -> None:
    assert wire.status(body).code == 0


def test_what_is_nested_too_deeply_is_like_anything_else_that_cannot_be_read() -> None:
    deep = too_deep("a", 5)
    with pytest.raises(wire.DecodeError):
        wire.header(deep)
    with pytest.raises(wire.DecodeError):
        wire.identity(deep)
    with pytest.raises(wire.DecodeError):
        wire.place(deep, "Widget")
    with pytest.raises(wire.DecodeError):
        wire.slim(deep)
    with pytest.raises(wire.DecodeError):
        wire.watch_event(b'{"type": "ADDED", "object": %b}' % deep)
    with pytest.raises(wire.DecodeError):
        wire.split_list(b'{"metadata": {"resourceVersion": "7"}, "items": [%b]}' % deep)
    assert wire.status(deep).kind == ""
