"""Nothing secret leaves the Secrets: not in a log, an event, a metric, or a file that others can read."""

from __future__ import annotations

import base64
import copy
import os
import stat
from contextlib import suppress
from pathlib import Path

import orjson

from dpf.ctl.samples import samples
from dpf.runtime.k8s import Secret
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.testing import eventually
from dpf.sandbox.api import Api
from dpf.sandbox.layout import NAMESPACE
from dpf.sandbox.managers import MANAGERS
from dpf.sandbox.manifests import Applier
from dpf_api.bfb import BFB
from dpf_api.bfb import Phase as BFBPhase
from dpf_api.dpu import Phase
from test.e2e.conftest import Box

PUBLIC = {"ca.crt", "tls.crt", "namespace", "description", "expiration", "auth-extra-groups", "token-id"}
SHORTEST = 12
PASSWORD, WITH_PASSWORD = "oNly-the-User-kn0ws", "with-password"


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


async def apply_with_passwords(box: Box) -> None:
    """A BFB and a DPUFlavor with a user's secrets in them, and a BFB that fails over one."""
    bfb, flavor, _ = copy.deepcopy(samples(box.settings))
    for obj in (bfb, flavor):
        obj["metadata"]["name"] = WITH_PASSWORD
    bfb["spec"] |= {
        "url": bfb["spec"]["url"].replace("http://", f"http://user:{PASSWORD}@"),
        "fileName": f"{WITH_PASSWORD}.bfb",
    }
    failing = copy.deepcopy(bfb)
    failing["metadata"]["name"] = "not-there"
    failing["spec"] = {"url": f"{bfb['spec']['url']}.gz?token={PASSWORD}&as=.bfb", "fileName": "not-there.bfb"}
    flavor["spec"]["bfcfgParameters"].append(f"ubuntu_PASSWORD='{PASSWORD}'")
    flavor["spec"]["configFiles"].append({"path": "/etc/password", "raw": PASSWORD, "permissions": "0600"})
    async with Api(Kubeconfig.load(box.layout.host_kubeconfig), user_agent="test") as api:
        await Applier(api).apply([bfb, failing, flavor])


async def test_no_log_event_metric_or_status_has_a_secret_of_the_run(box: Box, host: str) -> None:
    """The managers log at level debug here, and what other tests of this sandbox made go wrong is in the logs too."""
    await apply_with_passwords(box)
    dpu = await box.provision(host, bfb={"name": WITH_PASSWORD}, dpuFlavor=WITH_PASSWORD)
    secrets = {PASSWORD.encode(), base64.b64encode(PASSWORD.encode())}
    # The join token is there from the beginning of the installation until the card has joined.
    for phase in (Phase.OS_INSTALLING, Phase.READY):
        await box.in_phase(dpu, phase)
        for client, namespace in ((box.client, NAMESPACE), (box.dpu_client, "kube-system")):
            for secret in await client.list(Secret, namespace):
                secrets |= values(secret)
    assert len(secrets) > 7
    await eventually(box.client, BFB, "not-there", NAMESPACE, until=lambda bfb: bfb.status.phase is BFBPhase.ERROR)
    said = [await client.request("GET", "/apis/events.k8s.io/v1/events") for client in (box.client, box.dpu_client)]
    for plural in ("bfbs", "dpus", "dpusets", "dpuclusters"):
        path = f"/apis/provisioning.dpu.nvidia.com/v1alpha1/namespaces/{NAMESPACE}/{plural}"
        items = orjson.loads(await box.client.request("GET", path))["items"]
        said += [orjson.dumps(item.get("status")) for item in items]
    said += [(await box.metrics(manager)).encode() for manager in MANAGERS]
    logs = {path: path.read_bytes() for path in box.layout.logs.rglob("*.log")}
    assert {f"{name}.log" for name in MANAGERS} <= {path.name for path in logs}
    assert b'"level":"debug"' in logs[box.layout.logs / "provisioning-manager.log"]
    for value in secrets:
        assert [str(path) for path, text in logs.items() if value in text] == []
        assert not any(value in text for text in said)


async def test_files_with_secrets_are_the_owners_alone(box: Box, host: str) -> None:
    dpu = await box.provision(host)
    await box.ready(dpu)
    assert not (box.layout.bfb_dir / f"{dpu}.cfg").exists(), "a bf.cfg goes when the card has it"
    looked_at, open_files = 0, []
    for folder, _, files in os.walk(box.layout.data_dir):
        for path in (Path(folder, file) for file in files):
            if not path.is_file() or path.is_symlink() or path.suffix in {".log", ".bfb"}:
                continue
            # Whoever is at work there writes another file and puts it in the place of the first.
            with suppress(FileNotFoundError):
                content, mode = path.read_bytes(), path.stat().st_mode
                looked_at += 1
                secret = b"PRIVATE KEY" in content or b"kubeadm join" in content or b"client-key-data" in content
                if secret and mode & (stat.S_IRWXG | stat.S_IRWXO):
                    open_files.append(str(path))
    assert looked_at > 0
    assert open_files == []
