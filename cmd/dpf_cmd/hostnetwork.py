"""hostnetwork: keeps a card's virtual functions on its host, and the first of them in the host's bridge."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dpf.host.netlink import NetlinkNetwork
from dpf.host.network import BRIDGE, NetworkError
from dpf.host.pci import SLOT, Sysfs
from dpf.hostnetwork.decide import Wanted
from dpf.hostnetwork.hostnetwork import INTERVAL, GivenUp, HostNetwork
from dpf.hostnetwork.marker import Marker, last_words
from dpf.runtime.errors import ConfigError
from dpf.runtime.log import Format, Level, configure, get_logger
from dpf.runtime.options import Seconds, parse

log = get_logger(__name__)

NAME = "hostnetwork"
SYSFS, TERMINATION_LOG = Path("/sys"), Path("/dev/termination-log")
MARKER, STATUS = Path("/tmp/hostnetwork_succeed"), Path("/tmp/hostnetwork_status")  # noqa: S108  (the pod's probe reads them)
EVERY, PATIENCE = Seconds(INTERVAL), Seconds(300)
FUNCTIONS, MTU = 16, 1500
MTU_LIMITS = range(68, 9217)
"""IPv4 needs the least, the cards give the most."""


@dataclass(frozen=True)
class Options:
    """Its flags. What the pod asks for comes by the environment."""

    device_pci_address: Annotated[str, "the card, as 0000:90:00; else $device_pci_address"] = ""
    num_of_vfs: Annotated[str, f"virtual functions of each port; else $num_of_vfs, else {FUNCTIONS}"] = ""
    vf_mtu: Annotated[str, f"MTU of virtual function 0, 0 to leave it; else $vf_mtu, else {MTU}"] = ""
    bridge: Annotated[str, "the host's bridge that virtual function 0 belongs into"] = BRIDGE
    sysfs: Annotated[Path, "the host's sysfs"] = SYSFS
    interval: Annotated[Seconds, "time between looks; changes of the host's network are looked at as they happen"] = (
        EVERY
    )
    give_up_after: Annotated[
        Seconds, "trouble that lasts so long ends the process, unless function 0 is in the bridge; 0 is never"
    ] = PATIENCE
    marker: Annotated[Path, "file that is there while all is as it should be"] = MARKER
    status_file: Annotated[Path, "file with one line: ready, or what is wrong"] = STATUS
    termination_log: Annotated[Path, "file for the last words, if it is there"] = TERMINATION_LOG
    log_level: Annotated[Level, "least level that is logged"] = "info"
    log_format: Annotated[Format, "json, or console for a person"] = "json"

    def wanted(self, environment: Mapping[str, str]) -> Wanted:
        """What the flags ask for, and for what they leave open the environment.

        :raises ConfigError: if that is nothing that can be done.
        """
        slot = (self.device_pci_address or environment.get("device_pci_address", "")).strip().lower()
        if not slot:
            raise ConfigError(
                "device_pci_address is empty: set it, or --device-pci-address, to the card's, as 0000:90:00"
            )
        if not SLOT.fullmatch(slot):
            raise ConfigError(
                f"device_pci_address {slot!r} is no PCI address: write domain, bus and device, as 0000:90:00"
            )
        functions = _number("num_of_vfs", self.num_of_vfs or environment.get("num_of_vfs", ""), FUNCTIONS)
        if functions < 1:
            raise ConfigError("num_of_vfs must be 1 or more: the bridge needs virtual function 0")
        mtu = _number("vf_mtu", self.vf_mtu or environment.get("vf_mtu", ""), MTU)
        if mtu and mtu not in MTU_LIMITS:
            raise ConfigError(f"vf_mtu {mtu} is not 0 nor between {MTU_LIMITS[0]} and {MTU_LIMITS[-1]}")
        return Wanted(slot, functions, mtu, self.bridge)


def main() -> int:
    """Entry point."""
    options = parse(Options, prog=NAME, description=str(__doc__))
    configure(options.log_level, options.log_format)
    try:
        asyncio.run(_run(options, options.wanted(os.environ)))
    except (ConfigError, GivenUp, OSError) as error:
        log.error("failed", error=str(error))
        last_words(options.termination_log, str(error))
        return 1
    return 0


async def _run(options: Options, wanted: Wanted) -> None:
    marker = Marker(options.marker, options.status_file)
    marker.clear()
    async with NetlinkNetwork() as network:
        host = HostNetwork(wanted, Sysfs(options.sysfs), network, marker)
        running = asyncio.create_task(host.run(options.interval, options.give_up_after))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, running.cancel)
        # Ends by a signal or an error, never by itself.
        await asyncio.wait([running])
        marker.clear()
        try:
            await host.leave()
        except (OSError, ValueError, NetworkError) as error:
            log.warning("not_detached", error=str(error))
        if not running.cancelled():
            running.result()
    log.info("stopped")


def _number(name: str, text: str, default: int) -> int:
    if not text.strip():
        return default
    if not re.fullmatch(r"\d{1,5}", text.strip()):
        raise ConfigError(f"{name} {text!r} is no whole number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
