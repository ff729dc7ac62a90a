"""The managers as processes of the sandbox: their flags, each with its own ServiceAccount's kubeconfig."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import aiohttp

from dpf.sandbox.control import answers
from dpf.sandbox.controlplane.planes import free_ports
from dpf.sandbox.layout import NAMESPACE, Layout
from dpf.sandbox.objects import BFB_CLAIM
from dpf.sandbox.processes import Supervised
from dpf.sandbox.settings import Settings

PORTS = 3
"""Of a manager at most: health, metrics and webhooks."""
MANAGERS = ("provisioning-manager", "static-cluster-manager", "kamaji-cluster-manager")


def managers(layout: Layout, settings: Settings) -> list[Supervised]:
    """The managers of a sandbox but those that are left out."""
    ports = iter(free_ports([0] * PORTS * len(_MAKE)))
    return [make(layout, settings.log_level, ports) for name, make in _MAKE.items() if name not in settings.without]


def provisioning_manager(layout: Layout, log_level: str, ports: Iterator[int]) -> Supervised:
    """``provisioning-manager`` with the sandbox's images and shared folder."""
    flags = ["--namespace", NAMESPACE, "--all-dpuclusters", "--bfb-dir", str(layout.bfb_dir), "--bfb-pvc", BFB_CLAIM]
    flags += ["--dms-image", "dms", "--hostnetwork-image", "hostnetwork"]
    # On a loopback address it registers itself by URL, which the sandbox's API server reaches.
    flags += ["--webhook-bind-address", f"127.0.0.1:{next(ports)}"]
    return _manager(layout, "provisioning-manager", log_level, ports, flags)


def static_cluster_manager(layout: Layout, log_level: str, ports: Iterator[int]) -> Supervised:
    """``static-cluster-manager``, of all namespaces."""
    return _manager(layout, "static-cluster-manager", log_level, ports, [])


def kamaji_cluster_manager(layout: Layout, log_level: str, ports: Iterator[int]) -> Supervised:
    """``kamaji-cluster-manager``, of all namespaces."""
    return _manager(layout, "kamaji-cluster-manager", log_level, ports, [])


def _manager(layout: Layout, name: str, log_level: str, ports: Iterator[int], flags: list[str]) -> Supervised:
    health, metrics = next(ports), next(ports)
    command = [sys.executable, "-m", f"dpf_cmd.{name.replace('-', '_')}"]
    command += ["--kubeconfig", str(layout.kubeconfigs / f"{name}.conf"), "--leader-elect", "--log-level", log_level]
    command += ["--metrics-bind-address", f"127.0.0.1:{metrics}", "--health-probe-bind-address", f"127.0.0.1:{health}"]

    async def get() -> None:
        timeout = aiohttp.ClientTimeout(total=2.0)
        async with aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as http:
            await http.get(f"http://127.0.0.1:{health}/readyz")

    return Supervised(name, [*command, *flags], layout.logs / f"{name}.log", lambda: answers(get))


_MAKE = dict(zip(MANAGERS, (provisioning_manager, static_cluster_manager, kamaji_cluster_manager), strict=True))
