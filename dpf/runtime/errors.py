"""The errors of the library, one tree.

    DpfError
      ApiError              status, reason, message, details as the server gave them
        BadRequest          400: the request itself is wrong
        Unauthorized        401
        Forbidden           403: RBAC, quota or a webhook said no
        NotFound            404
        Conflict            409: somebody else changed the object first, or a precondition failed
          AlreadyExists     409 with that reason
        Gone                410: the resourceVersion is too old to watch from, or one that the server has not reached
        Invalid             422: a rule of the schema is broken; ``details`` names the fields
        TooManyRequests     429: after ``retry_after`` seconds the server wants to hear from us again
        Unavailable         5xx, or no answer at all: connection refused, reset, TLS, time-out
      Terminal              will not get better by itself: not retried until the object changes
      Waiting               somebody else must act first: no back-off is counted
      ClusterUnavailable    the circuit of a remote cluster is open; retried when it closes
      ConfigError           the process was started with something it cannot use; the message says what to do

Whoever catches ``ApiError`` catches what a server answers; ``except NotFound`` is the usual one.
"""

from __future__ import annotations

from typing import Any, TypeVar


class DpfError(Exception):
    """Base of all errors that the library raises."""


class ConfigError(DpfError):
    """A flag, file or environment that the process cannot work with. The message says what to do."""


class ApiError(DpfError):
    """An answer of an API server other than success.

    :param status: HTTP status, 0 if there was no answer.
    :param reason: the server's machine-readable reason, for example ``AlreadyExists``.
    :param details: the ``details`` of the Status object, as sent.
    """

    def __init__(self, status: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.details = details or {}


class BadRequest(ApiError):
    """400."""


class Unauthorized(ApiError):
    """401: the credentials are missing, expired or unknown."""


class Forbidden(ApiError):
    """403."""


class NotFound(ApiError):
    """404."""


class Conflict(ApiError):
    """409: the object has changed since it was read, or a precondition does not hold."""


class AlreadyExists(Conflict):
    """409: an object of that name is there already."""


class Gone(ApiError):
    """The asked-for resourceVersion has been compacted away (410), or is ahead of a server restored from a backup (504)."""


class Invalid(ApiError):
    """422: the object breaks a rule; the message names field and rule."""


class TooManyRequests(ApiError):
    """429. ``retry_after`` is in seconds."""

    retry_after: float = 1.0


class Unavailable(ApiError):
    """The server could not answer: 5xx, refused, reset, timed out."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
}


def api_error(status: int, reason: str, message: str, details: dict[str, Any] | None = None) -> ApiError:
    """The error class that fits an HTTP status and reason."""
    if reason == "AlreadyExists":
        return AlreadyExists(status, reason, message, details)
    if reason == "Expired" or _ahead(details):
        return Gone(status, reason, message, details)
    kind = _BY_STATUS.get(status) or (Unavailable if status >= 500 else ApiError)
    return kind(status, reason, message, details)


def _ahead(details: dict[str, Any] | None) -> bool:
    causes = (details or {}).get("causes")
    return isinstance(causes, list) and any(
        isinstance(cause, dict) and cause.get("reason") == "ResourceVersionTooLarge" for cause in causes
    )


class Terminal(DpfError):
    """Will not get better by itself. ``reason`` is a CamelCase word fit for a condition.

    A controller logs and counts it, no more: whoever is to read of it on the object needs a condition, and perhaps an event, which
    the reconciler writes before it raises this, or instead.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Waiting(DpfError):
    """Somebody else must act first. ``retry_after`` in seconds, or None to wait for a watch to tell."""

    def __init__(self, reason: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


class ClusterUnavailable(DpfError):
    """A remote cluster cannot be used now.

    :param retry_after: seconds after which there is something to do though it still cannot; None if there is not.
    """

    def __init__(self, cluster: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.cluster = cluster
        self.message = message
        self.retry_after = retry_after


E = TypeVar("E", bound=BaseException)


def first_of(group: BaseExceptionGroup[E]) -> E:
    """Of several things that went wrong at once the one that a user is told."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first
