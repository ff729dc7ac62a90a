"""A cache of one kind, kept by a watch, read synchronously.

What it guarantees:

* An object is stored as bytes (see :mod:`dpf.runtime.wire`); its model is made when somebody reads it, once per
  resourceVersion while anybody holds it. A read is a snapshot: nothing can change it.
* Store and indexes change before handlers are called; for one object handlers see versions in order, never an older one
  after a newer one. Between objects there is no order.
* A relist swaps the whole store in one step and then tells of adds, changes and deletions; what vanished unseen is told as
  ``DELETED`` with the last known object.
* Read your own writes: what a write through the cluster's client returned is in the cache when the write returns. The echo
  that the watch brings later is recognised by its version and told to nobody. A write that the watch has overtaken
  is dropped, so a deleted object does not come back; nor does one that was deleted here by a list that still has it.
* A list that is older than what the watch has shown comes of a server restored from a backup. It is taken as it is: nothing
  that was known counts as newer.
* A reconcile is not woken by its own write if that was locked on the version it had read: then nothing else can have happened
  in between. :attr:`Change.origin` says who wrote.
* Deleted and made again under the same name is told as a deletion and an addition, though the watch may show one change.
* An object that its model cannot read is kept, counted and told to :attr:`Informer.on_unreadable`; reads leave it out.
* A handler or index function that raises does not stop the stream: it is logged with the object's key. An object whose index
  function raised has no value in that index.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from sys import intern
from typing import Any, Generic

import msgspec

from dpf.runtime import wire
from dpf.runtime.client import UnreadableObject, decode
from dpf.runtime.log import get_logger
from dpf.runtime.meta import Key, LabelSelector, Object, T

log = get_logger(__name__)

_List = list  # the class below has a method of that name

Header = wire.Header

ORIGIN: ContextVar[object | None] = ContextVar("origin", default=None)
"""Who writes: a controller sets it for each reconcile. Told with changes that came of a locked write and of nothing else."""


class Record(msgspec.Struct, gc=False):
    """One version of an object in the store. There is one for every object of a cluster, so it holds what is needed often."""

    key: Key
    version: int
    raw: bytes
    view: Any = None
    """A weak reference to the model while somebody holds it; False if the model cannot read it."""

    @property
    def uid(self) -> str:
        return wire.identity(self.raw).uid

    def forget_view(self, _: object) -> None:
        self.view = None


class Change(Generic[T]):
    """What happened to an object: ``type`` is ADDED, MODIFIED or DELETED. Models and metadata are decoded when asked for."""

    __slots__ = (
        "_informer",
        "_new",
        "_new_view",
        "_old",
        "_old_view",
        "initial",
        "key",
        "origin",
        "type",
    )

    def __init__(
        self,
        informer: Informer[T],
        kind: str,
        old: Record | None,
        new: Record | None,
        *,
        initial: bool = False,
        origin: object | None = None,
    ) -> None:
        self._informer = informer
        self._old = old
        self._new = new
        # Held for as long as the change is told, so that several handlers pay for one model.
        self._old_view: T | None = None
        self._new_view: T | None = None
        self.type = kind
        self.key: Key = (new or old).key  # type: ignore[union-attr]
        self.initial = initial
        """Part of the first list, or of a replay: nobody need hurry."""
        self.origin = origin
        """What :data:`ORIGIN` was, if this is nothing but the effect of a locked write made there."""

    @property
    def old(self) -> T | None:
        """The object before the change; None if it is new or unreadable."""
        if self._old_view is None:
            self._old_view = self._informer.view(self._old)
        return self._old_view

    @property
    def new(self) -> T | None:
        """The object after the change; None if it is gone or unreadable."""
        if self._new_view is None:
            self._new_view = self._informer.view(self._new)
        return self._new_view

    @property
    def old_meta(self) -> Header | None:
        return wire.header(self._old.raw) if self._old is not None else None

    @property
    def new_meta(self) -> Header | None:
        return wire.header(self._new.raw) if self._new is not None else None


Handler = Callable[[Change[Any]], None]


@dataclass(frozen=True)
class Index(Generic[T]):
    """A way to find objects: by each value that ``of`` gives for them. It must depend on nothing but the object."""

    name: str
    of: Callable[[T], Iterable[str]]


class _IndexTable:
    """Values to keys, and back so that a change takes out what it put in. A value without keys is forgotten."""

    def __init__(self, index: Index[Any]) -> None:
        self.index = index
        self.keys: dict[str, set[Key]] = {}
        self._values: dict[Key, tuple[str, ...]] = {}

    def put(self, key: Key, obj: Any) -> None:
        # Once each, whatever the function gives.
        values = tuple(dict.fromkeys(self.index.of(obj))) if obj is not None else ()
        old = self._values.get(key, ())
        if values == old:
            return
        for value in old:
            members = self.keys[value]
            members.discard(key)
            if not members:
                del self.keys[value]
        for value in values:
            self.keys.setdefault(value, set()).add(key)
        if values:
            self._values[key] = values
        else:
            self._values.pop(key, None)


class Informer(Generic[T]):
    """The cache of one kind in one cluster. A reflector feeds it; see :mod:`dpf.runtime.reflector`."""

    def __init__(self, kind: type[T]) -> None:
        self.kind = kind
        self.synced = asyncio.Event()
        """Set once the first list is in the store and its handlers have been told."""
        self.on_unreadable: Callable[[Key, str, UnreadableObject], None] | None = None
        """Called once per version of an object that its model can't read, with key, uid and error."""
        self.watched_version = 0
        """The newest version that the watch has shown: every change up to it is in the store."""
        self.restored = 0
        """How often the server was found restored from a backup: versions of before are compared with none of after."""
        self._records: dict[Key, Record] = {}
        self._tables: dict[str, _IndexTable] = {}
        self._handlers: list[Handler] = []
        self._deleted_here: set[str] = set()
        """Uids of what was deleted here and has not been shown as deleted yet."""

    # Reading

    def get(self, name: str, namespace: str = "") -> T | None:
        """The object, or None."""
        return self.view(self._records.get(Key(namespace, name)))

    def __contains__(self, key: Key) -> bool:
        return key in self._records

    def __len__(self) -> int:
        return len(self._records)

    def keys(self) -> Iterator[Key]:
        """The keys of all objects, readable or not."""
        return iter(self._records)

    def raws(self) -> Iterator[bytes]:
        """The JSON of all objects as they are now; no model is made of any."""
        return iter([record.raw for record in self._records.values()])

    def list(self, namespace: str | None = None) -> _List[T]:
        """All objects, or those of a namespace."""
        records = [r for r in self._records.values() if namespace is None or r.key.namespace == namespace]
        return self._views(records)

    def matching(self, selector: LabelSelector | Mapping[str, str] | None, namespace: str | None = None) -> _List[T]:
        """Objects whose labels satisfy the selector; None selects all."""
        if isinstance(selector, Mapping):
            selector = LabelSelector(match_labels=dict(selector))
        if selector is None:
            return self.list(namespace)
        return self._views(
            record
            for record in self._records.values()
            if (namespace is None or record.key.namespace == namespace)
            and selector.matches(wire.header(record.raw).labels)
        )

    def add_index(self, index: Index[T]) -> None:
        """Makes objects findable by the index; what is stored already is indexed now. Twice the same is once."""
        if index.name in self._tables:
            return
        table = self._tables[index.name] = _IndexTable(index)
        for record in self._records.values():
            self._put(table, record.key, record)

    def keys_by(self, index: Index[T], value: str) -> _List[Key]:
        """Keys of the objects with that value, in order of name."""
        return sorted(self._table(index).keys.get(value, ()))

    def by(self, index: Index[T], value: str) -> _List[T]:
        """The objects with that value, in order of name."""
        return self._views(self._records[key] for key in self.keys_by(index, value))

    def count_by(self, index: Index[T], value: str) -> int:
        """How many objects have that value; costs nothing per object."""
        return len(self._table(index).keys.get(value, ()))

    def view(self, record: Record | None) -> T | None:
        """The model of a record, made once per version."""
        if record is None or record.view is False:
            return None
        if record.view is not None and (obj := record.view()) is not None:
            return obj  # type: ignore[no-any-return]
        try:
            obj = decode(self.kind, record.raw)
        except UnreadableObject as error:
            record.view = False
            log.warning("object_unreadable", kind=self.kind.RESOURCE.kind, object=str(record.key), error=str(error))
            if self.on_unreadable is not None:
                self.on_unreadable(record.key, record.uid, error)
            return None
        record.view = weakref.ref(obj, record.forget_view)
        return obj

    def header(self, key: Key) -> Header | None:
        """The metadata of an object, readable or not."""
        record = self._records.get(key)
        return wire.header(record.raw) if record is not None else None

    def past(self, key: Key, uid: str, version: int) -> bool:
        """Whether the store is past a version of an object: it has a newer one, or knows that the object is gone."""
        record = self._records.get(key)
        if record is None:
            return self.watched_version > version
        return record.uid != uid or record.version > version

    # Being told

    def add_handler(self, handler: Handler) -> None:
        """Calls the handler for every change from now on, and first for all that is there, as additions."""
        self._handlers.append(handler)
        for record in list(self._records.values()):
            self._call(handler, Change(self, "ADDED", None, record, initial=True))

    def replay(self) -> None:
        """Tells all handlers of every object again, as a change to itself (the resync of client-go). No request is made."""
        for record in list(self._records.values()):
            self._tell(Change(self, "MODIFIED", record, record, initial=True))

    # Being fed by the reflector

    def replace(self, raws: Iterable[bytes], version: int) -> None:
        """Makes the store what a list showed, in one step, then tells the differences."""
        old, fresh = self._records, {}
        restored = version < self.watched_version
        self.restored += restored
        hidden, self._deleted_here = set() if restored else self._deleted_here, set()
        for raw in raws:
            record = _record(raw, wire.identity(raw))
            if hidden and (uid := record.uid) in hidden:
                self._deleted_here.add(uid)
                continue
            known = old.get(record.key)
            # Our own write may be newer than the list.
            ours = known is not None and known.version >= record.version and known.uid == record.uid and not restored
            fresh[record.key] = known if ours and known is not None else record
        for key, known in old.items():
            if key not in fresh and known.version > version and not restored:
                fresh[key] = known
        self._records = fresh
        self.watched_version = version
        for key in old.keys() | fresh.keys():
            if old.get(key) is not fresh.get(key):
                self._reindex(key, fresh.get(key))
        initial = not self.synced.is_set()
        for key, known in old.items():
            if key not in fresh:
                self._tell(Change(self, "DELETED", known, None))
        for key, record in fresh.items():
            before = old.get(key)
            remade = before is not None and before is not record and before.uid != record.uid
            self._changed(before, record, remade=remade, initial=initial)
        self.synced.set()

    def apply(self, event_type: str, raw: bytes | msgspec.Raw) -> None:
        """Takes one event of the watch: ADDED, MODIFIED or DELETED.

        :raises wire.DecodeError: if it is no object of the kind.
        """
        identity = wire.place(raw, self.kind.RESOURCE.kind)
        version = wire.version_of(identity.resource_version)
        self.bookmark(version)
        known = self._records.get(Key(identity.namespace, identity.name))
        if event_type == "DELETED":
            self._deleted_here.discard(identity.uid)
            if known is not None and known.uid == identity.uid:
                self._remove(known, _record(wire.slim(raw), identity))
            return
        # The echo of our own write, and what is older than it, is known: most events of a busy controller.
        stale = known is not None and known.version >= version
        if not stale and identity.uid not in self._deleted_here:
            remade = known is not None and known.uid != identity.uid
            self._store(known, _record(wire.slim(raw), identity), remade=remade)

    def bookmark(self, version: int) -> None:
        """Takes that the watch has shown everything up to a version."""
        self.watched_version = max(self.watched_version, version)

    # Being told of this process's own writes

    def wrote(self, raw: bytes, obj: T, based_on: str = "") -> None:
        """Takes what a write returned, unless the watch is ahead of it.

        :param based_on: the resourceVersion that the write was locked on, if it was.
        """
        key, uid, version = obj.key, obj.uid, wire.version_of(obj.metadata.resource_version)
        known = self._records.get(key)
        if version <= (known.version if known is not None else self.watched_version):
            return
        if uid in self._deleted_here or (known is None and not self.synced.is_set()):
            return
        record = Record(Key(intern(key.namespace), key.name), version, raw)
        record.view = weakref.ref(obj, record.forget_view)
        only_ours = known is not None and based_on != "" and known.version == wire.version_of(based_on)
        # What a lock held on is the same object.
        remade = known is not None and not only_ours and known.uid != uid
        self._store(known, record, remade=remade, origin=ORIGIN.get() if only_ours else None)

    def removed(self, obj: Object) -> None:
        """Takes that a delete of ours removed the object for good; older events of it that still come are dropped."""
        known = self._records.get(obj.key)
        if known is not None and (not obj.uid or known.uid == obj.uid):
            self._deleted_here.add(known.uid)
            self._remove(known, known)

    # Within

    def _store(self, known: Record | None, record: Record, *, remade: bool, origin: object | None = None) -> None:
        self._records[record.key] = record
        self._reindex(record.key, record)
        self._changed(known, record, remade=remade, origin=origin)

    def _remove(self, known: Record, last: Record) -> None:
        del self._records[known.key]
        self._reindex(known.key, None)
        self._tell(Change(self, "DELETED", last, None))

    def _changed(
        self,
        known: Record | None,
        record: Record,
        *,
        remade: bool,
        initial: bool = False,
        origin: object | None = None,
    ) -> None:
        """Tells of a record in another's place.

        :param remade: whether that was of another object of the same name.
        """
        if known is record:
            return
        if known is not None and remade:
            self._tell(Change(self, "DELETED", known, None))
            known = None
        kind = "ADDED" if known is None else "MODIFIED"
        self._tell(Change(self, kind, known, record, initial=initial, origin=origin))

    def _tell(self, change: Change[T]) -> None:
        for handler in self._handlers:
            self._call(handler, change)

    def _call(self, handler: Handler, change: Change[T]) -> None:
        try:
            handler(change)
        except Exception:
            log.exception("handler_failed", kind=self.kind.RESOURCE.kind, object=str(change.key))

    def _reindex(self, key: Key, record: Record | None) -> None:
        for table in self._tables.values():
            self._put(table, key, record)

    def _put(self, table: _IndexTable, key: Key, record: Record | None) -> None:
        try:
            table.put(key, self.view(record))
        except Exception:
            log.exception("index_failed", index=table.index.name, kind=self.kind.RESOURCE.kind, object=str(key))
            table.put(key, None)

    def _table(self, index: Index[T]) -> _IndexTable:
        try:
            return self._tables[index.name]
        except KeyError:
            raise LookupError(f"{self.kind.__name__} has no index {index.name!r}: call add_index first") from None

    def _views(self, records: Iterable[Record]) -> _List[T]:
        return [obj for record in records if (obj := self.view(record)) is not None]


def _record(raw: bytes, identity: wire.Identity) -> Record:
    return Record(Key(intern(identity.namespace), identity.name), wire.version_of(identity.resource_version), raw)
