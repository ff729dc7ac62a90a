"""The database under the control planes, as far as something other than an API server asks it."""

from __future__ import annotations

import base64
import ssl
from dataclasses import dataclass
from pathlib import Path

import aiohttp

TIMEOUT = 30.0
"""Seconds for one request."""


@dataclass(frozen=True)
class Etcd:
    """Where it listens, and the folder with the keys that it takes (``client.crt``, ``client.key``, ``ca.crt``)."""

    url: str
    keys: Path

    async def delete(self, prefix: str) -> None:
        """Deletes every key that begins with the prefix, by the JSON form of etcd's own API.

        :raises aiohttp.ClientError: if it does not answer, or with an error.
        :raises ValueError: if the prefix is empty.
        """
        start = prefix.encode()
        if not start:
            raise ValueError("an empty prefix would delete everything")
        end = start[:-1] + bytes([start[-1] + 1])
        body = {"key": base64.b64encode(start).decode(), "range_end": base64.b64encode(end).decode()}
        context = ssl.create_default_context(cafile=str(self.keys / "ca.crt"))
        context.load_cert_chain(str(self.keys / "client.crt"), str(self.keys / "client.key"))
        limit = aiohttp.ClientTimeout(total=TIMEOUT)
        async with aiohttp.ClientSession(timeout=limit, raise_for_status=True) as http:
            await http.post(f"{self.url}/v3/kv/deleterange", json=body, ssl=context)
