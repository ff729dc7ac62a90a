"""How a host is rebooted after its card was flashed: the DPU's and its Node's annotations decide, and the DPU's flavor.

A power cycle is required if the DPU's annotation ``host-power-cycle-required`` says so, or if ``hostPowerCycleRequired`` of the
flavor's firmware settings does; one is enough.

| power cycle required | annotation of the Node, default | values |
|---|---|---|
| yes | ``powercycle-command``, ``cycle`` | ``cycle``, ``reset``: by power; ``skip`` |
| no | ``reboot-command``, ``reset`` | ``reset``, ``cycle``: card and host are reset together; ``skip`` |

``skip`` leaves the host alone; the card reboots itself at the end of its first boot then.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dpf.runtime.k8s import Node
from dpf_api.dpu import DPU
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.names import (
    ANNOTATION_HOST_POWER_CYCLE_REQUIRED,
    ANNOTATION_POWERCYCLE_COMMAND,
    ANNOTATION_REBOOT_COMMAND,
    parse_bool,
)

WARM, COLD = "WARM", "COLD"


class Power(StrEnum):
    """What is done to the host's power, in ipmitool's words."""

    CYCLE = "cycle"
    RESET = "reset"


@dataclass(frozen=True)
class Policy:
    """How to reboot; ``power`` None means not at all."""

    method: str
    power: Power | None

    @property
    def skip(self) -> bool:
        return self.power is None


def policy(dpu: DPU, node: Node, flavor: DPUFlavor | None) -> Policy:
    """How this host is to be rebooted for this DPU.

    :raises ValueError: if the Node's annotation has no meaning; the message names it.
    """
    if power_cycle_required(dpu, flavor):
        method, annotation, default = COLD, ANNOTATION_POWERCYCLE_COMMAND, "cycle"
    else:
        method, annotation, default = WARM, ANNOTATION_REBOOT_COMMAND, "reset"
    command = node.annotations.get(annotation, default)
    if command == "skip":
        return Policy(method, None)
    try:
        return Policy(method, Power(command))
    except ValueError:
        message = f"annotation {annotation} of node {node.name} is {command!r}; write cycle, reset or skip"
        raise ValueError(message) from None


def resets_itself(dpu: DPU, node: Node, flavor: DPUFlavor | None, attempt: int) -> bool:
    """Whether the card reboots itself after an attempt to install it: what was so when that began, for its bf.cfg says so.

    :raises ValueError: if that is to be decided now and the Node's annotation has no meaning.
    """
    install = dpu.status.install
    if install is not None and install.attempt == attempt and install.resets_itself is not None:
        return install.resets_itself
    return policy(dpu, node, flavor).skip


def power_cycle_required(dpu: DPU, flavor: DPUFlavor | None) -> bool:
    """Whether DPU or flavor ask for a power cycle; an annotation that is no boolean counts as false."""
    if flavor is not None and any(each.host_power_cycle_required for each in flavor.spec.nvconfig):
        return True
    try:
        return parse_bool(dpu.annotations.get(ANNOTATION_HOST_POWER_CYCLE_REQUIRED, "false"))
    except ValueError:
        return False


def request_id(dpu: DPU) -> str:
    """Of the reboot that follows the DPU's installation: another boot id makes it another request."""
    return f"{dpu.uid}/{dpu.status.install.boot_id if dpu.status.install is not None else ''}"


def authorised(dpu: DPU) -> bool:
    """Whether the host may be rebooted without asking: either the drain or the DPU itself allows it. To forbid it, both must."""
    drain = dpu.spec.node_effect.drain
    return dpu.spec.automatic_node_reboot or (drain is not None and drain.automatic_node_reboot)
