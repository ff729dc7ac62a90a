"""Takes a card from an activation that was asked for to a running system, once, across restarts of this process.

Image and digest of the bf.cfg are the identity of an activation. The same pair asked for again while it runs, or when it is done,
is the same activation: the card is not flashed again. After a restart the card is asked what it has; the image is pushed again
only if the card did not get all of it. A card behind rshim can't tell: what is on disk counts. Who ends this process with SIGTERM
while the card takes the last of it waits until that is noted. If it is killed in those seconds, or its disk does not take the
note, the card is flashed once more.

A bf.cfg holds a join token and a password, so it is kept no longer than the card needs it: it goes when the card has all of it,
and when the activation has ended in any other way. Who asks for another try hands it over again.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from dpf.dms.card import Card, CardError, CardStatus, State
from dpf.dms.images import SILENT, BadName, Images
from dpf.dms.metrics import DmsMetrics
from dpf.dms.state import Activation, Store
from dpf.gnxi import dms
from dpf.runtime import threads
from dpf.runtime.log import get_logger

log = get_logger(__name__)


LET_GO = 1.0
"""Seconds that the end waits for the image folder to let go of a bf.cfg; else it is removed at the next start."""


class Busy(CardError):
    """Another activation runs."""


class NoSuchVersion(CardError):
    """An image or bf.cfg that was never installed."""


@dataclass(frozen=True)
class Parts:
    """What the image folder has of ``IMAGE;CONFIG``: where the image lies, and what is in the bf.cfg."""

    version: str
    image: Path | None
    config: bytes | None = field(repr=False)

    def both(self) -> tuple[Path, bytes]:
        """Both.

        :raises NoSuchVersion: if one is missing.
        """
        image, _, config = self.version.partition(dms.SEPARATOR)
        if self.image is None:
            raise NoSuchVersion(f"{image!r} is not installed")
        if self.config is None:
            raise NoSuchVersion(f"{config!r} is not installed")
        return self.image, self.config


class Activator:
    """The activation of one card. :meth:`resume` once before serving; :meth:`close` at the end."""

    def __init__(self, card: Card, images: Images, store: Store, *, timeout: float | None, metrics: DmsMetrics) -> None:
        self._card = card
        self._images = images
        self._store = store
        self._timeout = timeout
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None
        self._forgetting: set[asyncio.Task[None]] = set()
        self.seen = CardStatus(State.EMPTY)
        """What the card said last."""

    @property
    def current(self) -> Activation | None:
        """The latest activation."""
        return self._store.record.activation

    async def resume(self) -> None:
        """Goes on with an activation that was running when the process ended."""
        if self.current is not None and self.current.running:
            log.info("activation_resumed", version=self.current.version, progress=self.current.progress)
            self._start()
        elif self.current is not None:
            await asyncio.wait([self._forget(self.current)], timeout=SILENT)

    async def activate(self, version: str) -> None:
        """Begins the activation of ``IMAGE;CONFIG`` unless it is under way or done. Without a bf.cfg that was handed over anew the
        latest one is meant.

        :raises NoSuchVersion: if one of the two is missing.
        :raises Busy: if another activation runs.
        :raises OSError: if the image folder does not tell, or the state can't be saved.
        """
        parts = await self._parts(version)
        # From here on nothing comes between the checks and the start, or two callers would both pass them.
        now = self.current
        known = now is not None and not now.over and now.version == version
        if now is not None and known and parts.config is None:
            log.info("activation_known", version=version, progress=now.progress)
            return
        image, config = parts.both()
        asked = Activation(version, hashlib.sha256(config).hexdigest())
        if now is not None and known and now.config_sha256 == asked.config_sha256:
            log.info("activation_known", version=version, progress=now.progress)
            if now.progress != "asked":
                await asyncio.wait([self._forget(now)], timeout=SILENT)
            return
        if now is not None and now.running:
            raise Busy(f"the card is being given {now.version}")
        self._store.save(activation=asked)
        log.info("activation_begun", version=version, config_sha256=asked.config_sha256, image=image.name)
        self._start()

    async def close(self) -> None:
        """Lets go of the card; what runs there goes on by itself."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._forgetting:
            await asyncio.wait(self._forgetting, timeout=LET_GO)

    async def _parts(self, version: str) -> Parts:
        return await threads.within(SILENT, f"{version} in {self._images.name}", self._read, version)

    def _read(self, version: str) -> Parts:
        image, _, config = version.partition(dms.SEPARATOR)
        path = self._images.find(config)
        try:
            content = path.read_bytes() if path is not None else None
        except FileNotFoundError:
            content = None  # The activation before has just removed it.
        return Parts(version, self._images.find(image), content)

    def _start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="activation")

    async def _run(self) -> None:
        try:
            async with asyncio.timeout(self._timeout) as limit:
                await self._push()
                await self._follow()
        except TimeoutError as error:
            # A disk that does not answer says the same.
            late = f"the card was not done within {self._timeout or 0:g} s; last: {self.seen.message}"
            self._end("passing", late if limit.expired() else f"{error.filename or 'the image'}: {error.strerror}")
        except NoSuchVersion as error:
            self._end("failed", str(error))
        except CardError as error:
            self._end("passing" if error.passing else "failed", str(error))
        except OSError as error:
            self._end("passing", f"{error.filename or 'the image'}: {error.strerror}")
        except Exception as error:
            log.exception("activation_broken")
            self._end("passing", f"{type(error).__name__}: {error}")

    async def _push(self) -> None:
        """Gives the card image and bf.cfg, unless it has them."""
        activation = self.current
        if activation is None:
            return
        if activation.progress != "asked":
            self._forget(activation)
            return
        self.seen = await self._card.status()
        if self.seen.id != activation.config_sha256 or self.seen.state in {State.EMPTY, State.FAILED}:
            image, config = (await self._parts(activation.version)).both()
            if hashlib.sha256(config).hexdigest() != activation.config_sha256:
                name = activation.version.partition(dms.SEPARATOR)[2]
                raise NoSuchVersion(f"{name} was replaced before the card got it")
            self.seen = CardStatus(State.INSTALLING, version=image.name, message="pushing")
            await self._card.boot(image, image.name, config, activation.config_sha256)
        self._store.save(activation=replace(activation, progress="pushed"))
        self._forget(activation)
        if (task := asyncio.current_task()) is not None and task.cancelling():
            # It was too late for that; now it is not.
            raise asyncio.CancelledError

    async def _follow(self) -> None:
        async for status in self._card.follow():
            self.seen = status
        activation = self.current
        wanted = activation.version.partition(dms.SEPARATOR)[0] if activation is not None else ""
        if self.seen.state is State.UP and self.seen.version not in {"", wanted}:
            # The boot loader fell back to the other partition: up, but not with what was asked for.
            self._end("failed", f"the card came up with {self.seen.version}, not {wanted}: {self.seen.message}")
        elif self.seen.state is State.UP:
            self._end("done", self.seen.message)
        else:
            self._end("failed", self.seen.message or "the card did not come up")

    def _end(self, progress: str, message: str) -> None:
        activation = self.current
        if activation is not None:
            self._store.settle(activation=replace(activation, progress=progress, message=message))  # type: ignore[arg-type]
            self._forget(activation)
        self._metrics.ended(progress)
        log.info("activation_ended", outcome=progress, message=message)

    async def forgotten(self) -> None:
        """Returns when no bf.cfg is being removed: one that is handed over now may be the same as that. A silent folder may take
        for ever: who hands it over has a deadline of its own."""
        if self._forgetting:
            await asyncio.wait(self._forgetting)

    def _forget(self, activation: Activation) -> asyncio.Task[None]:
        """Removes the bf.cfg: the card has it, or will not get it. Nothing of the activation waits for that."""
        task = asyncio.create_task(self._remove(activation), name="bf.cfg removed")
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)
        return task

    async def _remove(self, activation: Activation) -> None:
        name = activation.version.partition(dms.SEPARATOR)[2]
        try:
            await threads.outcome(self._images.forget, name, activation.config_sha256)
        except (OSError, BadName) as error:
            log.warning("bfcfg_not_removed", name=name, error=str(error))
