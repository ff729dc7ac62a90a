"""The host network pod: makes the card's virtual functions on the host and ties one to the host's bridge."""

from __future__ import annotations

import re

from dpf.provisioning.dpu import podparts
from dpf.provisioning.settings import Settings
from dpf.runtime.k8s import Container, Pod
from dpf_api import names
from dpf_api.dpu import DPU
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.operatorconfig import DPFOperatorConfig

CONTAINER = "hostnetwork"
DEFAULT_VFS = 16
MTU = "vf_mtu"
DONE, STATUS = "/tmp/hostnetwork_succeed", "/tmp/hostnetwork_status"  # noqa: S108 (the container's own; the program's defaults)
READY = ["/bin/sh", "-c", f"cat {STATUS}; ls {DONE}"]
"""What the program says of itself stands in the probe's event on the pod."""
_VFS = re.compile(r"^NUM_OF_VFS=([0-9]{1,6})$")  # more digits: the flavor is refused before the card is flashed


def build(dpu: DPU, flavor: DPUFlavor | None, config: DPFOperatorConfig | None, settings: Settings) -> Pod:
    """The pod for a DPU. Without a DPFOperatorConfig its defaults hold.

    :raises Waiting: if the DPU does not say where its card is.
    """
    env = {
        "device_pci_address": podparts.pci_label(dpu).replace("-", ":"),
        "num_of_vfs": str(virtual_functions(flavor)),
        MTU: str(mtu(config)),
    }
    container = Container(
        name=CONTAINER,
        image=settings.hostnetwork_image,
        image_pull_policy="IfNotPresent",
        command=["hostnetwork"],
        env=[{"name": name, "value": value} for name, value in env.items()],
        readiness_probe={"exec": {"command": READY}, "periodSeconds": 5},
        # Its sysfs is the host's and may be written, as the host's network may.
        security_context=podparts.PRIVILEGED,
    )
    name = names.hostnetwork_pod(dpu.name)
    return podparts.on_host(dpu, name, settings, containers=[container], volumes=[])


def mtu(config: DPFOperatorConfig | None) -> int:
    """The MTU of the host's virtual functions, bytes."""
    return (config or DPFOperatorConfig()).spec.networking.high_speed_mtu


def mtu_of(pod: Pod) -> int | None:
    """The MTU that a pod was made with; None if it does not say one."""
    values = [
        variable.get("value", "") for c in pod.spec.containers for variable in c.env if variable.get("name") == MTU
    ]
    return int(values[0]) if values and values[0].isdecimal() else None


def virtual_functions(flavor: DPUFlavor | None) -> int:
    """How many virtual functions the flavor's firmware settings ask for."""
    parameters = [word for part in (flavor.spec.nvconfig if flavor is not None else ()) for word in part.parameters]
    found = next((match for word in parameters if (match := _VFS.match(word))), None)
    return int(found[1]) if found is not None else DEFAULT_VFS
