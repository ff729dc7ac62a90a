"""Ties a test to the numbered statements of the specification that it proves: ``@spec("provisioning:71")``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

F = TypeVar("F", bound=Callable[..., Any])


def spec(*statements: str) -> Callable[[F], F]:
    """Marks a test as the proof of each statement, written ``area:number``; ``make spec`` counts them."""

    def mark(test: F) -> F:
        for statement in statements:
            test = pytest.mark.spec(statement)(test)
        return test

    return mark
