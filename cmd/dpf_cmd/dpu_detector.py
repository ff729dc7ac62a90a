"""dpu-detector: writes what node feature discovery makes the labels of a host's cards from."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from dpf.detector.cards import Scanner
from dpf.detector.detector import INTERVAL, Detector
from dpf.host.netlink import NetlinkNetwork
from dpf.host.network import BRIDGE
from dpf.host.pci import Sysfs
from dpf.runtime.errors import ConfigError
from dpf.runtime.goflags import GlogFlags, Named
from dpf.runtime.log import Format, Level, configure, get_logger
from dpf.runtime.options import Seconds, parse

log = get_logger(__name__)

NAME = "dpu-detector"
SYSFS, FEATURES = Path("/host-sys"), Path("/etc/kubernetes/node-feature-discovery/features.d/dpu")
EVERY = Seconds(INTERVAL)


@dataclass(frozen=True)
class Options:
    """Its flags."""

    sysfs: Annotated[Path, "where the host's sysfs is mounted"] = SYSFS
    features_file: Annotated[Path, "file that node feature discovery reads"] = FEATURES
    interval: Annotated[Seconds, "time between scans; changes of the host's network are looked at as they happen"] = (
        EVERY
    )
    collector_psid: Annotated[
        bool, "find out each card's PSID too, from the RDMA driver or by flint", Named("--collector.PSID")
    ] = False
    bridge: Annotated[str, "bridge through which cards get their address"] = BRIDGE
    once: Annotated[bool, "scan once, print the features and end"] = False
    health_probe_bind_address: Annotated[str, "HOST:PORT of /healthz and /readyz; 0 turns it off"] = "0"
    log_level: Annotated[Level, "least level that is logged"] = "info"
    log_format: Annotated[Format, "json, or console for a person"] = "json"
    glog: GlogFlags = field(default_factory=GlogFlags)


def main() -> int:
    """Entry point."""
    options = parse(Options, prog=NAME, description=str(__doc__))
    configure(options.glog.level(options.log_level), options.log_format)
    try:
        return asyncio.run(_run(options))
    except (ConfigError, OSError) as error:
        log.error("failed", error=str(error))
        return 1


async def _run(options: Options) -> int:
    async with NetlinkNetwork() as network:
        scanner = Scanner(Sysfs(options.sysfs), psid=options.collector_psid)
        detector = Detector(scanner, network, options.features_file, bridge=options.bridge)
        if options.once:
            await detector.look()
            if options.features_file.exists():
                sys.stdout.write(options.features_file.read_text())
            return 0
        async with _health(options, detector):
            running = asyncio.create_task(detector.run(options.interval))
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, running.cancel)
            # Ends by a signal or an error, never by itself.
            await asyncio.wait([running])
            if not running.cancelled():
                running.result()
    log.info("stopped")
    return 0


@asynccontextmanager
async def _health(options: Options, detector: Detector) -> AsyncIterator[None]:
    """Serves health, if it is to be; without, the web server is not even loaded."""
    if options.health_probe_bind_address in {"", "0"}:
        yield
        return
    from dpf.runtime.http import Servers
    from dpf.runtime.metrics import Metrics

    servers = Servers(health=options.health_probe_bind_address, metrics="0", source=Metrics())
    servers.add_readiness("features", lambda: detector.looked)
    async with servers:
        yield


if __name__ == "__main__":
    sys.exit(main())
