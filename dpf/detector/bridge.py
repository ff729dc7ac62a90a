"""Whether the host's bridge is as cards need it: they get their address through it, and the host keeps its own default route."""

from __future__ import annotations

from dpf.host.network import Network

LEAST_METRIC = 3
"""A default route over the bridge with a lower metric would win over the host's own."""


async def problem(network: Network, name: str) -> str:
    """What is wrong with the bridge; empty if nothing is.

    :raises NetworkError: if the kernel does not tell.
    """
    bridge = await network.link(name)
    if bridge is None:
        return f"there is no bridge {name}: make it, with an address and a default route, before the node joins"
    if bridge.kind != "bridge":
        return f"{name} is no bridge but {bridge.kind or 'a network card'}"
    metrics = await network.default_metrics(bridge.index)
    if not metrics:
        return f"no default route goes over {name}: add one with a metric of {LEAST_METRIC} or more"
    if min(metrics) < LEAST_METRIC:
        return f"a default route over {name} has metric {min(metrics)}: raise it to {LEAST_METRIC} or more"
    return ""
