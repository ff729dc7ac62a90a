"""Real control planes for the tests: one pair per run, shared by all workers; a namespace of its own for each test."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from dpf.runtime.client import Client
from dpf.runtime.errors import AlreadyExists, Forbidden
from dpf.runtime.k8s import Namespace
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import Object, ObjectMeta
from dpf.runtime.testing import RETRY
from dpf.sandbox import manifests
from dpf.sandbox.api import Api, Json
from dpf.sandbox.controlplane.planes import ControlPlanes
from dpf_api.kamaji import DataStore, DataStoreSpec, Driver
from test import kamaji

DATA_STORE = DataStoreSpec(driver=Driver.ETCD, endpoints=["etcd.kamaji-system.svc:2379"])


@dataclass(frozen=True)
class Planes:
    """Where the run's clusters are."""

    folder: Path

    @property
    def host(self) -> Path:
        """Kubeconfig of an administrator of the host cluster."""
        return self.folder / "host" / "admin.conf"

    @property
    def dpu(self) -> Path:
        """Kubeconfig of an administrator of the DPU cluster."""
        return self.folder / "dpu" / "admin.conf"

    def account(self, name: str, namespace: str) -> Path:
        """Kubeconfig of a ServiceAccount of the host cluster."""
        # By a certificate that names it as its token would.
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
        user = f"system:serviceaccount:{namespace}:{name}"
        plane = ControlPlanes(self.folder, self.folder).host
        return plane.user_kubeconfig(user, groups, file=f"account-{namespace}-{name}", namespace=namespace)


@pytest.fixture(scope="session")
def control_planes(tmp_path_factory: pytest.TempPathFactory) -> Planes:
    """Started by the first worker that asks; they end with the run, however it ends."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if worker else base) / "control-planes"
    owner = os.getppid() if worker else os.getpid()
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            _start(folder, owner)
            asyncio.run(_install_crds(Planes(folder).host))
            (folder / "ready").touch()
    return Planes(folder)


def _start(folder: Path, owner: int) -> None:
    command = [
        sys.executable,
        "-m",
        "dpf.sandbox.controlplane",
        "run",
        "--data-dir",
        str(folder),
        "--until-pid",
        str(owner),
        # Tests play kubelets that renew no lease.
        "--node-grace",
        "3600",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    lines = list(iter(process.stdout.readline, "ready\n")) if process.poll() is None else []
    assert process.poll() is None, f"the control planes did not start: {lines}"
    process.stdout.close()
    # It outlives this worker and ends with the whole run; nobody waits for it.
    process.returncode = 0


async def may_list(account: Path, *kinds: type[Object], namespace: str) -> None:
    """Returns once an account's rights count; the API server hears of a binding some moments after it was made.

    :raises TimeoutError: after half a minute.
    """

    def listing(kind: type[Object]) -> Callable[[Client], Awaitable[object]]:
        return lambda client: client.list(kind, namespace if kind.RESOURCE.namespaced else "")

    await may(account, *map(listing, kinds))


async def may(account: Path, *asked: Callable[[Client], Awaitable[object]]) -> None:
    """Returns once none of what is asked is forbidden to an account any more.

    :raises TimeoutError: after half a minute.
    """
    async with Client(Kubeconfig.load(account), field_owner="test") as client, asyncio.timeout(30):
        for ask in asked:
            while True:
                try:
                    await ask(client)
                    break
                except Forbidden:
                    await asyncio.sleep(RETRY)


async def _install_crds(kubeconfig: Path) -> None:
    async with Api(Kubeconfig.load(kubeconfig), user_agent="test") as api:
        await manifests.Applier(api).install_crds(crds())


def crds() -> list[Json]:
    """All that a host cluster of the tests knows: of Kamaji its own, not the small ones that sandboxes have."""
    crd = manifests.CONFIG / "crd"
    theirs = kamaji.crds()
    replaced = {each["metadata"]["name"] for each in theirs}
    external = [each for each in manifests.documents(crd / "external") if each["metadata"]["name"] not in replaced]
    return [*manifests.documents(crd), *external, *theirs, *manifests.documents(Path(__file__).parents[1])]


@pytest.fixture
async def host_client(control_planes: Planes) -> AsyncIterator[Client]:
    """An administrator of the host cluster."""
    async with Client(Kubeconfig.load(control_planes.host), field_owner="test") as client:
        yield client


@pytest.fixture
async def dpu_client(control_planes: Planes) -> AsyncIterator[Client]:
    """An administrator of the DPU cluster."""
    async with Client(Kubeconfig.load(control_planes.dpu), field_owner="test") as client:
        yield client


@pytest.fixture
async def namespace(host_client: Client) -> str:
    """A namespace of the host cluster that is this test's own."""
    created = await host_client.create(Namespace(metadata=ObjectMeta(name=f"test-{uuid.uuid4().hex[:10]}")))
    # Left for the control planes to take with them: deleting a hundred namespaces keeps them busy for minutes.
    return created.name


@pytest.fixture
async def data_store(host_client: Client) -> None:
    """The DataStore that Kamaji is installed with; all tests share it."""
    try:
        await host_client.create(DataStore(metadata=ObjectMeta(name="default"), spec=DATA_STORE))
    except AlreadyExists:
        return
