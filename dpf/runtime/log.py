"""Structured logs: one event name and fields, JSON for machines or aligned text for a person, on standard error.

A field whose name says that it holds a secret is never written, nor is a private key, token or URL's password wherever it stands
(in a list, in an exception's text or traceback): logs are read by more people than Secrets are.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Literal

import orjson
import structlog

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
Level = Literal["debug", "info", "warning", "error"]
Format = Literal["json", "console"]

RECONCILE: ContextVar[tuple[str, object, str] | None] = ContextVar("reconcile", default=None)
"""Controller, object and id of the reconcile that is being run: every line logged in it carries them."""

HIDDEN = "<hidden>"
_SECRET_NAME = re.compile(
    r"token|password|passwd|secret_value|private_key|kubeconfig_text|bf_?cfg_text|authorization", re.IGNORECASE
)
_SECRET_TEXT = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\b[a-z0-9]{6}\.[a-z0-9]{16}\b"  # a bootstrap token
    r"|\beyJ[\w-]+\.[\w-]+\.[\w-]+"  # a JSON web token
    r"|LS0tLS1CRUdJTiB(?!DRVJU)[A-Za-z0-9+/=]+"  # a PEM in base64 that is no certificate, as a kubeconfig or Secret has it
    r"|(?<=://)[^/\s:@]*:[^/\s]*(?=@)",  # user and password of a URL
    re.DOTALL,
)


def add_reconcile(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: says of which reconcile a line is. Looked up per line, as most reconciles log none."""
    found = RECONCILE.get()
    if found is not None:
        event["controller"], event["object"], event["reconcile"] = found[0], str(found[1]), found[2]
    return event


def hide_secrets(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: takes secrets out of an event's fields."""
    for name, value in event.items():
        event[name] = _clean(name, value)
    return event


def _clean(name: str, value: Any) -> Any:
    """A field's value as it may be written. What has a text of its own is written as that, never taken apart."""
    if value is None or isinstance(value, bool | int | float | datetime):
        return value
    if _SECRET_NAME.search(name):
        return HIDDEN
    if type(value) is dict:
        return {hidden(str(key)): _clean(str(key), each) for key, each in value.items()}
    if type(value) in {list, tuple, set, frozenset}:
        return [_clean("", each) for each in value]
    return hidden(value.decode(errors="replace") if isinstance(value, bytes) else str(value))


def hidden(text: str) -> str:
    """The text without private keys, bootstrap tokens, JSON web tokens, and users and passwords of URLs."""
    # Every condition passes here, and to look at each letter takes some microseconds: text without one of these has no secret.
    if "." in text or "@" in text or "LS0t" in text or "-----BEGIN" in text:
        return _SECRET_TEXT.sub(HIDDEN, text)
    return text


def _to_json(event: MutableMapping[str, Any], **_: Any) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def configure(level: Level = "info", format: Format = "json") -> None:  # noqa: A002
    """Sets up logging for the process."""
    # Tracebacks are plain text before secrets are hidden: a prettier renderer would print local variables.
    render = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if format == "console"
        else structlog.processors.JSONRenderer(_to_json)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            add_reconcile,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            hide_secrets,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def get_logger(name: str) -> Any:
    """A logger that says which module speaks."""
    return structlog.get_logger(module=name)
