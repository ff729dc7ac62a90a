"""The managers as processes of the sandbox: their flags, each with its own ServiceAccount's kubeconfig."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields

import aiohttp

from dpf.sandbox.control import answers
from dpf.sandbox.controlplane.planes import free_ports
from dpf.sandbox.layout import NAMESPACE, Layout
from dpf.sandbox.objects import BFB_CLAIM
from dpf.sandbox.processes import Supervised
from dpf.sandbox.settings import Settings

MANAGERS = ("provisioning-manager", "static-cluster-manager", "kamaji-cluster-manager")


@dataclass(frozen=True)
class Ports:
    """The ports of a manager on a loopback address."""

    health: int
    metrics: int
    webhooks: int


def managers(layout: Layout, settings: Settings) -> list[Supervised]:
    """The managers of a sandbox but those that are left out."""
    each = len(fields(Ports))
    found = free_ports([0] * each * len(MANAGERS))
    ports = {name: Ports(*found[each * i : each * (i + 1)]) for i, name in enumerate(MANAGERS)}
    return [_manager(layout, settings, name, ports[name]) for name in MANAGERS if name not in settings.without]


def _manager(layout: Layout, settings: Settings, name: str, ports: Ports) -> Supervised:
    flags = {
        "--kubeconfig": str(layout.kubeconfigs / f"{name}.conf"),
        "--log-level": settings.log_level,
        "--metrics-bind-address": f"127.0.0.1:{ports.metrics}",
        "--health-probe-bind-address": f"127.0.0.1:{ports.health}",
    }
    command = [sys.executable, "-m", f"dpf_cmd.{name.replace('-', '_')}", "--leader-elect"]
    command += [word for flag in flags.items() for word in flag]
    if name == "provisioning-manager":
        command += _of_provisioning(layout, ports)

    async def get() -> None:
        timeout = aiohttp.ClientTimeout(total=2.0)
        async with aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as http:
            await http.get(f"http://127.0.0.1:{ports.health}/readyz")

    return Supervised(name, command, layout.logs / f"{name}.log", lambda: answers(get))


def _of_provisioning(layout: Layout, ports: Ports) -> list[str]:
    """The flags that it alone has: the sandbox's images and shared folder. The others have none, and are of all namespaces."""
    flags = ["--namespace", NAMESPACE, "--all-dpuclusters", "--bfb-dir", str(layout.bfb_dir), "--bfb-pvc", BFB_CLAIM]
    flags += ["--dms-image", "dms", "--hostnetwork-image", "hostnetwork"]
    # On a loopback address it registers itself by URL, which the sandbox's API server reaches.
    return [*flags, "--webhook-bind-address", f"127.0.0.1:{ports.webhooks}"]
