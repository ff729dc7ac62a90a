"""A kind for the library's own tests, and its objects as a server would send them."""

from __future__ import annotations

from typing import Any, ClassVar

import orjson
from pydantic import Field

from dpf.runtime.meta import Condition, Model, Object, Resource


class WidgetSpec(Model):
    size: int = 0


class WidgetStatus(Model):
    observed_generation: int = 0
    size: int = 0
    conditions: list[Condition] = Field(default_factory=list)


class Widget(Object):
    RESOURCE: ClassVar[Resource] = Resource("bench.dpf.dev", "v1", "widgets", "Widget")

    spec: WidgetSpec = Field(default_factory=WidgetSpec)
    status: WidgetStatus = Field(default_factory=WidgetStatus)


def widget(
    name: str,
    version: int,
    *,
    kind: str = "Widget",
    uid: str = "",
    size: Any = 1,
    namespace: str = "n",
    **meta: Any,
) -> dict[str, Any]:
    """A widget, or what passes for an object of another kind, as JSON would have it."""
    return {
        "apiVersion": "bench.dpf.dev/v1",
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": uid or f"uid-{name}",
            "resourceVersion": str(version),
            **meta,
        },
        "spec": {"size": size},
    }


def raw(name: str, version: int, **more: Any) -> bytes:
    """The same in bytes."""
    return orjson.dumps(widget(name, version, **more))


def too_deep(name: str, version: int) -> bytes:
    """One that is nested more deeply than anybody here reads; API servers take ten thousand levels."""
    levels = 3000
    return raw(name, version, size="deep").replace(b'"deep"', b'{"a":' * levels + b"1" + b"}" * levels)
