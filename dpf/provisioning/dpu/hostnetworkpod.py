"""The host network pod: makes the card's virtual functions on the host and ties one to the host's bridge."""

from __future__ import annotations

import re

from dpf.provisioning.dpu import podparts
from dpf.provisioning.settings import Settings
from dpf.runtime.errors import Waiting
from dpf.runtime.k8s import Container, Pod
from dpf_api import names
from dpf_api.dpu import DPU
from dpf_api.dpuflavor import DPUFlavor
from dpf_api.operatorconfig import DPFOperatorConfig

CONTAINER = "hostnetwork"
DEFAULT_VFS = 16
DONE = "/tmp/hostnetwork_succeed"  # noqa: S108 (a path in the container that the script is known by)
_VFS = re.compile(r"^NUM_OF_VFS=([0-9]{1,6})$")  # more digits: the flavor is refused before the card is flashed


def build(dpu: DPU, flavor: DPUFlavor | None, config: DPFOperatorConfig | None, settings: Settings) -> Pod:
    """The pod for a DPU. Without a DPFOperatorConfig its defaults hold.

    :raises Waiting: if the DPU does not say where its card is.
    """
    label = dpu.labels.get(names.LABEL_DPU_PCI_ADDRESS, "") or dpu.spec.pci_address.replace(":", "-")
    if not label:
        message = (
            f"the DPU has no label {names.LABEL_DPU_PCI_ADDRESS}; label it with the card's address, like 0000-04-00"
        )
        raise Waiting("PCIAddressMissing", message)
    env = {
        "device_pci_address": label.replace("-", ":"),
        "num_of_vfs": str(virtual_functions(flavor)),
        "vf_mtu": str((config or DPFOperatorConfig()).spec.networking.high_speed_mtu),
    }
    container = Container(
        name=CONTAINER,
        image=settings.hostnetwork_image,
        image_pull_policy="IfNotPresent",
        command=["/bin/bash", "-c", "--"],
        args=["hostnetwork.sh"],
        env=[{"name": name, "value": value} for name, value in env.items()],
        readiness_probe={"exec": {"command": ["ls", DONE]}, "periodSeconds": 5},
        security_context=podparts.PRIVILEGED,
        volume_mounts=[podparts.DEV_MOUNT],
    )
    name = names.hostnetwork_pod(dpu.name)
    return podparts.on_host(dpu, name, settings, containers=[container], volumes=[podparts.DEV])


def virtual_functions(flavor: DPUFlavor | None) -> int:
    """How many virtual functions the flavor's firmware settings ask for."""
    parameters = [word for part in (flavor.spec.nvconfig if flavor is not None else ()) for word in part.parameters]
    found = next((match for word in parameters if (match := _VFS.match(word))), None)
    return int(found[1]) if found is not None else DEFAULT_VFS
