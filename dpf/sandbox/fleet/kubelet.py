"""The kubelet of a card: joins the DPU cluster once, registers its Node at each boot, keeps its Lease.

Its credentials are on the card's disk, so a card that boots again, or a fleet that was killed, does not join anew. A Node
that somebody deleted comes back only when the card boots again, as with a real kubelet.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import random
from typing import Any
from uuid import uuid4

import aiohttp
import orjson

from dpf.runtime.log import get_logger
from dpf.sandbox.fleet.bootstrap import Bootstrap, JoinFailed, answer, session
from dpf.sandbox.fleet.cards import Card
from dpf.sandbox.fleet.clusterinfo import ClusterInfo
from dpf.sandbox.fleet.disk import read_json, write_private
from dpf.sandbox.fleet.faults import Fault
from dpf.sandbox.fleet.nodes import lease, lease_path, node, node_ready

log = get_logger(__name__)

FIRST_RETRY, LONGEST_RETRY = 0.5, 5.0
"""Seconds between tries to join; the script on a real card waits the longer time from the beginning."""
NODES = "/api/v1/nodes"


@dataclass(frozen=True)
class LeaseTimes:
    """How a node keeps its Lease, seconds."""

    duration: int
    renew: float

    @classmethod
    def for_fleet(cls, nodes: int) -> LeaseTimes:
        """The kubelet's own times for a small fleet; longer for a big one, whose thousand renewals would drown the rest."""
        return cls(40, 10.0) if nodes <= 50 else cls(600, 150.0)

    def pause(self) -> float:
        """Seconds to the next renewal; jittered, so that a fleet that was started at once does not renew at once."""
        return self.renew * (0.8 + 0.4 * random())  # noqa: S311  (spreads load, guards nothing)


class Kubelet:
    """Runs on every card; one object serves all."""

    def __init__(self, bootstrap: Bootstrap, times: LeaseTimes) -> None:
        self._bootstrap = bootstrap
        self._times = times
        # A kept connection per node is cheaper than a handshake per renewal, until there are too many of them.
        self._keep = times.renew * 2 if times.renew <= 10 else 0.0

    async def __call__(self, card: Card) -> None:
        """Joins if need be, registers and renews until cancelled."""
        configuration = card.record.configuration
        if configuration is None:
            return
        retry = FIRST_RETRY
        while not (identity := _Identity.load(card.folder)):
            await card.wait_while(lambda card: card.fault is Fault.NEVER_JOINS)
            await card.link.wait()
            try:
                await self._join(card)
            except JoinFailed as error:
                log.warning("card_join_failed", card=card.name, error=str(error))
                await asyncio.sleep(retry)
                retry = min(LONGEST_RETRY, 2 * retry)
        await self._keep_node(card, configuration.hostname, identity)

    async def _join(self, card: Card) -> None:
        configuration = card.record.configuration
        if configuration is None or configuration.join is None:
            raise JoinFailed("no join command")
        info = await self._bootstrap.cluster_info(configuration.join)
        pem = await self._bootstrap.certificate(info, configuration.join, configuration.hostname)
        write_private(card.folder / "kubelet.pem", pem)
        _Identity(info, registered_boot=-1).save(card.folder)
        # Before its Node is there, by which everybody else sees that it has joined.
        card.count_join()

    async def _keep_node(self, card: Card, name: str, identity: _Identity) -> None:
        async with CardConnection(card, identity, self._keep) as connection:
            while identity.registered_boot != card.record.counters.boots:
                try:
                    await self._register(connection, card, name)
                except JoinFailed as error:
                    log.warning("card_registration_failed", card=card.name, error=str(error))
                    await asyncio.sleep(LONGEST_RETRY)
                    continue
                identity = _Identity(identity.info, card.record.counters.boots)
                identity.save(card.folder)
                log.info("card_node_registered", card=card.name, node=name)
            alive = True
            while alive:
                await asyncio.sleep(self._times.pause())
                try:
                    alive = await self._renew(connection, name)
                except JoinFailed as error:
                    log.warning("card_lease_failed", card=card.name, error=str(error))

    async def _register(self, connection: CardConnection, card: Card, name: str) -> None:
        server, boot_id = connection.server, str(uuid4())
        body = node(name, "127.0.0.1", boot_id=boot_id, image=card.record.version, architecture="arm64")
        async with connection.session() as http:
            async with answer(http, "POST", f"{server}{NODES}", accept=(409,), data=orjson.dumps(body)) as response:
                stored = orjson.loads(await response.read())
                known = response.status == 409
            if known:
                patch = {"status": {"conditions": [node_ready(ready=True)], "nodeInfo": {"bootID": boot_id}}}
                async with answer(
                    http, "PATCH", f"{server}{NODES}/{name}/status", data=orjson.dumps(patch)
                ) as response:
                    stored = orjson.loads(await response.read())
            await self._make_lease(http, server, name, stored["metadata"]["uid"])

    async def _make_lease(self, http: aiohttp.ClientSession, server: str, name: str, uid: str) -> None:
        body = lease(name, uid, self._times.duration)
        async with answer(http, "POST", f"{server}{lease_path()}", accept=(409,), data=orjson.dumps(body)):
            pass

    async def _renew(self, connection: CardConnection, name: str) -> bool:
        """Renews the Lease; False if the Node was deleted.

        A Lease that is gone alone is made anew: it was that of an earlier Node of this name, and has gone with that.
        """
        patch = {"spec": {"renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")}}
        url = f"{connection.server}{lease_path(name)}"
        async with connection.session() as http:
            async with answer(http, "PATCH", url, accept=(404,), data=orjson.dumps(patch)) as response:
                if response.status != 404:
                    return True
            async with answer(http, "GET", f"{connection.server}{NODES}/{name}", accept=(404,)) as response:
                if response.status == 404:
                    return False
                stored = orjson.loads(await response.read())
            await self._make_lease(http, connection.server, name, stored["metadata"]["uid"])
        return True


class CardConnection:
    """A card's own connections to its cluster: one session kept, or one per use where ``keep`` is 0."""

    def __init__(self, card: Card, identity: _Identity, keep: float) -> None:
        self.server = identity.info.server
        self._tls = ssl.create_default_context(cadata=identity.info.ca.decode())
        self._tls.load_cert_chain(card.folder / "kubelet.pem")
        self._keep = keep
        self._kept: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> CardConnection:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._kept is not None:
            await self._kept.close()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[aiohttp.ClientSession]:
        if self._keep:
            self._kept = self._kept or session(self._tls, keep=self._keep)
            yield self._kept
        else:
            async with session(self._tls, keep=5.0) as http:
                yield http


@dataclass(frozen=True)
class _Identity:
    """What the kubelet knows of its cluster, beside its certificate."""

    info: ClusterInfo
    registered_boot: int
    """Count of the card's boots when the Node was registered last; -1: never."""

    @classmethod
    def load(cls, folder: Path) -> _Identity | None:
        stored: dict[str, Any] | None = read_json(folder / "kubelet.json")
        if stored is None:
            return None
        return cls(ClusterInfo(stored["server"], stored["ca"].encode()), stored["registered_boot"])

    def save(self, folder: Path) -> None:
        content = {"server": self.info.server, "ca": self.info.ca.decode(), "registered_boot": self.registered_boot}
        write_private(folder / "kubelet.json", orjson.dumps(content))
