"""The life of a card as a pure function: empty, installing, booting, up; or failed.

:func:`advance` takes what the card's disk says (:class:`Record`), the time and the fault that is set, and gives what the disk
says next and when to look again. Time is wall-clock time, since a card goes on while the fleet's process is dead.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from enum import StrEnum

from dpf.sandbox.fleet import cloudinit
from dpf.sandbox.fleet.bfcfg import BadBfCfg
from dpf.sandbox.fleet.faults import Fault

HANGS_AT = 0.4
FAILS_AT = 0.6
OLD_VERSION = "factory-4.5.0.bfb"
"""What runs on a card whose new image did not take."""


class State(StrEnum):
    """What ``dms`` reads of a card."""

    EMPTY = "empty"
    INSTALLING = "installing"
    BOOTING = "booting"
    UP = "up"
    FAILED = "failed"


@dataclass(frozen=True)
class Durations:
    """Seconds that things take."""

    install: float = 0.0
    boot: float = 0.0
    host_reboot: float = 0.0


@dataclass(frozen=True)
class Counters:
    """How often something was done to a card since the sandbox began."""

    installs: int = 0
    """Images written completely."""
    activates: int = 0
    """Installs that were begun."""
    boots: int = 0
    host_reboots: int = 0
    """Reboots of the host that were asked for through this card."""
    joins: int = 0


@dataclass(frozen=True)
class Record:
    """What survives of a card when the fleet dies. Secret: the configuration holds a join token."""

    state: State = State.EMPTY
    since: float = 0.0
    """When the state began, seconds since the epoch."""
    version: str = ""
    id: str = ""
    """Of the configuration that was flashed."""
    config: str = ""
    message: str = ""
    mode: str = "DPU"
    image_boots: int = 0
    """Boots of the image that is installed."""
    configuration: cloudinit.Configuration | None = None
    """What cloud-init left at the image's first boot."""
    last_host_reboot: str = ""
    """Id of the host reboot that was accepted last."""
    counters: Counters = Counters()

    @property
    def runs_kubelet(self) -> bool:
        """Whether the units that cloud-init enabled have been started: from the image's second boot on."""
        return (
            self.state is State.UP
            and self.image_boots >= 2
            and self.configuration is not None
            and self.configuration.join is not None
        )


def begin_install(record: Record, version: str, config: str, id_: str, now: float) -> Record:
    """The record after a request to boot an image. The same request again changes nothing, unless the last try failed."""
    if record.id == id_ and record.state is not State.FAILED:
        return record
    return Record(
        state=State.INSTALLING,
        since=now,
        version=version,
        id=id_,
        config=config,
        message=f"writing {version}",
        mode=record.mode,
        last_host_reboot=record.last_host_reboot,
        counters=replace(record.counters, activates=record.counters.activates + 1),
    )


def reset(record: Record, now: float) -> Record:
    """The record after the card was reset. An install goes on: it is the host's driver that waits, not the card."""
    if record.state is not State.UP:
        return record
    return replace(record, state=State.BOOTING, since=now, message="reset")


def percent(record: Record, now: float, durations: Durations, fault: Fault | None) -> int:
    """How much of an install is done, 0 to 100."""
    match record.state:
        case State.EMPTY:
            return 0
        case State.INSTALLING | State.FAILED:
            return int(100 * _progress(record, now, durations, fault))
    return 100


def firmware(record: Record) -> dict[str, str]:
    """Versions of the firmware that came with the image: made up, and the same for the same image."""
    if record.state is State.EMPTY or not record.version:
        return {}
    number = int(hashlib.sha256(record.version.encode()).hexdigest(), 16)
    return {"bmc": f"24.10-{number % 30}", "nic": f"32.43.{number % 9000 + 1000}", "uefi": f"4.9.{number % 10}"}


def advance(record: Record, now: float, durations: Durations, fault: Fault | None) -> tuple[Record, float | None]:
    """The record as of ``now``, and the time at which it changes next (None: not by itself)."""
    while True:
        if record.state is State.INSTALLING:
            due = record.since + durations.install
            if fault is Fault.INSTALL_HANGS:
                return record, None
            if fault is Fault.INSTALL_FAILS and now >= record.since + FAILS_AT * durations.install:
                message = "write error at 60 %: the boot stream was reset by the card"
                return replace(record, state=State.FAILED, since=now, message=message), None
            if now < due:
                return record, record.since + FAILS_AT * durations.install if fault is Fault.INSTALL_FAILS else due
            counters = replace(record.counters, installs=record.counters.installs + 1)
            record = replace(record, state=State.BOOTING, since=now, message="installed", counters=counters)
        elif record.state is State.BOOTING:
            due = record.since + durations.boot
            if now < due:
                return record, due
            record = _booted(record, now, fault)
        else:
            return record, None


def _booted(record: Record, now: float, fault: Fault | None) -> Record:
    counters = replace(record.counters, boots=record.counters.boots + 1)
    record = replace(record, since=now, image_boots=record.image_boots + 1, counters=counters)
    if fault is Fault.WRONG_VERSION:
        message = "fell back to the other boot partition"
        return replace(record, state=State.UP, version=OLD_VERSION, configuration=None, message=message)
    if record.image_boots > 1:
        return replace(record, state=State.UP, message="up")
    try:
        configuration = cloudinit.read(record.config)
    except BadBfCfg as error:
        return replace(record, state=State.FAILED, message=f"bf.cfg: {error}")
    state = State.BOOTING if configuration.reboots else State.UP
    return replace(record, state=state, configuration=configuration, message="configured by cloud-init")


def _progress(record: Record, now: float, durations: Durations, fault: Fault | None) -> float:
    if record.state is State.FAILED:
        return FAILS_AT
    done = 1.0 if durations.install <= 0 else min(1.0, max(0.0, (now - record.since) / durations.install))
    return min(done, HANGS_AT) if fault is Fault.INSTALL_HANGS else done
