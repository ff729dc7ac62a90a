"""The server: the services of one card over mutual TLS.

What it guarantees:

* Only a client whose certificate the CA signed gets in. Certificates are read again when their files change: new connections
  get the new ones, those that are open stay.
* Killed at any line and started again it goes on: see :mod:`dpf.dms.activation` and :mod:`dpf.dms.hostreboot`.
* It holds no global state, and a thread only while the volume works for it, so a process may run hundreds.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from gnmi_pb import gnmi_pb2_grpc

from dpf.dms.activation import Activator
from dpf.dms.card import Card
from dpf.dms.gnmi import Gnmi
from dpf.dms.hostreboot import HostReboots
from dpf.dms.images import Images
from dpf.dms.metrics import CountCalls, DmsMetrics
from dpf.dms.services import Os, System
from dpf.dms.state import Store
from dpf.gnxi.gen import gnoi_os_pb2_grpc, gnoi_system_pb2_grpc
from dpf.runtime.certs import expires
from dpf.runtime.errors import ConfigError
from dpf.runtime.log import get_logger

log = get_logger(__name__)

GRACE = 1.0
"""Seconds that calls may finish after the server was told to end; a client that loses one asks again."""
READS = 5
"""How often certificates are read that change while they are."""


@dataclass(frozen=True)
class ServerConfig:
    """What one server is started with.

    :param address: ``HOST:PORT`` to listen on.
    :param state_file: where it remembers what it was asked to do.
    :param exec_timeout: seconds that the card may take for an activation; 0 is no limit.
    :param owner: uid of the DPU that it is started for; empty if it is for none.
    """

    address: str
    ca: Path
    cert: Path
    key: Path
    image_folder: Path
    state_file: Path
    exec_timeout: float = 900.0
    owner: str = ""


class Server:
    """Serves one card. Use as an async context manager."""

    def __init__(self, config: ServerConfig, card: Card, metrics: DmsMetrics | None = None) -> None:
        self._config = config
        metrics = metrics or DmsMetrics()
        store = Store(config.state_file)
        self._images = Images(config.image_folder, config.state_file.stem)
        self._activator = Activator(card, self._images, store, timeout=config.exec_timeout or None, metrics=metrics)
        self._reboots = HostReboots(card, store, metrics, config.owner)
        self._server = grpc.aio.server(
            interceptors=[CountCalls(metrics)],
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 1 << 20)],
        )
        gnmi_pb2_grpc.add_gNMIServicer_to_server(Gnmi(card), self._server)
        gnoi_os_pb2_grpc.add_OSServicer_to_server(Os(self._images, self._activator), self._server)  # type: ignore[no-untyped-call]
        system = System(self._activator, self._reboots)
        gnoi_system_pb2_grpc.add_SystemServicer_to_server(system, self._server)  # type: ignore[no-untyped-call]
        self._credentials = _Credentials(config)
        metrics.certificate_ends = self._credentials.end

    async def __aenter__(self) -> Server:
        """Goes on with what was begun, then listens.

        :raises ConfigError: if a certificate cannot be read or the address is taken.
        """
        credentials = self._credentials.dynamic()
        try:
            self._server.add_secure_port(self._config.address, credentials)
        except RuntimeError as error:
            raise ConfigError(f"cannot listen on {self._config.address}: is another dms running there?") from error
        try:
            await self._images.tidy()
            await self._activator.resume()
            await self._reboots.resume()
            await self._server.start()
        except BaseException:
            # One that has an address and was never started keeps it as long as the process lives.
            with suppress(Exception):
                await self._server.start()
            with suppress(Exception):
                await self._server.stop(0.0)
            await self._close()
            raise
        log.info("serving", address=self._config.address)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop(GRACE)
        await self._close()

    async def _close(self) -> None:
        await self._activator.close()
        await self._reboots.close()


class _Credentials:
    """TLS credentials that follow their files."""

    def __init__(self, config: ServerConfig) -> None:
        self._files = (config.key, config.cert, config.ca)
        self._loaded: tuple[tuple[int, int], ...] = ()

    def dynamic(self) -> grpc.ServerCredentials:
        """Credentials that are looked at anew for each connection."""
        configuration = self._read()
        if configuration is None:
            raise ConfigError(
                f"cannot read {', '.join(map(str, self._files))}: give --ca, --tls-cert-file, --tls-key-file"
            )
        # The stub does not know that None means "as before".
        fetch: Any = self._fetch
        return grpc.dynamic_ssl_server_credentials(configuration, fetch, require_client_authentication=True)

    def end(self) -> float | None:
        """When the certificate ends that a new connection gets, seconds since 1970; None if it can't be read."""
        try:
            return expires(self._files[1].read_bytes()).timestamp()
        except (OSError, ValueError):
            return None

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC for each connection; None means nothing has changed."""
        try:
            if self._stamps() == self._loaded:
                return None
        except OSError:
            return None
        log.info("certificates_read")
        return self._read()

    def _read(self) -> grpc.ServerCertificateConfiguration | None:
        for _ in range(READS):
            try:
                loaded = self._stamps()
                key, cert, ca = (path.read_bytes() for path in self._files)
                if self._stamps() != loaded:
                    # Replaced meanwhile: it may be the key of one and the certificate of the other.
                    continue
            except OSError:
                return None
            self._loaded = loaded
            return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=ca)
        return None

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        return tuple((stat.st_mtime_ns, stat.st_ino) for stat in map(Path.stat, self._files))
