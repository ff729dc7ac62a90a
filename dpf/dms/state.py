"""What a server has been asked to do, on disk, so that it can be killed at any line and go on.

One small file per card, written whole (new file, fsync, rename) before the card is touched. It holds no secret: of a bf.cfg
only the digest.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import orjson

from dpf.host import files
from dpf.runtime.log import get_logger

log = get_logger(__name__)

Progress = Literal["asked", "pushed", "done", "failed", "passing"]


@dataclass(frozen=True)
class Activation:
    """The latest activation. Version and digest are its identity.

    ``asked``: the card may have nothing yet. ``pushed``: the card has all of it. Then ``done``, ``failed``, or ``passing``:
    failed in a way that another try may mend.
    """

    version: str
    config_sha256: str
    progress: Progress = "asked"
    message: str = ""

    @property
    def running(self) -> bool:
        return self.progress in {"asked", "pushed"}

    @property
    def over(self) -> bool:
        """Whether asking for the same again is a new activation."""
        return self.progress in {"failed", "passing"}


@dataclass(frozen=True)
class HostReboot:
    """The latest reboot of the host that was accepted.

    :param boot_id: the host's at that moment.
    :param failure: why it could not be carried out; it is not taken up again unless somebody asks.
    """

    request: str
    method: str
    power: str
    boot_id: str
    done: bool = False
    failure: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing of it is left to do."""
        return self.done or bool(self.failure)


@dataclass(frozen=True)
class Record:
    """All of it."""

    activation: Activation | None = None
    reboot: HostReboot | None = None


class Store:
    """The record of one card in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.record = self._load()

    def _load(self) -> Record:
        try:
            found: dict[str, Any] = orjson.loads(self._path.read_bytes())
            activation, reboot = found.get("activation"), found.get("reboot")
            return Record(
                Activation(**activation) if activation else None,
                HostReboot(**reboot) if reboot else None,
            )
        except FileNotFoundError:
            return Record()
        except (orjson.JSONDecodeError, TypeError, AttributeError):
            # Written whole or not at all, so somebody else wrote this; what the card says counts then.
            log.warning("state_unreadable", path=str(self._path))
            return Record()

    def save(self, **changes: Activation | HostReboot) -> None:
        """Changes the record, on disk first.

        :raises OSError: if the disk does not take it; the record is as before then.
        """
        record = replace(self.record, **changes)  # type: ignore[arg-type]
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.put(self._path, orjson.dumps(asdict(record)), mode=0o600)
        self.record = record

    def settle(self, **changes: Activation | HostReboot) -> None:
        """Changes the record to how something has ended: that is so even if the disk does not take it."""
        try:
            self.save(**changes)
        except OSError as error:
            log.error("state_not_saved", path=str(self._path), error=error.strerror)
            self.record = replace(self.record, **changes)  # type: ignore[arg-type]
