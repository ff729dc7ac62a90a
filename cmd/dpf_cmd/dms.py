"""dms: serves one card over gNMI and gNOI."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import uvloop

from dpf.dms.card import Card
from dpf.dms.devices import DEVICES, Place
from dpf.dms.driver import driven
from dpf.dms.metrics import DmsMetrics
from dpf.dms.rshim import RshimCard
from dpf.dms.server import Server, ServerConfig
from dpf.dms.simulated import SimulatedCard
from dpf.host.pci import Sysfs
from dpf.runtime.errors import ConfigError
from dpf.runtime.goflags import DEBUG_FROM
from dpf.runtime.http import Servers
from dpf.runtime.log import Format, Level, configure, get_logger
from dpf.runtime.options import Seconds, parse

log = get_logger(__name__)

CERTIFICATES = Path("/etc/ssl/certs/server")
SYSFS = Path("/sys")
EXEC_TIMEOUT = Seconds(900)
GO_FLAG = re.compile(r"--?([a-z][a-z_]+)(=.*)?", re.DOTALL)
"""A flag as Go programs take it: with one dash or two."""
PCI = re.compile(r"([0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}")


@dataclass(frozen=True)
class DmsdFlags:
    """What NVIDIA's ``dmsd`` has besides, so that a pod made for it runs this in its place."""

    auth: Annotated[Literal["cert"], "clients show a certificate; there is no other way"] = "cert"
    username: Annotated[str, "ignored: clients show a certificate"] = ""
    password: Annotated[str, "ignored: clients show a certificate"] = ""
    disable_unbind_at_activate: Annotated[bool, "ignored: the host's driver is never unbound"] = False
    reboot_status_check: Annotated[str, "ignored: a card is up when its console says so"] = ""
    v: Annotated[int, "verbosity; 4 and more is --log-level=debug"] = 0


@dataclass(frozen=True)
class Options:
    """The flags of ``dms``."""

    bind_address: Annotated[str, "HOST:PORT to serve gNMI and gNOI on"] = "0.0.0.0:9339"
    ca: Annotated[Path, "CA that client certificates must be signed by"] = CERTIFICATES / "ca.crt"
    tls_cert_file: Annotated[Path, "the server's certificate; read again when it changes"] = CERTIFICATES / "tls.crt"
    tls_key_file: Annotated[Path, "the key of that certificate"] = CERTIFICATES / "tls.key"
    image_folder: Annotated[Path, "folder of BFBs and bf.cfg files, shared with the manager"] = Path("/bfb")
    state_dir: Annotated[
        Path | None,
        "folder for what was asked of the card, so that a restarted dms goes on; in the image folder if not given",
    ] = None
    target_pci: Annotated[
        str, "PCI address of the card, for example 0000:04:00; where there is one domain it may be left out"
    ] = ""
    owner: Annotated[
        str, "uid of the DPU that it is for: a host reboot that an earlier DPU of the card asked for is not taken up"
    ] = ""
    card: Annotated[
        Literal["rshim", "simulated"], "a BlueField behind rshim, or one that a sandbox's fleet simulates"
    ] = "rshim"
    rshim_driver: Annotated[
        str, "program that drives the card as long as this runs, if no rshim does already; empty: none is started"
    ] = "rshim"
    rshim_device: Annotated[
        Path | None, "device folder of the card at --target-pci, for which no driver is started; else it is looked for"
    ] = None
    card_socket: Annotated[Path | None, "unix socket of the fleet, for a simulated card"] = None
    card_name: Annotated[str, "name of the simulated card"] = ""
    exec_timeout: Annotated[Seconds, "how long a card may take to install and boot; 0 is no limit"] = EXEC_TIMEOUT
    health_probe_bind_address: Annotated[str, "HOST:PORT of /healthz and /readyz; 0 turns it off"] = "0"
    metrics_bind_address: Annotated[
        str, "HOST:PORT of /metrics, by plain HTTP; 0 turns it off, as cards of one host need a port each"
    ] = "0"
    log_level: Annotated[Level, "least level that is logged"] = "info"
    log_format: Annotated[Format, "json, or console for a person"] = "json"
    dmsd: DmsdFlags = DmsdFlags()


def of_dmsd(words: Sequence[str]) -> list[str]:
    """The command line with flags as this program has them: ``-bind_address``, as Go's has it, is ``--bind-address``."""
    return [
        f"--{found[1].replace('_', '-')}{found[2] or ''}" if (found := GO_FLAG.fullmatch(word)) else word
        for word in words
    ]


def main() -> int:
    """Entry point."""
    options = parse(
        Options,
        of_dmsd(sys.argv[1:]),
        prog="dms",
        description="dms: serves one BlueField card over gNMI and gNOI with mutual TLS.",
    )
    configure("debug" if options.dmsd.v >= DEBUG_FROM else options.log_level, options.log_format)
    try:
        uvloop.run(_serve(options))
    except ConfigError as error:
        log.error("misconfigured", error=str(error))
        return 2
    return 0


async def _serve(options: Options) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # The folder may be shared by all hosts.
    name = options.card_name or f"{socket.gethostname()}-{options.target_pci.replace(':', '-')}"
    state_dir = options.state_dir or options.image_folder / ".dms"
    config = ServerConfig(
        address=options.bind_address,
        ca=options.ca,
        cert=options.tls_cert_file,
        key=options.tls_key_file,
        image_folder=options.image_folder,
        state_file=state_dir / f"{name}.json",
        exec_timeout=options.exec_timeout,
        owner=options.owner,
    )
    metrics = DmsMetrics()
    shown = Servers(health=options.health_probe_bind_address, metrics=options.metrics_bind_address, source=metrics)
    async with shown, _card(options, metrics) as card, Server(config, card, metrics):
        await stop.wait()
    log.info("stopped")


@asynccontextmanager
async def _card(options: Options, metrics: DmsMetrics) -> AsyncIterator[Card]:
    if options.card == "simulated":
        if options.card_socket is None or not options.card_name:
            raise ConfigError("a simulated card needs --card-socket and --card-name")
        async with SimulatedCard(options.card_socket, options.card_name, wrote=metrics.wrote) as card:
            yield card
    else:
        if not options.target_pci:
            raise ConfigError("give --target-pci DOMAIN:BUS:DEVICE (see lspci -D -d 15b3:)")
        if not PCI.fullmatch(options.target_pci):
            raise ConfigError(f"--target-pci {options.target_pci!r} is not DOMAIN:BUS:DEVICE, such as 0000:04:00")
        place = Place(options.target_pci, options.rshim_device, devices=DEVICES)
        async with driven(place, options.rshim_driver if options.rshim_device is None else "", Sysfs(SYSFS)):
            yield RshimCard(place, wrote=metrics.wrote)


if __name__ == "__main__":
    sys.exit(main())
