"""The cache's guarantees, fed by hand."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dpf.runtime.client import UnreadableObject, decode
from dpf.runtime.informer import ORIGIN, Change, Index, Informer
from dpf.runtime.meta import Key, LabelSelector
from dpf.runtime.testing import Reads
from test.unit.runtime.widgets import Widget, raw

A = Key("n", "a")
ROOT = Path(__file__).parents[3]


def told(informer: Informer[Widget]) -> list[tuple[str, str]]:
    """Records type and name of each change from now on."""
    changes: list[tuple[str, str]] = []
    informer.add_handler(lambda change: changes.append((change.type, change.key.name)))
    return changes


async def test_a_relist_swaps_the_store_then_tells_adds_changes_and_what_vanished() -> None:
    informer = Informer(Widget)
    informer.replace([raw("a", 1), raw("b", 2)], 2)
    seen: list[tuple[str, str, int]] = []
    last: list[int] = []

    def handler(change: Change[Widget]) -> None:
        seen.append((change.type, change.key.name, len(informer)))
        if change.type == "DELETED" and change.old is not None:
            last.append(change.old.spec.size)

    informer.add_handler(handler)
    informer.apply("MODIFIED", raw("a", 3, size=7))
    seen.clear()
    informer.replace([raw("b", 5), raw("c", 6), raw("d", 3)], 6)
    assert sorted(seen) == [
        ("ADDED", "c", 3),
        ("ADDED", "d", 3),
        ("DELETED", "a", 3),
        ("MODIFIED", "b", 3),
    ]
    assert last == [7], "as it was last known"


async def test_an_older_version_never_replaces_a_newer_one() -> None:
    informer = Informer(Widget)
    informer.replace([raw("a", 5, size=5)], 5)
    changes = told(informer)
    changes.clear()
    older = raw("a", 4, size=4)
    informer.apply("MODIFIED", older)
    informer.wrote(older, decode(Widget, older))
    informer.replace([older], 5)
    assert informer.get("a", "n").spec.size == 5  # type: ignore[union-attr]
    assert changes == []


async def test_a_write_is_readable_at_once_and_its_echo_is_told_to_nobody() -> None:
    informer = Informer(Widget)
    informer.replace([raw("a", 5, size=5)], 5)
    changes = told(informer)
    changes.clear()
    written = raw("a", 7, size=7)
    informer.wrote(written, decode(Widget, written))
    assert informer.get("a", "n").spec.size == 7  # type: ignore[union-attr]
    informer.apply("MODIFIED", raw("a", 6, size=6))
    informer.apply("MODIFIED", written)
    assert informer.get("a", "n").spec.size == 7  # type: ignore[union-attr]
    assert changes == [("MODIFIED", "a")]


async def test_the_cache_tells_whether_it_is_past_a_version() -> None:
    informer = Informer(Widget)
    informer.replace([raw("a", 5)], 5)
    record = next(iter(informer._records.values()))
    assert [informer.past(A, record.uid, version) for version in (4, 5, 6)] == [True, False, False]
    assert informer.past(A, "of a namesake", 6), "whose uid is not there any more is gone"
    unseen = Key("n", "b")
    assert [informer.past(unseen, "b", version) for version in (4, 5)] == [True, False], "it may still come"
    informer.apply("DELETED", raw("a", 9))
    assert informer.past(A, record.uid, 8)


async def test_a_write_that_the_watch_has_overtaken_does_not_bring_the_object_back() -> None:
    informer = Informer(Widget)
    informer.replace([raw("a", 5)], 5)
    informer.apply("DELETED", raw("a", 9))
    late = raw("a", 7)
    informer.wrote(late, decode(Widget, late))
    assert informer.get("a", "n") is None


async def test_a_delete_of_ours_hides_the_object_though_older_events_still_come() -> None:
    informer = Informer(Widget)
    informer.replace([raw("a", 5)], 5)
    changes = told(informer)
    changes.clear()
    informer.removed(informer.get("a", "n"))  # type: ignore[arg-type]
    informer.apply("MODIFIED", raw("a", 6))
    assert A not in informer
    informer.apply("DELETED", raw("a", 8))
    informer.apply("ADDED", raw("a", 9, uid="another"))
    assert changes == [("DELETED", "a"), ("ADDED", "a")]


async def test_a_delete_of_ours_hides_the_object_from_a_list_that_still_has_it() -> None:
    informer = Informer(Widget)
    informer.replace([raw("a", 5), raw("b", 6)], 6)
    changes = told(informer)
    changes.clear()
    informer.removed(informer.get("a", "n"))  # type: ignore[arg-type]
    informer.replace([raw("a", 5), raw("b", 6)], 7)
    informer.apply("MODIFIED", raw("a", 8))
    assert A not in informer
    informer.replace([raw("b", 6)], 9)
    assert informer._deleted_here == set(), "nothing is remembered for ever"
    informer.apply("ADDED", raw("a", 10, uid="another"))
    assert changes == [("DELETED", "a"), ("ADDED", "a")]


async def test_a_list_of_a_server_that_was_restored_is_taken_as_it_is() -> None:
    informer = Informer(Widget)
    informer.replace([raw("a", 500, size=5), raw("b", 510), raw("c", 2)], 520)
    informer.removed(informer.get("c", "n"))  # type: ignore[arg-type]
    changes = told(informer)
    changes.clear()
    informer.replace([raw("a", 300, size=3), raw("c", 2)], 310)
    assert informer.watched_version == 310
    assert [(w.name, w.spec.size) for w in informer.list()] == [("a", 3), ("c", 1)]
    assert sorted(changes) == [("ADDED", "c"), ("DELETED", "b"), ("MODIFIED", "a")]
    informer.apply("MODIFIED", raw("a", 311, size=4))
    assert informer.get("a", "n").spec.size == 4  # type: ignore[union-attr]


async def test_a_relist_looks_only_at_what_changed() -> None:
    looked_at: list[str] = []

    def by_size(obj: Widget) -> Iterable[str]:
        looked_at.append(obj.name)
        return [str(obj.spec.size)]

    informer = Informer(Widget)
    informer.add_index(Index("size", by_size))
    informer.replace([raw("a", 1), raw("b", 2)], 2)
    looked_at.clear()
    informer.replace([raw("a", 1), raw("b", 3)], 3)
    assert looked_at == ["b"]


async def test_our_own_newer_write_survives_a_relist_that_does_not_know_it() -> None:
    informer = Informer(Widget)
    informer.replace([], 5)
    for body in (raw("a", 6), raw("a", 8, size=8)):
        informer.wrote(body, decode(Widget, body))
    informer.replace([raw("a", 6)], 6)
    assert informer.get("a", "n").spec.size == 8  # type: ignore[union-attr]
    informer.replace([], 7)
    assert A in informer
    informer.replace([], 9)
    assert A not in informer


@pytest.mark.parametrize("how", ["watch", "list", "write"])
async def test_made_again_under_the_same_name_is_a_deletion_and_an_addition(how: str) -> None:
    informer = Informer(Widget)
    informer.replace([raw("a", 1, uid="first")], 1)
    changes = told(informer)
    changes.clear()
    again = raw("a", 3, uid="second")
    if how == "watch":
        informer.apply("MODIFIED", again)
    elif how == "list":
        informer.replace([again], 3)
    else:
        informer.wrote(again, decode(Widget, again))
    informer.apply("DELETED", raw("a", 2, uid="first"))
    assert changes == [("DELETED", "a"), ("ADDED", "a")]
    assert A in informer, "that the first one went is no news of the second"


async def test_an_object_the_model_cannot_read_is_reported_once_and_stops_nobody() -> None:
    informer = Informer(Widget)
    reported: list[tuple[Key, UnreadableObject]] = []
    informer.on_unreadable = lambda key, _, error: reported.append((key, error))
    informer.replace([raw("a", 1, size="not a number"), raw("b", 2)], 2)
    assert [w.name for w in informer.list()] == ["b"]
    assert informer.get("a", "n") is None
    assert A in informer
    [(key, error)] = reported
    assert key == A
    assert "spec.size" in str(error)
    informer.apply("MODIFIED", raw("a", 3, size=3))
    assert informer.get("a", "n") is not None


async def test_a_handler_that_raises_does_not_keep_others_from_being_told() -> None:
    informer = Informer(Widget)

    def broken(_: Change[Any]) -> None:
        raise RuntimeError("a controller's mistake")

    informer.add_handler(broken)
    changes = told(informer)
    informer.apply("ADDED", raw("a", 1))
    assert changes == [("ADDED", "a")]


async def test_an_index_function_that_raises_does_not_stop_the_stream() -> None:
    def broken(obj: Widget) -> Iterable[str]:
        if obj.spec.size > 1:
            raise RuntimeError("a controller's mistake")
        return ["x"]

    informer = Informer(Widget)
    index = Index("broken", broken)
    informer.add_index(index)
    informer.apply("ADDED", raw("a", 1))
    assert informer.keys_by(index, "x") == [A]
    informer.apply("MODIFIED", raw("a", 2, size=2))
    assert A in informer
    assert informer.keys_by(index, "x") == [], "what it was found by before says nothing of what it is now"


async def test_an_index_function_that_gives_a_value_twice_gives_it_once() -> None:
    informer = Informer(Widget)
    index = Index[Widget]("twice", lambda obj: ["x", "x"] if obj.spec.size == 1 else [])
    informer.add_index(index)
    informer.apply("ADDED", raw("a", 1))
    assert informer.keys_by(index, "x") == [A]
    informer.apply("MODIFIED", raw("a", 2, size=2))
    assert informer.keys_by(index, "x") == []
    informer.apply("DELETED", raw("a", 3))
    assert A not in informer


async def test_store_and_indexes_have_changed_before_a_handler_is_told() -> None:
    informer = Informer(Widget)
    informer.add_index(SIZE)
    informer.replace([], 1)
    seen: list[tuple[str, bool, int, str]] = []

    def handler(change: Change[Widget]) -> None:
        last = (change.new_meta or change.old_meta).resource_version  # type: ignore[union-attr]
        seen.append((change.type, A in informer, informer.count_by(SIZE, "1"), last))

    informer.add_handler(handler)
    informer.apply("ADDED", raw("a", 2))
    informer.apply("DELETED", raw("a", 3))
    assert seen == [("ADDED", True, 1, "2"), ("DELETED", False, 0, "3")], "a deletion names the version it is gone at"
    seen.clear()
    informer.replace([raw("a", 4)], 4)
    informer.replace([], 5)
    assert seen == [("ADDED", True, 1, "4"), ("DELETED", False, 0, "4")], "by lists too, which show no such version"


async def test_a_late_handler_first_gets_all_that_is_there() -> None:
    informer = Informer(Widget)
    informer.replace([raw("a", 1), raw("b", 2)], 2)
    assert sorted(told(informer)) == [("ADDED", "a"), ("ADDED", "b")]


async def test_a_replay_tells_every_object_as_a_change_to_itself() -> None:
    informer = Informer(Widget)
    informer.replace([raw("a", 1), raw("b", 1)], 1)
    seen: list[Change[Widget]] = []
    informer.add_handler(seen.append)
    seen.clear()
    informer.replay()
    assert [(c.type, c.old, c.new) for c in seen] == [("MODIFIED", each, each) for each in informer.list()]


async def test_a_model_is_made_once_per_version_while_somebody_holds_it() -> None:
    informer = Informer(Widget)
    informer.replace([raw("a", 1)], 1)
    held = informer.get("a", "n")
    assert informer.get("a", "n") is held
    informer.apply("MODIFIED", raw("a", 2))
    assert informer.get("a", "n") is not held
    written = decode(Widget, raw("a", 3))
    informer.wrote(raw("a", 3), written)
    assert informer.get("a", "n") is written


async def test_what_is_read_cannot_be_changed() -> None:
    informer = Informer(Widget)
    informer.replace([raw("a", 1)], 1)
    with pytest.raises(ValueError, match="frozen"):
        informer.get("a", "n").spec = None  # type: ignore[union-attr, misc]


async def test_whoever_changes_what_he_read_fails_his_test(reads: Reads) -> None:
    informer = Informer(Widget)
    informer.replace([raw("a", 1), raw("b", 2)], 2)
    read = informer.list()
    assert reads.changed() == []
    read[0].labels["mine"] = "yes"
    assert reads.changed() == [read[0]]


def test_so_in_all_tests_though_they_ask_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_careless.py").write_text(
        "from dpf.runtime.informer import Informer\n"
        "from test.unit.runtime.widgets import Widget, raw\n"
        "def test_careless():\n"
        "    informer = Informer(Widget)\n"
        "    informer.replace([raw('a', 1)], 1)\n"
        "    informer.get('a', 'n').labels['mine'] = 'yes'\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "test.conftest", "-p", "no:cacheprovider", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "somebody changed what is in the cache" in ended.stdout


async def test_an_object_at_rest_is_its_bytes_and_a_record_that_the_collector_does_not_walk(reads: Reads) -> None:
    informer = Informer(Widget)
    informer.add_index(SIZE)
    body = raw("a", 1)
    informer.replace([body], 1)
    [record] = informer._records.values()
    assert not gc.is_tracked(record)
    assert record.raw is body
    assert record.view is not None, "these tests hold what they read"
    reads.forget()
    assert record.view is None
    model = decode(Widget, body)
    record.view = weakref.ref(model, record.forget_view)
    del model
    assert record.view is None, "a model that nobody holds is let go"


async def test_selectors_and_namespaces_narrow_what_is_read() -> None:
    informer = Informer(Widget)
    informer.replace([raw("a", 1, labels={"x": "1"}), raw("b", 2, labels={"x": "2"}), raw("c", 3, namespace="m")], 3)
    assert [w.name for w in informer.matching({"x": "1"})] == ["a"]
    assert [
        w.name
        for w in informer.matching(
            LabelSelector.model_validate({"matchExpressions": [{"key": "x", "operator": "Exists"}]})
        )
    ] == ["a", "b"]
    assert [w.name for w in informer.matching(None, "m")] == ["c"]


SIZE: Index[Widget] = Index("size", lambda w: [str(w.spec.size)] if w.spec.size else [])
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["ADDED", "MODIFIED", "DELETED", "WROTE", "RELIST"]), st.sampled_from("abc"), st.integers(0, 2)
    ),
    max_size=30,
)


@given(EVENTS)
@example([("ADDED", "a", 1), ("MODIFIED", "a", 2), ("MODIFIED", "a", 1)])
async def test_an_index_always_agrees_with_the_store(events: list[tuple[str, str, int]]) -> None:
    informer = Informer(Widget)
    informer.add_index(SIZE)
    informer.replace([], 1)
    for version, (event, name, size) in enumerate(events, start=2):
        body = raw(name, version, size=size)
        if event == "WROTE":
            informer.wrote(body, decode(Widget, body))
        elif event == "RELIST":
            informer.replace([body], version)
        else:
            informer.apply(event, body)
    for size in range(3):
        expected = sorted(w.key for w in informer.list() if w.spec.size == size and size)
        assert informer.keys_by(SIZE, str(size)) == expected
        assert informer.count_by(SIZE, str(size)) == len(expected)
    assert all(informer._tables[SIZE.name].keys.values()), "a value without objects is forgotten"


async def test_a_locked_write_tells_who_made_it_unless_something_else_happened_in_between() -> None:
    informer = Informer(Widget)
    informer.replace([raw("a", 5)], 5)
    seen: list[object] = []
    informer.add_handler(lambda change: seen.append(change.origin))
    seen.clear()
    token = ORIGIN.set("me")
    informer.wrote(raw("a", 6), decode(Widget, raw("a", 6)), based_on="5")
    informer.wrote(raw("a", 8), decode(Widget, raw("a", 8)), based_on="7")
    informer.wrote(raw("a", 9), decode(Widget, raw("a", 9)))
    ORIGIN.reset(token)
    assert seen == ["me", None, None]
