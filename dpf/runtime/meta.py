"""The shapes that every Kubernetes object shares, as frozen pydantic models.

A model is a *snapshot*: it is never changed, a new one is made. Reading ignores fields it does not know (a newer server may
send more); writing sends only what was set (:func:`to_wire`), so that what others own is left alone, a default stays the
server's business, and an explicit ``False`` arrives as ``false``.

This module imports nothing but pydantic and the library's errors, so that an API package can stand on it without pulling in
a client.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar
from urllib.parse import quote

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

from dpf.runtime.errors import NotFound, Terminal


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _rfc3339_micro(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


_FIRST, _LAST = datetime(2, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
"""What moments are cut to: a year short of what the calendar has, so that a reader may add to one and subtract from it."""


def _in_utc(moment: datetime) -> datetime:
    """The moment in UTC; one without a zone is taken to be, and one beyond :data:`_FIRST` or :data:`_LAST` is that."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if _FIRST.year < moment.year < _LAST.year:
        # All there ever are: thousands for each object that is worked on, and to compare them takes as long as all else.
        return moment.astimezone(UTC)
    return min(max(moment, _FIRST), _LAST).astimezone(UTC)


Timestamp = Annotated[datetime, AfterValidator(_in_utc), PlainSerializer(_rfc3339, return_type=str)]
"""metav1.Time: aware, written in UTC in whole seconds."""

MicroTime = Annotated[datetime, AfterValidator(_in_utc), PlainSerializer(_rfc3339_micro, return_type=str)]
"""metav1.MicroTime: aware, written in UTC with six decimals; leases and events carry it."""


def now() -> datetime:
    """The current time, aware, UTC."""
    return datetime.now(UTC)


def _quoted(part: str) -> str:
    """A part of a path; what names are made of needs no quoting, and each request has four of them.

    :raises NotFound: if a proxy on the way would take it for a step within the path: nothing has such a name.
    """
    if part in {".", ".."}:
        raise NotFound(404, "NotFound", f"{part!r} is no name")
    return part if _PLAIN.fullmatch(part) else quote(part, safe="")


_PLAIN = re.compile(r"[a-z0-9.-]+")


class Key(NamedTuple):
    """Namespace and name of an object; the namespace is empty for cluster-scoped kinds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class Resource:
    """Where a kind lives in the API: group, version, plural and whether it is namespaced."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of the collection, an object or one of its subresources; all namespaces if none is given.

        :raises NotFound: if a name is ``.`` or ``..``.
        """
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{_quoted(namespace)}" if namespace and self.namespaced else ""
        return f"{root}{scope}/{self.plural}" + "".join(f"/{_quoted(part)}" for part in (name, subresource) if part)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


class Model(BaseModel):
    """Base of every API type: frozen, camelCase on the wire, unknown fields ignored, schema built on first use."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        defer_build=True,
        protected_namespaces=(),
    )


class OwnerReference(Model):
    """metav1.OwnerReference."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False
    block_owner_deletion: bool = False


class Condition(Model):
    """metav1.Condition; ``status`` is ``True``, ``False`` or ``Unknown``."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    observed_generation: int = 0
    last_transition_time: Timestamp | None = None


class LabelSelectorRequirement(Model):
    """One expression of a label selector: In, NotIn, Exists or DoesNotExist."""

    key: str
    operator: str
    values: list[str] = Field(default_factory=list)

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels satisfy the expression; as in Kubernetes, ``NotIn`` holds where the key is absent.

        :raises Terminal: if the operator is not one of the four.
        """
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return labels.get(self.key) not in self.values
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels
        message = f"label selector operator {self.operator!r} is none of In, NotIn, Exists, DoesNotExist"
        raise Terminal("InvalidSelector", message)


class LabelSelector(Model):
    """metav1.LabelSelector; an empty one matches everything."""

    match_labels: dict[str, str] = Field(default_factory=dict)
    match_expressions: list[LabelSelectorRequirement] = Field(default_factory=list)

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels satisfy all pairs and all expressions."""
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            expression.matches(labels) for expression in self.match_expressions
        )


class ObjectMeta(Model):
    """metav1.ObjectMeta, as far as controllers read it."""

    name: str = ""
    namespace: str = ""
    generate_name: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: Timestamp | None = None
    deletion_timestamp: Timestamp | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    owner_references: list[OwnerReference] = Field(default_factory=list)
    finalizers: list[str] = Field(default_factory=list)


class Object(Model):
    """Base of every kind. A subclass names its :class:`Resource` in ``RESOURCE``."""

    RESOURCE: ClassVar[Resource]

    api_version: str = ""
    kind: str = ""
    metadata: ObjectMeta = Field(default_factory=ObjectMeta)

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def namespace(self) -> str:
        return self.metadata.namespace

    @property
    def uid(self) -> str:
        return self.metadata.uid

    @property
    def key(self) -> Key:
        return Key(self.metadata.namespace, self.metadata.name)

    @property
    def labels(self) -> dict[str, str]:
        return self.metadata.labels

    @property
    def annotations(self) -> dict[str, str]:
        return self.metadata.annotations

    @property
    def deleting(self) -> bool:
        """Whether deletion was asked for; the object lives on while finalizers hold it."""
        return self.metadata.deletion_timestamp is not None

    @property
    def controller(self) -> OwnerReference | None:
        """The one owner that manages this object, if any."""
        return next((owner for owner in self.metadata.owner_references if owner.controller), None)

    def owned_by(self, owner: Object) -> bool:
        """Whether the managing owner is this very object (by uid: a namesake made later is another)."""
        reference = self.controller
        return reference is not None and reference.uid == owner.uid


T = TypeVar("T", bound=Object)


def to_wire(model: Model) -> dict[str, Any]:
    """What to send: fields that were set and are not None, under their wire names; apiVersion and kind filled in."""
    body = model.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    if isinstance(model, Object):
        return {"apiVersion": model.RESOURCE.api_version, "kind": model.RESOURCE.kind} | body
    return body


def owner_reference(owner: Object, *, controller: bool = True, block: bool = True) -> OwnerReference:
    """A reference to ``owner``, which must have been stored (it needs a uid).

    :raises ValueError: if the owner has no uid.
    """
    if not owner.uid:
        raise ValueError(f"{owner.RESOURCE.kind} {owner.key} has no uid, so nothing can refer to it as an owner")
    resource = owner.RESOURCE
    return OwnerReference(
        api_version=resource.api_version,
        kind=resource.kind,
        name=owner.name,
        uid=owner.uid,
        controller=controller,
        block_owner_deletion=block,
    )
