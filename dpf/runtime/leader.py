"""Leader election over a Lease: of several replicas one acts.

What it guarantees:

* Clocks of others are never compared with ours: a lease has run out when *we* have seen it unchanged for its duration.
* A leader that cannot renew ends within the renew deadline, counted from when it sent its last renewal that was stored. That
  is shorter than the lease, so it stops before another starts. There is no fencing: a process that was paused may still send
  one write; writes therefore carry resourceVersions.
* A leader renews from what it wrote last, one request each; only a conflict makes it read.
* On the way out the lease is given back with a duration of one second, even if it was just being taken or renewed, and whoever
  waits sees that by its watch at once. A lease that was lost is not given back: that would delay the end.
* A candidate costs a watch, not a poll.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import aclosing, suppress
from random import uniform

from dpf.runtime.client import Client
from dpf.runtime.errors import ApiError, ConfigError, Conflict, DpfError, Gone, NotFound
from dpf.runtime.k8s import Lease, LeaseSpec
from dpf.runtime.log import get_logger
from dpf.runtime.meta import ObjectMeta, now
from dpf.runtime.metrics import Metrics
from dpf.runtime.options import ManagerOptions

log = get_logger(__name__)

JITTER = 1.2
"""A retry waits up to this times its period; client-go's figure."""
RELEASE_TIMEOUT = 2.0
"""Seconds that giving the lease back may take."""


class LeadershipLost(DpfError):
    """Another process holds the lease, or it could not be renewed in time. The process must end."""


class LeaderElector:
    """One candidate. Run it beside what needs leadership; :attr:`elected` is set when it leads.

    :param duration: seconds that an unrenewed lease holds; whole ones, as a Lease has them.
    :param renew_deadline: seconds that renewing is tried before giving up.
    :param retry_period: seconds between tries.
    :raises ConfigError: unless duration > renew_deadline > 1.2 * retry_period.
    """

    needs_leader = False

    def __init__(
        self,
        client: Client,
        name: str,
        namespace: str,
        *,
        identity: str = "",
        duration: float = 15.0,
        renew_deadline: float = 10.0,
        retry_period: float = 5.0,
        metrics: Metrics | None = None,
    ) -> None:
        if not int(duration) > renew_deadline > JITTER * retry_period:
            raise ConfigError(
                f"leader election needs lease duration > renew deadline > {JITTER} * retry period; "
                f"{int(duration)} whole s, {renew_deadline:g} s and {retry_period:g} s do not fit"
            )
        self.elected = asyncio.Event()
        self.identity = identity or f"{socket.gethostname()}_{os.urandom(8).hex()}"
        self._client = client
        self._key = (name, namespace)
        self._duration = duration
        self._renew_deadline = renew_deadline
        self._retry_period = retry_period
        self._metrics = metrics or Metrics()
        self._metrics.leading[name] = False
        self._seen: Lease | None = None
        self._seen_at = 0.0
        self._unsure = False
        """The answer to a write is not here yet, or was lost: the lease may be ours whatever :attr:`_seen` says."""

    @classmethod
    def from_options(cls, client: Client, name: str, options: ManagerOptions, metrics: Metrics) -> LeaderElector:
        """The candidate of a manager; the lease bears the manager's name."""
        return cls(
            client,
            name,
            options.leader_elect_namespace or client.transport.kubeconfig.namespace,
            duration=options.leader_elect_lease_duration,
            renew_deadline=options.leader_elect_renew_deadline,
            retry_period=options.leader_elect_retry_period,
            metrics=metrics,
        )

    async def run(self) -> None:
        """Stands for election, then leads until cancelled.

        :raises LeadershipLost: if the lease is lost.
        """
        try:
            await self._acquire()
            self.elected.set()
            self._metrics.leading[self._key[0]] = True
            log.info("leading", lease=self._key[0], identity=self.identity)
            await self._hold()
        except asyncio.CancelledError:
            with suppress(ApiError, ConfigError, TimeoutError):
                async with asyncio.timeout(RELEASE_TIMEOUT):
                    await self._release()
            raise
        finally:
            self._metrics.leading[self._key[0]] = False

    # Standing for election

    async def _acquire(self) -> None:
        while True:
            try:
                if await self._try_once():
                    return
                await self._wait_for_change()
            except (ApiError, ConfigError) as error:
                log.info("election_failed", error=str(error))
                await asyncio.sleep(self._pause())

    def _pause(self) -> float:
        """Seconds until a failed try is made again: no longer than a lease that was seen still holds."""
        pause = uniform(1, JITTER) * self._retry_period  # noqa: S311
        left = self._remaining(self._seen) if self._seen is not None else 0.0
        return min(pause, left + 0.05) if left > 0 else pause

    async def _try_once(self) -> bool:
        """Takes the lease if it is free. True if we hold it now."""
        try:
            lease = await self._client.get(Lease, *self._key)
        except NotFound:
            return await self._write(None)
        self._notice(lease)
        if self._held_by_other(lease):
            return False
        return await self._write(lease)

    def _notice(self, lease: Lease) -> None:
        if self._seen is None or self._seen.spec != lease.spec:
            self._seen_at = _time()
        self._seen = lease

    def _held_by_other(self, lease: Lease) -> bool:
        holder = lease.spec.holder_identity
        return holder not in {"", self.identity} and self._remaining(lease) > 0

    def _remaining(self, lease: Lease) -> float:
        return self._seen_at + (lease.spec.lease_duration_seconds or 0) - _time()

    async def _wait_for_change(self) -> None:
        """Returns when the lease changed hands or ran out, or a while after a watch that told neither has ended.

        :raises ApiError: if it cannot be watched.
        """
        lease = self._seen
        if lease is None:
            return
        name, namespace = self._key
        version = lease.metadata.resource_version
        with suppress(TimeoutError):
            async with asyncio.timeout(self._remaining(lease) + 0.05) as deadline:
                watch = self._client.watch(Lease, namespace, name=name, resource_version=version)
                with suppress(Gone):
                    async with aclosing(watch) as changes:
                        async for event, changed in changes:
                            if event == "DELETED":
                                return
                            self._notice(changed)
                            if not self._held_by_other(changed):
                                return
                            deadline.reschedule(_time() + self._remaining(changed) + 0.05)
                # Whatever ends a watch at once must not make us ask in a loop.
                await asyncio.sleep(self._retry_period)

    # Leading

    async def _hold(self) -> None:
        while True:
            await asyncio.sleep(self._retry_period)
            try:
                async with asyncio.timeout_at(self._seen_at + self._renew_deadline):
                    while not await self._renew():  # noqa: ASYNC110  (a retry, not a poll)
                        await asyncio.sleep(min(1.0, self._retry_period))
            except TimeoutError:
                raise LeadershipLost(
                    f"lease {self._key[0]} could not be renewed for {self._renew_deadline:g} s"
                ) from None

    async def _renew(self) -> bool:
        """Writes the lease again. False if that failed in a way worth another try.

        :raises LeadershipLost: if somebody else holds it.
        """
        try:
            async with asyncio.timeout(self._renew_deadline / 2):
                try:
                    return await self._write(self._seen)
                except (Conflict, NotFound):
                    self._metrics.slow_renewals[self._key[0]] += 1
                    return await self._write(await self._read_own())
        except (ApiError, ConfigError, TimeoutError) as error:
            log.warning("lease_not_renewed", lease=self._key[0], error=str(error) or "no answer in time")
            return False

    async def _read_own(self) -> Lease:
        """The lease as it is now: a renewal whose answer was lost has changed it, or somebody else.

        :raises LeadershipLost: if it is not ours any more.
        """
        try:
            lease = await self._client.get(Lease, *self._key)
        except NotFound:
            raise LeadershipLost(f"lease {self._key[0]} was deleted") from None
        if lease.spec.holder_identity != self.identity:
            raise LeadershipLost(f"lease {self._key[0]} is held by {lease.spec.holder_identity or 'nobody'}")
        return lease

    async def _write(self, lease: Lease | None) -> bool:
        """Makes the lease ours as of now. False if another was faster while standing for election.

        :raises Conflict: if it changed while we hold it.
        """
        moment, sent = now(), _time()
        name, namespace = self._key
        old = lease.spec if lease is not None else LeaseSpec()
        taking = old.holder_identity != self.identity
        spec = LeaseSpec(
            holder_identity=self.identity,
            lease_duration_seconds=int(self._duration),
            acquire_time=moment if taking else old.acquire_time,
            renew_time=moment,
            lease_transitions=old.lease_transitions + (taking and lease is not None),
        )
        meta = ObjectMeta(name=name, namespace=namespace)
        self._unsure = True
        try:
            if lease is None:
                written = await self._client.create(Lease(metadata=meta, spec=spec))
            else:
                written = await self._client.replace(Lease(metadata=lease.metadata, spec=spec))
        except Conflict:
            self._unsure = False
            if not taking:
                raise
            return False
        self._seen, self._seen_at, self._unsure = written, sent, False
        return True

    async def _release(self) -> None:
        lease = await self._client.get(Lease, *self._key) if self._unsure else self._seen
        while lease is not None and lease.spec.holder_identity == self.identity:
            free = {"holder_identity": "", "lease_duration_seconds": 1, "renew_time": now()}
            spec = lease.spec.model_copy(update=free)
            try:
                await self._client.replace(Lease(metadata=lease.metadata, spec=spec))
            except Conflict:  # Somebody else had his hands in it.
                lease = await self._client.get(Lease, *self._key)
            else:
                log.info("lease_released", lease=self._key[0])
                return


def _time() -> float:
    return asyncio.get_running_loop().time()
