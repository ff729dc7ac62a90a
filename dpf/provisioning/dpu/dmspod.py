"""The DMS pod: the server on the host through which the card is flashed and rebooted."""

from __future__ import annotations

from dpf.provisioning.dpu import podparts
from dpf.provisioning.settings import Settings
from dpf.runtime.k8s import Container, ContainerPort, Node, Pod
from dpf_api import names
from dpf_api.dpu import DPU

CONTAINER = "dms"
CERTIFICATES = "/etc/ssl/certs/server"
IMAGES = "/bfb"
STATE = "/var/lib/dms"
"""On the host, so that a new pod knows what the card was asked for by the one before."""

METRICS = "dms-metrics"
"""Name of a port: the pods have no labels to be found by."""

LOCAL = "127.0.0.1"
"""Where the host's kubelet looks for the server, which is in the host's network: whatever becomes of the host's address."""

PREFLIGHT_CONTAINER = "rshim-preflight"
PREFLIGHT = """
for dev in /dev/rshim*; do
  [ -e "$dev/misc" ] || continue
  echo "DISPLAY_LEVEL 1" > "$dev/misc"
  # It says pcie-0000:04:00.2; a driver may leave the domain out.
  if grep -Eqi "(^|[^0-9a-f:])($PCI_DOMAIN:)?$PCI_ADDRESS\\." "$dev/misc"; then
    echo "rshim of the host holds card $PCI_DOMAIN:$PCI_ADDRESS: remove the rshim package from the host" > /dev/termination-log
    exit 1
  fi
done
"""
"""Fails while the host's rshim drives the card: two drivers on one device write over each other, and ``dms`` starts one."""

GRACE = """
card="$PCI_DOMAIN:$PCI_ADDRESS"
for device in "$card.0" "$card.1" /sys/bus/pci/devices/"$card".[01]/virtfn*; do
  if [ -L "$device" ]; then device=$(basename "$(readlink "$device")"); fi
  [ -e "/sys/bus/pci/devices/$device" ] || continue
  devlink health set "pci/$device" reporter fw_fatal grace_period 0
  devlink health recover "pci/$device" reporter fw_fatal
done
"""
"""The host's driver would stop recovering the firmware of a card that is reset twice in a short time."""


def build(dpu: DPU, settings: Settings, port: int = names.DMS_PORT) -> Pod:
    """The pod for a DPU.

    :param port: of the server on the host; cards of one host have one each.
    :raises Waiting: if the DPU does not say where its card is.
    """
    address, domain = pci_address(dpu), pci_domain(dpu)
    pci = [{"name": "PCI_ADDRESS", "value": address}, {"name": "PCI_DOMAIN", "value": domain}]
    return podparts.on_host(
        dpu,
        names.dms_pod(dpu.name),
        settings,
        init_containers=[
            _init(PREFLIGHT_CONTAINER, PREFLIGHT, settings, pci),
            _init("devlink-grace-period", GRACE, settings, pci),
        ],
        containers=[
            Container(
                name=CONTAINER,
                image=settings.dms_image,
                image_pull_policy="IfNotPresent",
                command=["dms"],
                args=arguments(dpu, f"{domain}:{address}", settings, port),
                ports=_ports(settings, port),
                readiness_probe={"tcpSocket": {"host": LOCAL, "port": port}, "periodSeconds": 5},
                security_context=podparts.PRIVILEGED,
                volume_mounts=[
                    {"name": "server-volume", "mountPath": CERTIFICATES, "readOnly": True},
                    {"name": "bfb", "mountPath": IMAGES},
                    {"name": "state", "mountPath": STATE},
                    podparts.DEV_MOUNT,
                ],
            )
        ],
        volumes=[
            {"name": "server-volume", "secret": {"secretName": names.dms_secret(dpu.name)}},
            {"name": "bfb", "persistentVolumeClaim": {"claimName": settings.bfb_pvc}},
            {"name": "state", "hostPath": {"path": STATE, "type": "DirectoryOrCreate"}},
            podparts.DEV,
        ],
    )


def arguments(dpu: DPU, address: str, settings: Settings, port: int) -> list[str]:
    """The flags of ``dms``."""
    flags = {
        "--bind-address": f"0.0.0.0:{port}",
        "--ca": f"{CERTIFICATES}/ca.crt",
        "--tls-cert-file": f"{CERTIFICATES}/tls.crt",
        "--tls-key-file": f"{CERTIFICATES}/tls.key",
        "--image-folder": IMAGES,
        "--state-dir": STATE,
        "--target-pci": address,
        "--owner": dpu.uid,
        "--exec-timeout": str(settings.dms_timeout),
    }
    if metrics := metrics_port(settings, port):
        flags["--metrics-bind-address"] = f":{metrics}"
    return [word for flag, value in flags.items() for word in (flag, value)]


def metrics_port(settings: Settings, port: int) -> int:
    """Port of a server's metrics on its host, where each card needs its own; 0 if they are not wanted.

    :param port: of the server itself.
    """
    return settings.dms_metrics_port and settings.dms_metrics_port + port - names.DMS_PORT


def _ports(settings: Settings, port: int) -> list[ContainerPort]:
    """The server's port, and then that of its metrics if there is one."""
    metrics = metrics_port(settings, port)
    more = [ContainerPort(name=METRICS, container_port=metrics)] if metrics else []
    return [ContainerPort(container_port=port), *more]


def pci_address(dpu: DPU) -> str:
    """The card's PCI address without its domain, such as ``04:00``.

    :raises Waiting: if the DPU does not say it.
    """
    return podparts.pci_label(dpu).partition("-")[2].replace("-", ":")


def pci_domain(dpu: DPU) -> str:
    """The PCI domain of the card, such as ``0000``: a big host has several.

    :raises Waiting: if the DPU does not say it.
    """
    return podparts.pci_label(dpu).partition("-")[0]


def address_of(pod: Pod, node: Node | None) -> str:
    """``HOST:PORT`` of a DMS pod on its host; empty while it has no address."""
    container = next((c for c in pod.spec.containers if c.name == CONTAINER), None)
    ip = (podparts.host_address(node) if node is not None else "") or pod.status.pod_ip
    if not pod.ready or not ip or container is None or not container.ports:
        return ""
    return f"[{ip}]:{container.ports[0].container_port}" if ":" in ip else f"{ip}:{container.ports[0].container_port}"


def _init(name: str, script: str, settings: Settings, env: list[dict[str, str]]) -> Container:
    return Container(
        name=name,
        image=settings.dms_image,
        image_pull_policy="IfNotPresent",
        command=["/bin/bash", "-c", script],
        env=env,
        security_context=podparts.PRIVILEGED,
    )
