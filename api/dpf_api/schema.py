"""What the API server must know of a field or a kind beyond its Python type: the marks that CRDs are generated from.

Marks are inert while a model is read or written. The server is the one that refuses; a model that refused as well could not
read an object stored before a rule was tightened, and such an object would stop the controllers that meet it.

* :class:`Schema` goes into ``Annotated`` of a field (or of a type that several fields share).
* :class:`Rule` is a CEL rule: on a field by ``Schema(rules=...)``, on an object by a class variable ``RULES``.
* :class:`Column` is a column of ``kubectl get``: a class variable ``COLUMNS`` of the kind.

Two defaults exist for a field. The one in ``Schema(default=...)`` is applied by the server to what is sent without the
field. The one after ``=`` is what a reader of the model sees where nothing is stored, and is never sent. Where there is a
server default the two must say the same; the generator refuses a model in which they don't.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

UNSET: Any = object()
"""Stands for "the server applies no default", as None and False are values that a default may have."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A CEL expression that must hold, and what the server answers when it does not.

    ``optional_old_self`` has the rule run on creation too, with ``oldSelf`` as an optional.
    """

    expression: str
    message: str
    field_path: str = ""
    reason: str = ""
    optional_old_self: bool = False

    def wire(self) -> dict[str, Any]:
        """The rule as an entry of ``x-kubernetes-validations``."""
        entry: dict[str, Any] = {"rule": self.expression, "message": self.message}
        if self.field_path:
            entry["fieldPath"] = self.field_path
        if self.reason:
            entry["reason"] = self.reason
        if self.optional_old_self:
            entry["optionalOldSelf"] = True
        return entry


@dataclass(frozen=True, slots=True)
class Schema:
    """Facts about one field. ``extra`` is merged into the generated schema as it stands (``maxItems``, list types)."""

    required: bool = False
    default: Any = field(default=UNSET, hash=False)
    pattern: str = ""
    minimum: int | None = None
    maximum: int | None = None
    rules: tuple[Rule, ...] = ()
    int_or_string: bool = False
    extra: Mapping[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of ``kubectl get``; ``wide`` ones show with ``-o wide`` only."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False
    description: str = ""

    def wire(self) -> dict[str, Any]:
        """The column as an entry of ``additionalPrinterColumns``."""
        entry: dict[str, Any] = {"name": self.name, "type": self.type, "jsonPath": self.path}
        if self.description:
            entry["description"] = self.description
        if self.wide:
            entry["priority"] = 1
        return entry


AS_BEFORE = "oldSelf.hasValue() && oldSelf.value() == self"
"""CEL, of a rule with ``optional_old_self``: it is as it was. So a rule is not asked of what was stored before there was the rule:
the object could not be updated any more, or let go."""

READY = Column("Ready", ".status.conditions[?(@.type=='Ready')].status")
PHASE = Column("Phase", ".status.phase")
REASON = Column("Reason", ".status.reason", description="why it is not ready: what it waits for, or what failed")
AGE = Column("Age", ".metadata.creationTimestamp", "date")

QUANTITY = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))"
    r"(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)

IntOrString = Annotated[int | str, Schema(int_or_string=True)]
"""A number, or text such as ``10%``."""

Quantity = Annotated[int | str, Schema(int_or_string=True, pattern=QUANTITY)]
"""An amount of a resource as Kubernetes writes it: ``2``, ``500m``, ``16Gi``."""

REQUIRED = Schema(required=True)
IMMUTABLE = Rule("self == oldSelf", "Value is immutable")

SET_ONCE = Rule("oldSelf == '' || self == oldSelf", "Value is immutable")
"""Immutable from its first value on; the empty text is not one yet."""

CONDITIONS = Schema(extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]})
"""Conditions are a map by ``type``: two writers of different types don't overwrite each other in server-side apply."""


def kept(field: str, *, once: str = "") -> Rule:
    """A rule that a value, once there, is not removed: removing and adding anew would get around immutability.

    :param once: a value that counts as absent, as a CEL literal.
    """
    unset = f"!has(oldSelf.{field})" + (f" || oldSelf.{field} == {once}" if once else "")
    return Rule(f"{unset} || has(self.{field})", f"{field} is immutable and can't be removed once set")
