"""Kamaji itself as a process, on an API server and an etcd of its own, and its pods played by processes of this machine."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import random
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import Field

from dpf.runtime.client import Client
from dpf.runtime.errors import ApiError
from dpf.runtime.k8s import Namespace, Secret, ServiceAccount
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import Object, ObjectMeta, Resource
from dpf.runtime.testing import RETRY, eventually
from dpf.sandbox import manifests
from dpf.sandbox.api import Api, Json
from dpf.sandbox.controlplane import binaries
from dpf.sandbox.controlplane.pki import Pki
from dpf.sandbox.controlplane.plane import LOOPBACK, ProcessSpec, command
from dpf.sandbox.controlplane.planes import ControlPlanes, free_ports
from dpf.sandbox.controlplane.running import START_TIMEOUT, finish, supervised
from dpf.sandbox.processes import Supervised
from dpf_api.kamaji import TenantControlPlane
from test import kamaji
from test.integration.conftest import crds

KAMAJI_NAMESPACE = "kamaji-system"
WEBHOOK_PORT = 9443
"""Kamaji serves its webhooks there; nothing changes that."""
NODE_PORTS = range(32001, 32768)
"""Node ports that no other process of the tests is given (:func:`free_ports`)."""


class Deployment(Object):
    """Pods of one kind, as Kamaji makes them."""

    RESOURCE: ClassVar[Resource] = Resource("apps", "v1", "deployments", "Deployment")

    spec: dict[str, Any] = Field(default_factory=dict)
    status: dict[str, Any] = Field(default_factory=dict)

    @property
    def containers(self) -> dict[str, dict[str, Any]]:
        """Containers of its pods, by name."""
        return {each["name"]: each for each in self.spec["template"]["spec"]["containers"]}


class ClusterRoleBinding(Object):
    """Who has which rights everywhere."""

    RESOURCE: ClassVar[Resource] = Resource(
        "rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False
    )


def free_node_port() -> int:
    """A node port that nobody on this machine listens at."""
    for port in random.sample(NODE_PORTS, len(NODE_PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no port of {NODE_PORTS} is free")


class RsaPki:
    """An authority and what it signed, as Kamaji takes them: RSA keys in PKCS #1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "etcd-ca")])
        self._key = self._new_key("ca")
        builder = self._builder(self._name, self._key)
        self._write("ca", builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True))

    def issue(self, file: str, name: str) -> None:
        """Makes a certificate for server and client of that name on this machine."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOOPBACK))])
        uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
        builder = self._builder(subject, self._new_key(file))
        self._write(file, builder.add_extension(here, critical=False).add_extension(uses, critical=False))

    def text(self, file: str) -> str:
        return (self.folder / file).read_text()

    def _new_key(self, file: str) -> rsa.RSAPrivateKey:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        form = serialization.PrivateFormat.TraditionalOpenSSL
        pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        (self.folder / f"{file}.key").write_bytes(pem)
        return key

    def _builder(self, subject: x509.Name, key: rsa.RSAPrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
        )

    def _write(self, file: str, builder: x509.CertificateBuilder) -> None:
        certificate = builder.sign(self._key, hashes.SHA256())
        (self.folder / f"{file}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


@dataclass
class Store:
    """The etcd that control planes keep their data in."""

    pki: RsaPki
    port: int
    peer_port: int

    @property
    def url(self) -> str:
        return f"https://{LOOPBACK}:{self.port}"

    def process(self, program: Path, data: Path, log: Path) -> ProcessSpec:
        keys, peer = self.pki.folder, f"http://{LOOPBACK}:{self.peer_port}"
        flags: dict[str, object] = {
            "data-dir": data,
            "unsafe-no-fsync": "true",
            "listen-client-urls": self.url,
            "advertise-client-urls": self.url,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "log-level": "warn",
            "trusted-ca-file": keys / "ca.crt",
            "client-cert-auth": "true",
            "cert-file": keys / "server.crt",
            "key-file": keys / "server.key",
        }
        client = (keys / "root.crt", keys / "root.key")
        return ProcessSpec("store", command(program, flags), log, f"{self.url}/health", keys / "ca.crt", client)

    def data_store(self) -> Json:
        """The DataStore of it, named as Kamaji's own installation and our manager name it."""

        def content(file: str) -> Json:
            return {"content": base64.b64encode(self.pki.text(file).encode()).decode()}

        tls = {
            "certificateAuthority": {"certificate": content("ca.crt"), "privateKey": content("ca.key")},
            "clientCertificate": {"certificate": content("root.crt"), "privateKey": content("root.key")},
        }
        return {
            "apiVersion": "kamaji.clastix.io/v1alpha1",
            "kind": "DataStore",
            "metadata": {"name": "default"},
            "spec": {"driver": "etcd", "endpoints": [f"{LOOPBACK}:{self.port}"], "tlsConfig": tls},
        }

    async def users(self) -> list[str]:
        """Who may use it: a user for each control plane."""
        found: list[str] = (await self._ask("auth/user/list", {})).get("users", [])
        return found

    async def keys(self, prefix: str) -> int:
        """How many keys begin with the prefix."""
        start = prefix.encode()
        end = start[:-1] + bytes([start[-1] + 1])
        body = {"key": base64.b64encode(start).decode(), "range_end": base64.b64encode(end).decode()}
        return int((await self._ask("kv/range", {**body, "count_only": True})).get("count", 0))

    async def _ask(self, what: str, body: Json) -> Json:
        context = ProcessSpec("", [], Path(), "", self.pki.folder / "ca.crt", self._client).ssl_context()
        async with (
            aiohttp.ClientSession(raise_for_status=True) as http,
            http.post(f"{self.url}/v3/{what}", json=body, ssl=context or True) as answer,
        ):
            found: Json = await answer.json(content_type=None)
            return found

    @property
    def _client(self) -> tuple[Path, Path]:
        return self.pki.folder / "root.crt", self.pki.folder / "root.key"


@dataclass
class RealKamaji:
    """A host cluster with Kamaji in it."""

    planes: ControlPlanes
    store: Store
    host: Client
    folder: Path

    def log_of(self, namespace: str) -> list[str]:
        """What Kamaji has logged of a namespace."""
        lines = (self.folder / "logs" / "kamaji.log").read_text().splitlines()
        return [line for line in lines if namespace in line]

    @asynccontextmanager
    async def pods(self, deployment: Deployment) -> AsyncIterator[Client]:
        """Plays Deployment controller and kubelet inside the block: API server and controller-manager of a control plane run as
        Kamaji's pod template says, but as one replica, in files of their own and with no scheduler.

        :returns: who may do anything in the cluster from its first moment on, by the Secret that Kamaji made.
        """
        folder = self.folder / deployment.uid
        volumes = await self._volumes(deployment, folder / "volumes")
        programs = binaries.ensure()
        logs = self.folder / "logs"

        def process(name: str, *more: str, ready: str = "") -> Supervised:
            container = deployment.containers[name]
            mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
            arguments = [_within(mounts, argument) for argument in container["args"]]
            ca = volumes["etc-kubernetes-pki"] / "ca.crt"
            line = [str(programs / container["command"][0]), *arguments, *more]
            spec = ProcessSpec(name, line, logs / f"{deployment.name}-{name}.log", ready, ca)
            made = supervised(spec)
            return made if ready else replace(made, probe=None)

        secret = await self.host.get(Secret, f"{deployment.name}-admin-kubeconfig", deployment.namespace)
        kubeconfig = Kubeconfig.parse(secret.text("admin.conf"))
        # A pod has a network of its own, where any port is free and its address is no loopback.
        server = process("kube-apiserver", "--endpoint-reconciler-type=none", ready=f"{kubeconfig.server}/readyz")
        manager = process("kube-controller-manager", "--secure-port=0")
        root = Kubeconfig.parse(secret.text("super-admin.conf"))
        async with _all_running(server, manager), Client(root, field_owner="test") as client:
            await eventually(client, ServiceAccount, "default", "default")
            await self.rolled_out(deployment)
            yield client

    async def rolled_out(self, deployment: Deployment) -> None:
        """Says that all pods run as the Deployment wants them by now; Kamaji may have changed it since it was seen."""
        deployment = await self.host.get(Deployment, deployment.name, deployment.namespace)
        wanted = deployment.spec["replicas"]
        counts = ("replicas", "readyReplicas", "updatedReplicas", "availableReplicas")
        status = {**dict.fromkeys(counts, wanted), "observedGeneration": deployment.metadata.generation}
        await self.host.merge_patch(deployment, {"status": status}, subresource="status")

    async def _volumes(self, deployment: Deployment, folder: Path) -> dict[str, Path]:
        """Writes the volumes of the pods; where each is."""
        found = {}
        for volume in deployment.spec["template"]["spec"]["volumes"]:
            where = found[volume["name"]] = folder / volume["name"]
            where.mkdir(parents=True, exist_ok=True)
            for source in volume["projected"]["sources"] if "projected" in volume else [volume]:
                projection = source["secret"]
                name = projection.get("name") or projection["secretName"]
                secret = await self.host.get(Secret, name, deployment.namespace)
                items = projection.get("items") or [{"key": key, "path": key} for key in secret.data]
                for item in items:
                    (where / item["path"]).parent.mkdir(parents=True, exist_ok=True)
                    (where / item["path"]).write_text(secret.text(item["key"]))
        return found


def _within(mounts: dict[str, Path], argument: str) -> str:
    """A flag with the paths that it has on this machine."""
    name, _, value = argument.partition("=")
    for path in sorted(mounts, key=len, reverse=True):
        if value.startswith(f"{path}/"):
            return f"{name}={mounts[path]}{value.removeprefix(path)}"
    return argument


@asynccontextmanager
async def _all_running(*processes: Supervised) -> AsyncIterator[None]:
    """Each needs the one before it, and ends before it."""
    async with AsyncExitStack() as stack:
        for process in processes:
            task = asyncio.create_task(process.run())
            stack.push_async_callback(_ended, task)
            await process.wait_ready(START_TIMEOUT)
        yield


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


@asynccontextmanager
async def real_kamaji(folder: Path) -> AsyncIterator[RealKamaji]:
    """Kamaji at work, its CRDs installed and its webhooks registered."""
    _require_port(WEBHOOK_PORT)
    program, programs = kamaji.program(), binaries.ensure()
    planes = ControlPlanes(folder / "planes", programs)
    planes.prepare()
    [etcd], [server, _], [manager, _] = planes.stages()
    pki = RsaPki(folder / "store-pki")
    pki.issue("server", "etcd")
    pki.issue("root", "root")
    store = Store(pki, *free_ports([0, 0]))
    logs = folder / "logs"
    processes = [store.process(programs / "etcd", folder / "store", logs / "store.log"), etcd, server, manager]
    kubeconfig = Kubeconfig.load(planes.host.admin_kubeconfig)
    serving = Pki(folder / "webhook-pki", "kamaji")
    serving.prepare([LOOPBACK])
    async with (
        _all_running(*(supervised(each) for each in processes)),
        Client(kubeconfig, field_owner="test") as host,
        Api(kubeconfig, user_agent="test") as api,
    ):
        await finish(planes.host)
        applier = manifests.Applier(api)
        await applier.install_crds(crds())
        await host.create(Namespace(metadata=ObjectMeta(name=KAMAJI_NAMESPACE)))
        await applier.apply([store.data_store()])
        (proxy,) = free_ports([0])
        process = _process(program, planes.host.admin_kubeconfig, serving, folder, proxy)
        async with _name_service(proxy), _all_running(process):
            await applier.apply(_webhooks(serving))
            await _in_force(host)
            yield RealKamaji(planes, store, host, folder)


async def _in_force(host: Client) -> None:
    """Returns when Kamaji is asked about control planes; the API server hears of a registration some moments after it was made.

    :raises AssertionError: if it is not after a minute, with what was said last.
    """
    kind, said = TenantControlPlane.RESOURCE, "it was taken"
    spec = {
        "dataStore": "default",
        "controlPlane": {"service": {"serviceType": "NodePort"}},
        "kubernetes": {"version": "v99.0.0", "kubelet": {}},
    }
    bad = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": "bad"}, "spec": spec}
    try:
        async with asyncio.timeout(60):
            while "greater than the supported one" not in said:
                try:
                    await host.request("POST", kind.path(KAMAJI_NAMESPACE), params={"dryRun": "All"}, body=bad)
                except ApiError as error:
                    said = error.message
                await asyncio.sleep(RETRY)
    except TimeoutError:
        raise AssertionError(f"Kamaji's webhooks are not in force: {said}") from None


@asynccontextmanager
async def _name_service(port: int) -> AsyncIterator[None]:
    """Plays the cluster's name service and network: a proxy that finds each Service at its port of this machine."""

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            name, _, number = head.split()[1].decode().partition(":")
            if not name.endswith(".svc"):
                raise OSError(f"{name} is no Service")
            there_reader, there_writer = await asyncio.open_connection(LOOPBACK, int(number))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_copy(reader, there_writer), _copy(there_reader, writer))
        except (OSError, asyncio.IncompleteReadError) as error:
            writer.write(f"HTTP/1.1 502 {error!r}\r\n\r\n".encode())
        finally:
            writer.close()

    async with await asyncio.start_server(connect, LOOPBACK, port):
        yield


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def _process(program: Path, kubeconfig: Path, serving: Pki, folder: Path, proxy: int) -> Supervised:
    temporary = folder / "tmp"
    certificates = temporary / "k8s-webhook-server" / "serving-certs"
    certificates.mkdir(parents=True)
    for source, target in (("apiserver.crt", "tls.crt"), ("apiserver.key", "tls.key"), ("ca.crt", "ca.crt")):
        shutil.copy(serving.folder / source, certificates / target)
    (health,) = free_ports([0])
    flags: dict[str, object] = {
        "datastore": "default",
        "leader-elect": "false",
        "metrics-bind-address": "0",
        "health-probe-bind-address": f"{LOOPBACK}:{health}",
        "tmp-directory": temporary / "kamaji",
        "pod-namespace": KAMAJI_NAMESPACE,
        "serviceaccount-name": "kamaji",
        "webhook-ca-path": certificates / "ca.crt",
        "zap-log-level": "info",
    }
    [name, *rest] = command(program, flags)
    line = [name, "manager", *rest, "--disable-telemetry"]
    log = folder / "logs" / "kamaji.log"
    made = supervised(ProcessSpec("kamaji", line, log, f"http://{LOOPBACK}:{health}/readyz"))
    # What is not on this machine goes through the proxy, which knows Services and nothing else.
    env = {"KUBECONFIG": str(kubeconfig), "TMPDIR": str(temporary), "HTTPS_PROXY": f"http://{LOOPBACK}:{proxy}"}
    return replace(made, env={**made.env, **env, "NO_PROXY": ""})


def _webhooks(serving: Pki) -> Iterator[Json]:
    """Kamaji's own registrations, of a server on this machine."""
    bundle = base64.b64encode(serving.ca.read_bytes()).decode()
    for configuration in kamaji.webhooks():
        hooks = [
            hook
            | {
                "clientConfig": {
                    "url": f"https://{LOOPBACK}:{WEBHOOK_PORT}{hook['clientConfig']['service']['path']}",
                    "caBundle": bundle,
                }
            }
            for hook in configuration["webhooks"]
        ]
        yield configuration | {"webhooks": hooks}


def _require_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise AssertionError(f"Kamaji serves its webhooks at port {port} and at no other, but: {error}") from None
