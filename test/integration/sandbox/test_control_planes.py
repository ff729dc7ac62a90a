"""The control planes themselves: brought up, joined, killed, brought up again."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import select
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dpf.runtime.client import Client
from dpf.runtime.errors import Forbidden
from dpf.runtime.k8s import (
    CertificateSigningRequest,
    CertificateSigningRequestSpec,
    ConfigMap,
    Namespace,
    Secret,
    ServiceAccount,
)
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import ObjectMeta
from dpf.runtime.testing import eventually, eventually_gone
from dpf.sandbox.controlplane import binaries
from dpf.sandbox.controlplane.bootstrap import TOKEN_GROUP
from dpf.sandbox.controlplane.planes import ControlPlanes
from dpf.sandbox.controlplane.running import running
from test.integration.conftest import Planes


def admin(kubeconfig: Path) -> Client:
    return Client(Kubeconfig.load(kubeconfig), field_owner="test")


@pytest.mark.timeout(300)
async def test_they_come_up_and_a_second_start_goes_on_with_what_was_there(tmp_path: Path) -> None:
    binaries.ensure()
    note = ConfigMap(metadata=ObjectMeta(name="note", namespace="default"), data={"kept": "yes"})
    first = ControlPlanes(tmp_path, binaries.ensure())
    async with running(first):
        for plane in (first.host, first.dpu):
            async with admin(plane.admin_kubeconfig) as client:
                assert (await client.get(ServiceAccount, "default", "default")).uid
                await client.create(note)
    async with running(second := ControlPlanes(tmp_path, binaries.ensure())):
        for plane in (second.host, second.dpu):
            async with admin(plane.admin_kubeconfig) as client:
                assert (await client.get(ConfigMap, "note", "default")).data == {"kept": "yes"}


@pytest.mark.timeout(300)
async def test_a_namespace_goes_with_what_is_in_it(host_client: Client) -> None:
    name = f"test-{secrets.token_hex(5)}"
    created = await host_client.create(Namespace(metadata=ObjectMeta(name=name)))
    await eventually(host_client, ServiceAccount, "default", name)
    await host_client.delete(created)
    # Its controller takes the namespaces of all tests one after the other.
    await eventually_gone(host_client, Namespace, name, timeout=180.0)


async def test_a_service_account_may_do_nothing_that_it_has_no_right_to(
    control_planes: Planes, host_client: Client, namespace: str
) -> None:
    async with admin(control_planes.account("nobody", namespace)) as client:
        with pytest.raises(Forbidden, match=f"system:serviceaccount:{namespace}:nobody"):
            await client.list(ConfigMap, namespace)
        role = {
            "metadata": {"name": "reader", "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "ServiceAccount", "name": "nobody", "namespace": namespace}],
        }
        path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings"
        await host_client.request("POST", path, body=role)
        async with asyncio.timeout(20):
            while True:  # the authorizer learns of the binding by a watch of its own; nothing tells when
                try:
                    await client.list(ConfigMap, namespace)
                except Forbidden:
                    continue
                break
        with pytest.raises(Forbidden):
            await client.list(Secret, namespace)


def signing_request(node: str) -> bytes:
    subject = [(NameOID.ORGANIZATION_NAME, "system:nodes"), (NameOID.COMMON_NAME, f"system:node:{node}")]
    name = x509.Name([x509.NameAttribute(*part) for part in subject])
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return base64.b64encode(request.public_bytes(serialization.Encoding.PEM))


async def test_a_node_with_a_bootstrap_token_finds_the_cluster_and_gets_its_certificate(
    control_planes: Planes, dpu_client: Client
) -> None:
    token_id, token_secret, node = secrets.token_hex(3), secrets.token_hex(8), f"dpu-{secrets.token_hex(4)}"
    fields = {
        "token-id": token_id,
        "token-secret": token_secret,
        "usage-bootstrap-authentication": "true",
        "usage-bootstrap-signing": "true",
        "auth-extra-groups": TOKEN_GROUP,
    }
    secret = {
        "metadata": {"name": f"bootstrap-token-{token_id}", "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": fields,
    }
    await dpu_client.request("POST", "/api/v1/namespaces/kube-system/secrets", body=secret)
    await eventually(
        dpu_client,
        ConfigMap,
        "cluster-info",
        "kube-public",
        until=lambda info: f"jws-kubeconfig-{token_id}" in info.data,
    )
    own = Kubeconfig.load(control_planes.dpu)
    nobody = f"{own.server}/api/v1/namespaces/kube-public/configmaps/cluster-info"
    async with aiohttp.ClientSession() as http, http.get(nobody, ssl=False) as response:
        found = json.loads((await response.json())["data"]["kubeconfig"])
    trusted = found["clusters"][0]["cluster"]["certificate-authority-data"]
    assert (found["clusters"][0]["name"], base64.b64decode(trusted)) == ("", own.ca)
    joining = Kubeconfig(server=own.server, ca=own.ca, token=f"{token_id}.{token_secret}")
    async with Client(joining, field_owner="test") as client:
        spec = CertificateSigningRequestSpec.model_validate(
            {
                "request": signing_request(node),
                "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
                "usages": ["digital signature", "client auth"],
            }
        )
        await client.create(CertificateSigningRequest(metadata=ObjectMeta(name=node), spec=spec))
        await eventually(
            client, CertificateSigningRequest, node, until=lambda request: bool(request.status.certificate)
        )


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_nothing_outlives_a_runner_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dpf.sandbox.controlplane", "run", "--data-dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as runner:
        assert runner.stdout is not None
        assert "ready\n" in iter(runner.stdout.readline, "")
        ends = [os.pidfd_open(child) for child in children(runner.pid)]
        assert len(ends) == 5
        runner.send_signal(signal.SIGKILL)
        for end in ends:
            assert select.select([end], [], [], 10.0)[0], "a process of the control planes outlived its runner"
            os.close(end)


def test_a_runner_ends_with_the_process_that_it_was_started_for(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as owner:
        command = [sys.executable, "-m", "dpf.sandbox.controlplane", "run", "--data-dir", str(tmp_path)]
        with subprocess.Popen([*command, "--until-pid", str(owner.pid)], stdout=subprocess.PIPE, text=True) as runner:
            assert runner.stdout is not None
            assert "ready\n" in iter(runner.stdout.readline, "")
            owner.kill()
            assert runner.wait(timeout=30) == 0
