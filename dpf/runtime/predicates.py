"""Predicates: which changes are worth waking a controller for. The first list is always told, whatever they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dpf.runtime.informer import Change

Predicate = Callable[[Change[Any]], bool]


def any_of(*predicates: Predicate) -> Predicate:
    """Holds if one of them does."""
    return lambda change: any(predicate(change) for predicate in predicates)


def all_of(*predicates: Predicate) -> Predicate:
    """Holds if all of them do."""
    return lambda change: all(predicate(change) for predicate in predicates)


def differs(of: Callable[[Any], object]) -> Predicate:
    """Holds for an addition or deletion, and where ``of`` gives another value for the object than before."""

    def changed(change: Change[Any]) -> bool:
        old, new = change.old, change.new
        return old is None or new is None or of(old) != of(new)

    return changed


def generation_changed(change: Change[Any]) -> bool:
    """The spec changed (the server counts), or the object came or went; a status write is not seen."""
    old, new = change.old_meta, change.new_meta
    return old is None or new is None or old.generation != new.generation


def spec_or_deletion_changed(change: Change[Any]) -> bool:
    """As :func:`generation_changed`, and when deletion was asked for, or annotations or finalizers changed."""
    old, new = change.old_meta, change.new_meta
    if old is None or new is None:
        return True
    return (old.generation, old.deletion_timestamp, old.annotations, old.finalizers) != (
        new.generation,
        new.deletion_timestamp,
        new.annotations,
        new.finalizers,
    )


def labels_changed(change: Change[Any]) -> bool:
    """The labels changed, or the object came or went."""
    old, new = change.old_meta, change.new_meta
    return old is None or new is None or old.labels != new.labels
