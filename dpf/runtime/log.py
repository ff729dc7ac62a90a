"""Structured logs: one event name and fields."""

from __future__ import annotations

from typing import Any

import structlog


def configure(level: str = "info", format: str = "json") -> None:  # noqa: A002
    """Sets up logging for the process."""


def get_logger(name: str) -> Any:
    """A logger that names its module."""
    return structlog.get_logger(module=name)
