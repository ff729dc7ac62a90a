"""Nothing secret leaves the Secrets: not in a log, an event, a metric, or a file that others can read."""

from __future__ import annotations

import base64
import stat

from dpf.runtime.k8s import Secret
from dpf.sandbox.layout import NAMESPACE
from dpf.sandbox.managers import MANAGERS
from dpf_api.dpu import Phase
from test.e2e.conftest import Box

PUBLIC = {"ca.crt", "tls.crt", "namespace", "description", "expiration", "auth-extra-groups", "token-id"}
SHORTEST = 12


def values(secret: Secret) -> set[bytes]:
    """What must be nowhere else: the values, and what stands in them of keys and tokens."""
    found: set[bytes] = set()
    for name, encoded in secret.data.items():
        value = base64.b64decode(encoded)
        if name in PUBLIC or name.startswith("usage-"):
            continue
        # Keys and kubeconfigs are looked for line by line: a log would quote a part of them.
        lines = [line.split(b": ")[-1].strip() for line in value.splitlines() if b"-----" not in line]
        secretive = [line for line in lines if len(line) >= 40] if len(lines) > 1 else lines
        found.update(line for line in secretive if len(line) >= SHORTEST)
    return found


async def test_no_log_event_metric_or_open_file_has_a_secret_of_the_run(box: Box, host: str) -> None:
    dpu = await box.provision(host)
    secrets: set[bytes] = set()
    # The join token is there from the beginning of the installation until the card has joined.
    for phase in (Phase.OS_INSTALLING, Phase.READY):
        await box.in_phase(dpu, phase)
        for client, namespace in ((box.client, NAMESPACE), (box.dpu_client, "kube-system")):
            for secret in await client.list(Secret, namespace):
                secrets |= values(secret)
    assert len(secrets) > 5
    events = [await client.request("GET", "/apis/events.k8s.io/v1/events") for client in (box.client, box.dpu_client)]
    dpus = await box.client.request("GET", f"/apis/provisioning.dpu.nvidia.com/v1alpha1/namespaces/{NAMESPACE}/dpus")
    logs = {path: path.read_bytes() for path in box.layout.logs.rglob("*.log")}
    assert {f"{name}.log" for name in MANAGERS} <= {path.name for path in logs}
    for value in secrets:
        assert [str(path) for path, text in logs.items() if value in text] == []
        assert not any(value in text for text in (*events, dpus))


async def test_files_with_secrets_are_the_owners_alone(box: Box, host: str) -> None:
    dpu = await box.provision(host)
    await box.ready(dpu)
    assert not (box.layout.bfb_dir / f"{dpu}.cfg").exists(), "a bf.cfg goes when the card has it"
    open_files = []
    for path in box.layout.data_dir.rglob("*"):
        if not path.is_file() or path.is_symlink() or path.suffix in {".log", ".bfb"}:
            continue
        content = path.read_bytes()
        secret = b"PRIVATE KEY" in content or b"kubeadm join" in content or b"client-key-data" in content
        if secret and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            open_files.append(str(path))
    assert open_files == []
