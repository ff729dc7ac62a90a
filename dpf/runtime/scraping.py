"""Who may scrape: with ``--metrics-secure`` a request for metrics must bear a token that the cluster accepts and allows.

The token is checked as an API server would: who it belongs to by a TokenReview, whether that account may ``get`` the path
``/metrics`` by a SubjectAccessReview. A verdict holds for a minute, so a scraper costs two requests a minute at most. While
the API server can't be asked nobody is let in.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import orjson

from dpf.runtime.client import Client
from dpf.runtime.errors import DpfError, Unavailable
from dpf.runtime.log import get_logger

log = get_logger(__name__)

TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105  (a path)
ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
VERDICT_HOLDS = 60.0
"""Seconds."""
REMEMBERED = 64
"""Verdicts that are kept at most."""


class ScrapeGuard:
    """Decides by the cluster's own rules."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._verdicts: dict[tuple[bytes, str], tuple[float, int]] = {}

    async def verdict(self, authorization: str, path: str) -> int:
        """The HTTP status for a request: 200, 401 without a valid token, 403 if it may not, 503 if nobody can tell.

        :param authorization: value of the header of that name.
        """
        scheme, _, token = authorization.partition(" ")
        # What has other characters is no token; the header may hold any bytes.
        if scheme.lower() != "bearer" or not token or not token.isascii():
            return 401
        key = hashlib.sha256(token.encode()).digest(), path
        now = asyncio.get_running_loop().time()
        until, status = self._verdicts.get(key, (0.0, 0))
        if now < until:
            return status
        try:
            status = await self._ask(token, path)
        except DpfError as error:
            log.warning("scraper_not_checked", error=str(error))
            return 503
        if len(self._verdicts) >= REMEMBERED:
            self._verdicts.clear()
        self._verdicts[key] = now + VERDICT_HOLDS, status
        return status

    async def _ask(self, token: str, path: str) -> int:
        who = await self._review(TOKEN_REVIEWS, {"token": token}, "authentication.k8s.io/v1", "TokenReview")
        if not who.get("authenticated"):
            return 401
        user = who.get("user", {})
        spec = {
            "user": user.get("username", ""),
            "uid": user.get("uid", ""),
            "groups": user.get("groups", []),
            "extra": user.get("extra", {}),
            "nonResourceAttributes": {"path": path, "verb": "get"},
        }
        may = await self._review(ACCESS_REVIEWS, spec, "authorization.k8s.io/v1", "SubjectAccessReview")
        return 200 if may.get("allowed") else 403

    async def _review(self, path: str, spec: dict[str, Any], version: str, kind: str) -> dict[str, Any]:
        """The status of what the server makes of a review.

        :raises ApiError: if it makes nothing of it; :class:`Unavailable` if what answers is none.
        """
        body = {"apiVersion": version, "kind": kind, "spec": spec}
        answer = await self._client.request("POST", path, body=body)
        try:
            review = orjson.loads(answer)
        except orjson.JSONDecodeError:
            review = None
        status = review.get("status") if isinstance(review, dict) else None
        if not isinstance(status, dict):
            raise Unavailable(200, "NotKubernetes", f"what answers as an API server sent no {kind}")
        return status
