"""What a sandbox has in its host cluster before anything happens: namespace, settings, the DPU cluster and the way to it."""

from __future__ import annotations

import base64

from dpf.sandbox.api import Json
from dpf.sandbox.layout import NAMESPACE

DPU_CLUSTER = "dpu-cluster-1"
KUBECONFIG_SECRET = f"{DPU_CLUSTER}-admin-kubeconfig"
BFB_CLAIM = "bfb-pvc"


def namespace() -> Json:
    """The namespace of the operator and its objects."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}


def operator_config() -> Json:
    """The settings that provisioning reads: the MTU of the high-speed network."""
    return {
        "apiVersion": "operator.dpu.nvidia.com/v1alpha1",
        "kind": "DPFOperatorConfig",
        "metadata": {"name": "dpfoperatorconfig", "namespace": NAMESPACE},
        "spec": {
            "provisioningController": {"bfbPVCName": BFB_CLAIM},
            "networking": {"highSpeedMTU": 1500, "controlPlaneMTU": 1500},
        },
    }


def dpu_cluster(kubeconfig: bytes, version: str) -> list[Json]:
    """A static DPUCluster and the Secret with its kubeconfig."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": KUBECONFIG_SECRET, "namespace": NAMESPACE},
            "type": "Opaque",
            "data": {"admin.conf": base64.b64encode(kubeconfig).decode()},
        },
        {
            "apiVersion": "provisioning.dpu.nvidia.com/v1alpha1",
            "kind": "DPUCluster",
            "metadata": {"name": DPU_CLUSTER, "namespace": NAMESPACE},
            "spec": {"type": "static", "maxNodes": 1000, "version": version, "kubeconfig": KUBECONFIG_SECRET},
        },
    ]
